//! Waiting for something to become true, with a bound.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;

/// [`eventually_within`] 20 s.
///
/// # Errors
/// The last failure, if it never succeeded.
pub async fn eventually<T>(what: &str, attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    eventually_within(Duration::from_secs(20), what, attempt).await
}

/// Tries every 50 ms until the attempt succeeds or the time is up.
///
/// # Errors
/// The last failure, if it never succeeded.
pub async fn eventually_within<T>(
    bound: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + bound;
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(error).with_context(|| format!("{what}: not within {bound:?}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
