//! Token buckets. What is stored is what was used, so that nothing stored is a
//! full bucket.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Standing;
use crate::hash::xx;

/// How fast requests may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Tokens at most.
    pub(crate) max: u32,
    /// Tokens that are added ...
    pub(crate) per_fill: u32,
    /// ... each such time.
    pub(crate) interval: Duration,
    /// They are added evenly over it (GCRA) instead of all at once.
    pub(crate) smooth: bool,
}

impl Rate {
    /// Takes a token at `now` nanoseconds from a bucket whose state is
    /// `state`: the state afterwards, whether there was one, how it stands.
    fn take(&self, state: u64, now: u64) -> (u64, bool, Standing) {
        if self.smooth {
            self.take_smoothly(state, now)
        } else {
            self.take_in_steps(state, now)
        }
    }

    /// State: the fill's number above, used tokens below.
    fn take_in_steps(&self, state: u64, now: u64) -> (u64, bool, Standing) {
        let interval = self.interval_nanos();
        let fill = (now / interval) & LOW;
        let filled = fill.saturating_sub(state >> 32) * u64::from(self.per_fill);
        let used = (state & LOW).saturating_sub(filled);
        let passed = used < u64::from(self.max);
        let used = used + u64::from(passed);
        let reset = interval - now % interval;
        (fill << 32 | used, passed, self.standing(used, reset))
    }

    /// State: the time at which nothing is used any more.
    fn take_smoothly(&self, state: u64, now: u64) -> (u64, bool, Standing) {
        let each = (self.interval_nanos() / u64::from(self.per_fill.max(1))).max(1);
        let empty = state.max(now);
        let next = empty.saturating_add(each);
        let passed = next - now <= each.saturating_mul(u64::from(self.max));
        let state = if passed { next } else { empty };
        let used = (state - now).div_ceil(each);
        (state, passed, self.standing(used, (state - now) % each))
    }

    /// True when a bucket is as good as a new one.
    fn is_full(&self, state: u64, now: u64) -> bool {
        if self.smooth {
            return state <= now;
        }
        let fill = (now / self.interval_nanos()) & LOW;
        let filled = fill.saturating_sub(state >> 32) * u64::from(self.per_fill);
        state & LOW <= filled
    }

    fn standing(&self, used: u64, reset_nanos: u64) -> Standing {
        let left = u64::from(self.max).saturating_sub(used);
        Standing {
            limit: self.max,
            remaining: u32::try_from(left).unwrap_or(u32::MAX),
            reset: reset_nanos.div_ceil(NANOS),
        }
    }

    fn interval_nanos(&self) -> u64 {
        u64::try_from(self.interval.as_nanos())
            .unwrap_or(u64::MAX)
            .max(1)
    }
}

/// The buckets of one rule.
#[derive(Debug)]
pub(crate) struct Counters {
    base: Instant,
    all: AtomicU64,
    clients: Vec<Mutex<Clients>>,
}

/// Some of the clients' buckets.
#[derive(Debug, Default)]
struct Clients {
    by_identity: HashMap<Box<str>, u64>,
    /// Of those for whom there was no place.
    crowd: u64,
}

impl Counters {
    pub(crate) fn new(base: Instant, per_client: bool) -> Self {
        let shards = if per_client { SHARDS } else { 0 };
        Self {
            base,
            all: AtomicU64::new(0),
            clients: (0..shards).map(|_| Mutex::default()).collect(),
        }
    }

    /// Takes a token from the client's bucket, or from the common one.
    pub(crate) fn take(&self, rate: &Rate, client: Option<&str>, now: Instant) -> (bool, Standing) {
        let now = now.saturating_duration_since(self.base).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let shard = client.and_then(|client| {
            let at = xx(client.as_bytes()) % self.clients.len().max(1) as u64;
            Some((client, self.clients.get(usize::try_from(at).ok()?)?))
        });
        if let Some((client, shard)) = shard {
            return shard.lock().take(rate, client, now);
        }
        let mut before = self.all.load(Relaxed);
        loop {
            let (after, passed, standing) = rate.take(before, now);
            match self
                .all
                .compare_exchange_weak(before, after, Relaxed, Relaxed)
            {
                Ok(_) => return (passed, standing),
                Err(other) => before = other,
            }
        }
    }
}

impl Clients {
    fn take(&mut self, rate: &Rate, client: &str, now: u64) -> (bool, Standing) {
        if !self.by_identity.contains_key(client) && self.by_identity.len() >= CLIENTS_PER_SHARD {
            self.by_identity
                .retain(|_, state| !rate.is_full(*state, now));
        }
        let room = self.by_identity.len() < CLIENTS_PER_SHARD;
        let state = match self.by_identity.get_mut(client) {
            Some(state) => state,
            None if room => self.by_identity.entry(client.into()).or_default(),
            None => &mut self.crowd,
        };
        let (after, passed, standing) = rate.take(*state, now);
        *state = after;
        (passed, standing)
    }
}

const SHARDS: usize = 16;
/// 10,000 clients in all.
const CLIENTS_PER_SHARD: usize = 625;
const LOW: u64 = 0xffff_ffff;
const NANOS: u64 = 1_000_000_000;
