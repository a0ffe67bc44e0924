//! What is counted at one endpoint: shared by all threads, and kept across
//! updates by the endpoint's uid.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::model::{Endpoint, Warmup};
use crate::outlier::Count;

/// Counters of one endpoint. Times are milliseconds of the cluster's own
/// clock; 0 is "never".
#[derive(Debug, Default)]
pub struct HostState {
    active: AtomicU32,
    errors: AtomicU32,
    gateway: AtomicU32,
    local: AtomicU32,
    /// One more than when it was.
    ejected_at: AtomicU64,
    ejections: AtomicU32,
    /// Warm-up starts here.
    added_at: AtomicU64,
    /// Accrual: out until then.
    penalty_until: AtomicU64,
    penalties: AtomicU32,
    failures: AtomicU32,
    probing: AtomicBool,
    /// Bits of the average latency in seconds, and when it was written.
    latency: AtomicU64,
    latency_at: AtomicU64,
}

/// One endpoint with its counters.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) state: Arc<HostState>,
}

impl HostState {
    pub(crate) fn added(now: u64) -> Self {
        Self {
            added_at: AtomicU64::new(now),
            ..Self::default()
        }
    }

    /// Requests under way.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    pub(crate) fn enter(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    /// True while it is ejected.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.ejected_at.load(Relaxed) != 0
    }

    /// How often it was ejected, decayed.
    #[must_use]
    pub fn ejections(&self) -> u32 {
        self.ejections.load(Relaxed)
    }

    pub(crate) fn ejected_at(&self) -> u64 {
        self.ejected_at.load(Relaxed).saturating_sub(1)
    }

    /// False if another thread was first.
    pub(crate) fn eject(&self, now: u64) -> bool {
        let done = self
            .ejected_at
            .compare_exchange(0, now.saturating_add(1), Relaxed, Relaxed)
            .is_ok();
        if done {
            self.ejections.fetch_add(1, Relaxed);
        }
        done
    }

    pub(crate) fn readmit(&self) {
        for counter in [&self.errors, &self.gateway, &self.local] {
            counter.store(0, Relaxed);
        }
        self.ejected_at.store(0, Relaxed);
    }

    pub(crate) fn decay(&self) {
        let less = |count: u32| count.checked_sub(1);
        let _ = self.ejections.fetch_update(Relaxed, Relaxed, less);
    }

    /// Counts, and says how many in a row there are of each.
    pub(crate) fn count(&self, effect: crate::outlier::Effect) -> [u32; 3] {
        let apply = |counter: &AtomicU32, count| match count {
            Count::Up => counter.fetch_add(1, Relaxed).saturating_add(1),
            Count::Reset => {
                counter.store(0, Relaxed);
                0
            }
            Count::Stay => 0,
        };
        [
            apply(&self.errors, effect.errors),
            apply(&self.gateway, effect.gateway),
            apply(&self.local, effect.local),
        ]
    }

    /// Accrual: usable now, perhaps as a probe.
    pub(crate) fn is_open(&self, now: u64) -> bool {
        let until = self.penalty_until.load(Relaxed);
        until == 0 || (now >= until && !self.probing.load(Relaxed))
    }

    /// Accrual: takes the probe's place if there is one to take. `None`:
    /// another thread has it; `Some(true)`: this is the probe.
    pub(crate) fn admit(&self, now: u64) -> Option<bool> {
        let until = self.penalty_until.load(Relaxed);
        if until == 0 {
            return Some(false);
        }
        let first = now >= until
            && self
                .probing
                .compare_exchange(false, true, Relaxed, Relaxed)
                .is_ok();
        first.then_some(true)
    }

    pub(crate) fn end_probe(&self) {
        self.probing.store(false, Relaxed);
    }

    /// Accrual: failures in a row, with this one.
    pub(crate) fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Relaxed).saturating_add(1)
    }

    pub(crate) fn succeeded(&self) {
        self.failures.store(0, Relaxed);
        self.penalties.store(0, Relaxed);
        self.penalty_until.store(0, Relaxed);
    }

    /// Accrual: rounds so far.
    pub(crate) fn penalties(&self) -> u32 {
        self.penalties.load(Relaxed)
    }

    pub(crate) fn penalize(&self, until: u64) {
        self.penalties.fetch_add(1, Relaxed);
        self.penalty_until.store(until.max(1), Relaxed);
    }

    /// Share of its weight that an endpoint has while it warms up (3.5).
    pub(crate) fn warmth(&self, warmup: Option<&Warmup>, now: u64) -> f64 {
        let added = self.added_at.load(Relaxed);
        let (Some(warmup), true) = (warmup, added != 0) else {
            return 1.0;
        };
        let age = Duration::from_millis(now.saturating_sub(added));
        if age >= warmup.duration {
            return 1.0;
        }
        let share = age.as_secs_f64() / warmup.duration.as_secs_f64();
        let grown = share.powf(1.0 / warmup.aggression.max(0.01));
        grown
            .max(f64::from(warmup.minimum_percent) / 100.0)
            .min(1.0)
    }

    pub(crate) fn added_at(&self) -> u64 {
        self.added_at.load(Relaxed)
    }

    /// Takes a latency into the average: up at once, down slowly.
    pub(crate) fn observe(&self, latency: Duration, now: u64) {
        let (average, fresh) = (latency.as_secs_f64(), latency.as_secs_f64());
        let before = self.average_latency();
        let elapsed = now.saturating_sub(self.latency_at.load(Relaxed));
        let keep = (-Duration::from_millis(elapsed).as_secs_f64() / EWMA_DECAY_SECONDS).exp();
        let next = match before {
            Some(before) if before > fresh => before * keep + fresh * (1.0 - keep),
            _ => average,
        };
        self.latency.store(next.to_bits(), Relaxed);
        self.latency_at.store(now, Relaxed);
    }

    fn average_latency(&self) -> Option<f64> {
        let bits = self.latency.load(Relaxed);
        (bits != 0).then(|| f64::from_bits(bits))
    }

    /// Expected wait: latency times those who wait already (5.6).
    #[must_use]
    pub fn expected_wait(&self) -> f64 {
        let latency = self.average_latency().unwrap_or(EWMA_DEFAULT_SECONDS);
        latency * (f64::from(self.active()) + 1.0)
    }
}

/// Linkerd's.
const EWMA_DECAY_SECONDS: f64 = 10.0;
/// Of an endpoint that nothing is known of.
const EWMA_DEFAULT_SECONDS: f64 = 1.0;
