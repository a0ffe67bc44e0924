//! Local rate limits (`waypoint-contract` 7.1, 8.4): buckets that all data
//! threads share, one for a rule or one for each of its clients.

mod bucket;
pub(crate) mod decode;

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue};
use rand::{Rng, RngExt};

use bucket::Counters;
pub(crate) use bucket::Rate;
use decode::Text;

/// A rate limit policy with its counts.
#[derive(Debug)]
pub struct RateLimit {
    /// The resource's name.
    pub name: Arc<str>,
    /// What it holds for.
    pub targets: Vec<LimitTarget>,
    rules: Vec<LimitRule>,
}

/// What a rate limit holds for; empty is everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimitTarget {
    /// `namespace/hostname`.
    pub frontend: Box<str>,
    /// `Kind/namespace/name` of a route.
    pub route: Box<str>,
    /// Rule name within the route.
    pub section: Box<str>,
    /// Service port; 0: all.
    pub port: u16,
}

/// One rule.
#[derive(Debug)]
struct LimitRule {
    name: Box<str>,
    principals: Vec<Text>,
    headers: Vec<(HeaderName, Text)>,
    rate: Rate,
    per_client: bool,
    enforced_share: u32,
    response_headers: bool,
    grpc_resource_exhausted: bool,
    also_next: bool,
    counters: Arc<Counters>,
}

/// What of a request a rate limit looks at.
#[derive(Debug, Clone, Copy)]
pub struct LimitRequest<'a> {
    /// `td/ns/N/sa/S`; `None`: the client has no identity.
    pub principal: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitVerdict {
    /// It passes; the response says so, if it says anything.
    Allowed(Option<Standing>),
    /// 429.
    Limited(Limited),
}

/// A request that is refused: 429, body `local_rate_limited`, flag RL,
/// `x-envoy-ratelimited: true`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    /// The rule, for logs.
    pub rule: Box<str>,
    /// For `x-ratelimit-*`, where the rule wants them.
    pub standing: Option<Standing>,
    /// gRPC status of the answer.
    pub grpc_status: u16,
}

/// How a bucket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its size.
    pub limit: u32,
    /// What is left.
    pub remaining: u32,
    /// Seconds until it grows.
    pub reset: u64,
}

impl Standing {
    /// `x-ratelimit-limit`, `-remaining` and `-reset`.
    #[must_use]
    pub fn headers(&self) -> [(HeaderName, HeaderValue); 3] {
        [
            (
                HeaderName::from_static("x-ratelimit-limit"),
                self.limit.into(),
            ),
            (
                HeaderName::from_static("x-ratelimit-remaining"),
                self.remaining.into(),
            ),
            (
                HeaderName::from_static("x-ratelimit-reset"),
                self.reset.into(),
            ),
        ]
    }
}

impl RateLimit {
    /// Goes on with the counts of the version before, rule by rule, where the
    /// rule counts the same as before.
    #[must_use]
    pub fn inheriting(mut self, before: &Self) -> Self {
        for rule in &mut self.rules {
            let same = before.rules.iter().find(|old| {
                old.name == rule.name && old.rate == rule.rate && old.per_client == rule.per_client
            });
            if let Some(old) = same {
                rule.counters = Arc::clone(&old.counters);
            }
        }
        self
    }

    /// Counts one request: by the first rule that matches it, and by the next
    /// ones as long as a rule says so.
    pub fn check<R: Rng + ?Sized>(
        &self,
        request: &LimitRequest<'_>,
        now: Instant,
        rng: &mut R,
    ) -> LimitVerdict {
        let mut allowed = None;
        for rule in self.rules.iter().filter(|rule| rule.matches(request)) {
            let client = rule
                .per_client
                .then(|| request.principal.unwrap_or_default());
            let (passed, standing) = rule.counters.take(&rule.rate, client, now);
            let standing = rule.response_headers.then_some(standing);
            if !passed && in_share(rule.enforced_share, rng) {
                return LimitVerdict::Limited(Limited {
                    rule: rule.name.clone(),
                    standing,
                    grpc_status: if rule.grpc_resource_exhausted { 8 } else { 14 },
                });
            }
            allowed = standing.or(allowed);
            if !rule.also_next {
                break;
            }
        }
        LimitVerdict::Allowed(allowed)
    }
}

impl LimitRule {
    fn matches(&self, request: &LimitRequest<'_>) -> bool {
        let from = self.principals.is_empty()
            || request
                .principal
                .is_some_and(|who| self.principals.iter().any(|of| of.matches(who.as_bytes())));
        from && self.headers.iter().all(|(name, text)| {
            request
                .headers
                .get_all(name)
                .iter()
                .any(|value| text.matches(value.as_bytes()))
        })
    }
}

fn in_share<R: Rng + ?Sized>(share: u32, rng: &mut R) -> bool {
    share >= MILLION || rng.random_range(0..MILLION) < share
}

const MILLION: u32 = 1_000_000;
