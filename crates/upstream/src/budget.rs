//! Retry budgets (`waypoint-contract` 5.1): how many retries a cluster bears.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How retries are bounded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BudgetRule {
    /// At once: a share of requests that are active or wait (DestinationRule).
    Concurrent {
        /// Percent.
        percent: f64,
        /// At least so many.
        least: u32,
    },
    /// A share of the requests of an interval (XBackendTrafficPolicy).
    Window {
        /// Percent.
        percent: u32,
        /// In milliseconds.
        interval_ms: u64,
        /// So many are let through anyway ...
        least: u32,
        /// ... in each such time, in milliseconds.
        least_interval_ms: u64,
    },
    /// Requests pay in, retries take out (ServiceProfile).
    Tokens {
        /// What a request pays in.
        ratio: f64,
        /// Retries that are let through anyway.
        least_per_second: u32,
        /// How long a payment counts, in milliseconds.
        ttl_ms: u64,
    },
}

/// A budget with its counts.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) rule: BudgetRule,
    requests: Rolling,
    retries: Rolling,
    /// Retries of the shorter interval of [`BudgetRule::Window`].
    recent: Rolling,
}

impl Budget {
    pub(crate) fn new(rule: BudgetRule) -> Self {
        let (window, short) = match rule {
            BudgetRule::Concurrent { .. } => (1000, 1000),
            BudgetRule::Window {
                interval_ms,
                least_interval_ms,
                ..
            } => (interval_ms, least_interval_ms),
            BudgetRule::Tokens { ttl_ms, .. } => (ttl_ms, 1000),
        };
        Self {
            rule,
            requests: Rolling::new(window),
            retries: Rolling::new(window),
            recent: Rolling::new(short),
        }
    }

    /// A request's first attempt.
    pub(crate) fn request(&self, now: u64) {
        if !matches!(self.rule, BudgetRule::Concurrent { .. }) {
            self.requests.add(now);
        }
    }

    /// Asks for a retry, and counts it when it may be. `open` requests are
    /// active or wait, `retrying` of them are retries.
    pub(crate) fn retry(&self, now: u64, open: u32, retrying: u32) -> bool {
        let allowed = match self.rule {
            BudgetRule::Concurrent { percent, least } => {
                let share = f64::from(open) * percent / 100.0;
                f64::from(retrying) < share.max(f64::from(least))
            }
            BudgetRule::Window { percent, least, .. } => {
                let share = self.requests.sum(now) * u64::from(percent);
                (self.retries.sum(now) + 1) * 100 <= share
                    || self.recent.sum(now) < u64::from(least)
            }
            BudgetRule::Tokens {
                ratio,
                least_per_second,
                ttl_ms,
            } => {
                let reserve = f64::from(least_per_second) * as_f64(ttl_ms) / 1000.0;
                let paid = as_f64(self.requests.sum(now)) * ratio;
                reserve + paid - as_f64(self.retries.sum(now)) >= 1.0
            }
        };
        if allowed && !matches!(self.rule, BudgetRule::Concurrent { .. }) {
            self.retries.add(now);
            self.recent.add(now);
        }
        allowed
    }
}

/// A count over the last moments, in slots that are used in turn.
#[derive(Debug)]
struct Rolling {
    slot_ms: u64,
    /// Upper half: which turn, lower half: how many.
    slots: [AtomicU64; SLOTS],
}

impl Rolling {
    fn new(window_ms: u64) -> Self {
        Self {
            slot_ms: (window_ms / SLOTS as u64).max(1),
            slots: Default::default(),
        }
    }

    fn add(&self, now: u64) {
        let turn = self.turn(now);
        let at = usize::try_from(turn % SLOTS as u64).unwrap_or_default();
        let Some(slot) = self.slots.get(at) else {
            return;
        };
        let _ = slot.fetch_update(Relaxed, Relaxed, |value| {
            let count = if value >> 32 == turn & LOW {
                value & LOW
            } else {
                0
            };
            Some((turn & LOW) << 32 | (count + 1).min(LOW))
        });
    }

    fn sum(&self, now: u64) -> u64 {
        let turn = self.turn(now);
        self.slots
            .iter()
            .map(|slot| slot.load(Relaxed))
            .filter(|value| turn.saturating_sub(value >> 32) < SLOTS as u64)
            .map(|value| value & LOW)
            .sum()
    }

    /// From 1, so that an untouched slot belongs to no turn's window for long.
    fn turn(&self, now: u64) -> u64 {
        now / self.slot_ms + SLOTS as u64
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and milliseconds, far below 2^52"
)]
const fn as_f64(value: u64) -> f64 {
    value as f64
}

const SLOTS: usize = 10;
const LOW: u64 = 0xffff_ffff;
