//! When an endpoint is taken out, and for how long (`waypoint-contract` 5.5,
//! 8.3). Decisions over counters; the counters are in `host`.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Ejection by consecutive errors. 0 in a count turns that detector off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlier {
    /// Responses of 500 and above, and local failures unless they are split.
    pub consecutive_5xx: u32,
    /// 502, 503, 504, and local failures unless they are split.
    pub consecutive_gateway_errors: u32,
    /// Local failures, where they are split.
    pub consecutive_local_failures: u32,
    /// Local failures are counted apart.
    pub split_local_errors: bool,
    /// Between sweeps.
    pub interval: Duration,
    /// Times the number of ejections is how long one lasts.
    pub base_ejection: Duration,
    /// But no longer than this, or than the base.
    pub max_ejection: Duration,
    /// Of all endpoints; one may always be ejected.
    pub max_ejection_percent: u32,
    /// Below this share of healthy endpoints all are used; 0: never.
    pub min_health_percent: u32,
}

/// Linkerd's failure accrual: out after consecutive failures, for exponentially
/// longer times, then back by one probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accrual {
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// The first penalty.
    pub min_penalty: Duration,
    /// The longest.
    pub max_penalty: Duration,
    /// Share of a penalty that is added at random.
    pub jitter: f64,
}

/// How a request or connection ended at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With this HTTP status (gRPC: [`Outcome::of_grpc`]).
    Status(u16),
    /// A TCP connection was made.
    Connected,
    /// Without an answer.
    Local(LocalFailure),
    /// Nothing can be said: the client went away.
    Unknown,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalFailure {
    /// No connection.
    Connect,
    /// Too late.
    Timeout,
    /// The connection or the stream broke.
    Reset,
}

impl Outcome {
    /// A gRPC status as the HTTP status that it is judged by.
    #[must_use]
    pub const fn of_grpc(code: u16) -> Self {
        Self::Status(match code {
            0 | 1 | 3 | 5 | 6 | 9 | 11 => 200,
            7 => 403,
            8 => 429,
            16 => 401,
            4 => 504,
            14 => 503,
            12 => 501,
            _ => 500,
        })
    }

    /// True for what accrual counts.
    pub(crate) const fn is_failure(self) -> bool {
        match self {
            Self::Status(status) => status >= 500,
            Self::Local(_) => true,
            Self::Connected | Self::Unknown => false,
        }
    }
}

/// What an outcome does to the three counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) errors: Count,
    pub(crate) gateway: Count,
    pub(crate) local: Count,
}

/// What happens to one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Up,
    Reset,
    Stay,
}

impl Outlier {
    pub(crate) fn effect(&self, outcome: Outcome) -> Effect {
        let both = |count| Effect {
            errors: count,
            gateway: count,
            local: Count::Stay,
        };
        match outcome {
            Outcome::Unknown => both(Count::Stay),
            Outcome::Local(_) if self.split_local_errors => Effect {
                errors: Count::Stay,
                gateway: Count::Stay,
                local: Count::Up,
            },
            Outcome::Local(_) => both(Count::Up),
            Outcome::Connected if self.split_local_errors => Effect {
                errors: Count::Stay,
                gateway: Count::Stay,
                local: Count::Reset,
            },
            Outcome::Connected => both(Count::Reset),
            Outcome::Status(status) => Effect {
                errors: if status >= 500 {
                    Count::Up
                } else {
                    Count::Reset
                },
                gateway: if matches!(status, 502..=504) {
                    Count::Up
                } else {
                    Count::Reset
                },
                local: Count::Reset,
            },
        }
    }

    /// Whether one more may be ejected of `total` when `ejected` already are.
    pub(crate) const fn may_eject(&self, ejected: usize, total: usize) -> bool {
        let share = total as u64 * self.max_ejection_percent as u64 / 100;
        let most = if share == 0 { 1 } else { share };
        (ejected as u64) < most
    }

    /// How long the `count`th ejection lasts.
    pub(crate) fn duration(&self, count: u32) -> Duration {
        let cap = self.max_ejection.max(self.base_ejection);
        self.base_ejection.saturating_mul(count).min(cap)
    }
}

impl Accrual {
    /// How long an endpoint is out after `rounds` failed probes.
    pub(crate) fn penalty<R: Rng + ?Sized>(&self, rounds: u32, rng: &mut R) -> Duration {
        let factor = 1_u32.checked_shl(rounds).unwrap_or(u32::MAX);
        let base = self
            .min_penalty
            .saturating_mul(factor)
            .min(self.max_penalty);
        let jitter = if self.jitter > 0.0 {
            rng.random_range(0.0..self.jitter.min(100.0))
        } else {
            0.0
        };
        base.saturating_add(base.mul_f64(jitter))
    }
}
