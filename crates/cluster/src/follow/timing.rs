//! How long everything takes that a follower does.

use std::time::Duration;

use ambit_runtime::Backoff;

/// How long everything takes.
#[derive(Debug, Clone)]
pub struct Timing {
    /// For an answer, or its beginning.
    pub patience: Duration,
    /// Without a line in a watch; servers send a bookmark about once a minute.
    pub silence: Duration,
    /// How long we ask the server to go on with a watch, at least.
    pub watch: Duration,
    /// The first wait before a new try.
    pub retry: Duration,
    /// The longest.
    pub retry_at_most: Duration,
    /// A watch that held this long was a good one.
    pub settled: Duration,
    /// Between a list that lacks more than half of the objects, and the one
    /// that has to agree.
    pub confirm: Duration,
    /// Deletions within this time count as at once.
    pub window: Duration,
    /// For what is [`Wanted`](crate::Wanted): changes go out without it after this.
    pub wanted: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(60),
            silence: Duration::from_secs(100),
            watch: Duration::from_secs(300),
            retry: Duration::from_millis(100),
            retry_at_most: Duration::from_secs(10),
            settled: Duration::from_secs(5),
            confirm: Duration::from_secs(2),
            window: Duration::from_secs(1),
            wanted: Duration::from_secs(5),
        }
    }
}

impl Timing {
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.retry, self.retry_at_most).jitter(JITTER)
    }

    /// How long a watch lasts at least that ends as it should.
    pub(super) fn shortest_watch(&self) -> Duration {
        self.watch.mul_f64(1.0 - JITTER)
    }

    /// Not the same for all, so that they don't all begin anew at once.
    pub(super) fn watch_seconds(&self) -> u64 {
        let spread = Backoff::new(self.watch, self.watch * 2)
            .jitter(JITTER)
            .next_wait();
        spread.as_secs().max(1)
    }
}

const JITTER: f64 = 0.3;
