//! Whether an attempt that ended badly is followed by another, and when
//! (`waypoint-contract` 2.6, 3.3, 5.1, 5.2).
//!
//! Left out on purpose: budgets and breakers (`upstream`), and whether the body
//! can still be replayed: the caller says so by not asking.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use rand::{Rng, RngExt};

use crate::matching::HeaderMatch;
use crate::model::Rule;
use crate::response::Verdict;

/// A retry policy.
#[derive(Debug, Clone, Default)]
pub struct Retry {
    /// Attempts after the first.
    pub attempts: u32,
    /// Bound of each attempt.
    pub per_try_timeout: Option<Duration>,
    /// What is retried.
    pub on: RetryOn,
    /// Statuses that are retried.
    pub status_codes: Vec<u16>,
    /// Base of the backoff.
    pub backoff_base: Duration,
    /// Its bound.
    pub backoff_max: Duration,
    /// Attempts go to hosts that haven't failed this request.
    pub avoid_previous_hosts: bool,
    /// And to other localities.
    pub remote_localities: bool,
    /// A per-try timeout is retried whatever `on` says (Gateway API).
    pub on_per_try_timeout: bool,
    /// Responses are judged by the rule's classes (ServiceProfile).
    pub on_classified_failure: bool,
    /// Bytes of a body that are kept for replay.
    pub body_limit: usize,
    /// The last attempt has no bound of its own (Linkerd).
    pub last_try_untimed: bool,
}

/// The `retryOn` tokens of 5.2.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set of independent tokens, named as in the contract"
)]
pub struct RetryOn {
    /// `5xx`.
    pub status_5xx: bool,
    /// `gateway-error`.
    pub gateway_error: bool,
    /// `reset`.
    pub reset: bool,
    /// `reset-before-request`.
    pub reset_before_request: bool,
    /// `connect-failure`.
    pub connect_failure: bool,
    /// `refused-stream`.
    pub refused_stream: bool,
    /// `retriable-4xx`: 409.
    pub retriable_4xx: bool,
    /// `envoy-ratelimited`.
    pub rate_limited: bool,
    /// `retriable-headers`: any of them.
    pub response_headers: Vec<HeaderMatch>,
    /// gRPC statuses in response headers.
    pub grpc: Vec<u16>,
}

/// How an attempt without response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection: refused, unreachable, TLS, or too slow. Nothing was sent.
    Connect,
    /// The server refused the stream (`REFUSED_STREAM`, or GOAWAY below its
    /// id): it processed nothing.
    RefusedStream,
    /// The connection broke before the request's headers were sent.
    ResetBeforeRequest,
    /// Reset or closed after that, before response headers.
    Reset,
    /// The attempt's own timeout.
    PerTryTimeout,
    /// A breaker was open; nothing was sent.
    Overflow,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
pub enum AttemptOutcome<'a> {
    /// With response headers.
    Response {
        /// The status.
        status: StatusCode,
        /// The headers.
        headers: &'a HeaderMap,
        /// A gRPC status in trailers, where the caller looked that far ahead
        /// (ServiceProfile): only classified failures consult it.
        trailer: Option<u16>,
    },
    /// Without.
    Failed(Failure),
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another, after this wait, if the budget lets it.
    Again {
        /// Drawn from the backoff.
        after: Duration,
    },
    /// The outcome stands.
    Stop(StopReason),
}

/// Why there is no other attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The outcome isn't one that is retried.
    NotRetriable,
    /// All attempts are used up (flag URX).
    Exhausted,
}

/// The attempts of one request.
#[derive(Debug, Clone, Copy)]
pub struct Retries<'a> {
    policy: &'a Retry,
    used: u32,
}

impl<'a> Retries<'a> {
    /// Before the first attempt.
    #[must_use]
    pub const fn new(policy: &'a Retry) -> Self {
        Self { policy, used: 0 }
    }

    /// Retries so far.
    #[must_use]
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// The bound of the attempt that starts now, with `remaining` of the whole
    /// transaction's.
    #[must_use]
    pub fn attempt_timeout(&self, remaining: Option<Duration>) -> Option<Duration> {
        let last = self.used >= self.policy.attempts;
        let own = self
            .policy
            .per_try_timeout
            .filter(|_| !(last && self.policy.last_try_untimed));
        match (own, remaining) {
            (Some(own), Some(remaining)) => Some(own.min(remaining)),
            (own, remaining) => own.or(remaining),
        }
    }

    /// Judges an attempt's outcome; counts the retry when there is one.
    pub fn after<R: Rng + ?Sized>(
        &mut self,
        outcome: &AttemptOutcome<'_>,
        rule: Option<&Rule>,
        rng: &mut R,
    ) -> Next {
        if !self.policy.wants(outcome, rule) {
            return Next::Stop(StopReason::NotRetriable);
        }
        if self.used >= self.policy.attempts {
            return Next::Stop(StopReason::Exhausted);
        }
        self.used += 1;
        Next::Again {
            after: self.policy.backoff(self.used, rng),
        }
    }
}

impl Retry {
    /// Whether an outcome is one that this policy retries.
    #[must_use]
    pub fn wants(&self, outcome: &AttemptOutcome<'_>, rule: Option<&Rule>) -> bool {
        match *outcome {
            AttemptOutcome::Failed(failure) => self.wants_failure(failure),
            AttemptOutcome::Response {
                status,
                headers,
                trailer,
            } => self.wants_response(status, headers, trailer, rule),
        }
    }

    fn wants_failure(&self, failure: Failure) -> bool {
        let on = &self.on;
        // No response would be a 503 or 504 of ours: the tokens for those take it.
        let no_response = on.reset || on.status_5xx || on.gateway_error;
        match failure {
            Failure::Connect => on.connect_failure || on.reset_before_request || no_response,
            Failure::RefusedStream => on.refused_stream || no_response,
            Failure::ResetBeforeRequest => on.reset_before_request || no_response,
            Failure::Reset => no_response,
            Failure::PerTryTimeout => self.on_per_try_timeout || no_response,
            Failure::Overflow => false,
        }
    }

    fn wants_response(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        trailer: Option<u16>,
        rule: Option<&Rule>,
    ) -> bool {
        let on = &self.on;
        let code = status.as_u16();
        let grpc = grpc_status(headers);
        let by_status = (on.status_5xx && status.is_server_error())
            || (on.gateway_error && matches!(code, 502..=504))
            || (on.retriable_4xx && status == StatusCode::CONFLICT)
            || self.status_codes.contains(&code);
        let by_header = (on.rate_limited && headers.contains_key(RATE_LIMITED))
            || on.response_headers.iter().any(|h| h.holds(headers))
            || grpc.is_some_and(|status| on.grpc.contains(&status));
        let by_class = self.on_classified_failure
            && rule.is_some_and(|rule| rule.classify(status, grpc.or(trailer)) == Verdict::Failure);
        by_status || by_header || by_class
    }

    /// The wait before retry `n`, from 1: uniform below `base × (2^n − 1)`, at
    /// most the bound (full jitter, 5.1).
    pub fn backoff<R: Rng + ?Sized>(&self, n: u32, rng: &mut R) -> Duration {
        let factor = 1_u32.checked_shl(n).map_or(u32::MAX, |power| power - 1);
        let most = self
            .backoff_base
            .saturating_mul(factor)
            .min(self.backoff_max);
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        match nanos {
            0 => Duration::ZERO,
            nanos => Duration::from_nanos(rng.random_range(0..nanos)),
        }
    }
}

/// The gRPC status of a trailers-only response.
#[must_use]
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

const RATE_LIMITED: &str = "x-envoy-ratelimited";
