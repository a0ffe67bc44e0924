//! A wait that a loop may have or not.

use tokio::time::{Instant, sleep_until};

/// Until then; for ever where there is nothing to wait for. What is due already
/// is due at once: a timer's tick is a millisecond.
///
/// # Cancel safety
/// Safe: nothing is lost.
pub async fn sleep_maybe(until: Option<Instant>) {
    match until {
        Some(until) if until <= Instant::now() => {}
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_due_is_at_once_and_nothing_is_never() {
        let start = Instant::now();
        sleep_maybe(Some(start)).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        sleep_maybe(Some(start + Duration::from_secs(3))).await;
        assert!(start.elapsed() >= Duration::from_secs(3));
        let never = timeout(Duration::from_secs(3600), sleep_maybe(None)).await;
        assert!(never.is_err());
    }
}
