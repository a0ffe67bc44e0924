//! Exponential backoff with jitter.

use std::time::Duration;

use rand::RngExt;

/// Waits between tries: doubling from an initial value to a maximum.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    jitter: f64,
    next: Duration,
}

impl Backoff {
    /// Doubles from `initial` up to `max`, without jitter.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            jitter: 0.0,
            next: initial,
        }
    }

    /// Randomises each wait by up to this share of it, either way (0 to 1).
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share.clamp(0.0, 1.0);
        self
    }

    /// The wait before the next try.
    pub fn next_wait(&mut self) -> Duration {
        let base = self.next;
        self.next = base.saturating_mul(2).min(self.max);
        if self.jitter == 0.0 {
            return base;
        }
        let factor = 1.0 + self.jitter * rand::rng().random_range(-1.0..=1.0);
        base.mul_f64(factor).min(self.max)
    }

    /// The next wait is the initial one again.
    pub fn reset(&mut self) {
        self.next = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_resets() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(50));
        let waits: Vec<_> = (0..4).map(|_| backoff.next_wait().as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 50]);
        backoff.reset();
        assert_eq!(backoff.next_wait().as_millis(), 10);
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1)).jitter(0.2);
        for _ in 0..100 {
            let wait = backoff.next_wait();
            assert!(wait >= Duration::from_millis(800) && wait <= Duration::from_secs(1));
        }
    }
}
