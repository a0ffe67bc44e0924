//! Processor time, as opposed to time that went by: what a piece of work costs
//! on a machine that others use too.

use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// What this thread has used so far. Two readings are of the same thread only if
/// nothing was awaited in between.
pub fn of_thread() -> Duration {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(Duration::ZERO, |usage| of(&usage))
}

/// User and system time.
pub(crate) fn of(usage: &Usage) -> Duration {
    let micros = |time: TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        u64::try_from(micros).unwrap_or(0)
    };
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    // All of it on one thread.
    #[tokio::test]
    async fn work_counts_and_waiting_does_not() {
        let before = of_thread();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let waited = of_thread() - before;
        assert!(waited < Duration::from_millis(100), "{waited:?}");
        let (before, began) = (of_thread(), Instant::now());
        let mut sum = 0u64;
        while of_thread() - before < Duration::from_millis(20) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(began.elapsed() >= Duration::from_millis(15), "{sum}");
    }
}
