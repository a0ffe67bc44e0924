//! How much memory the process holds, and whether that is too much
//! (`waypoint-contract` 1.10 overload, 7.2: hard caps with load shedding).
//!
//! What slow peers don't take is bounded for a stream and for a connection;
//! this is the bound for all of them together. While it is met, new requests
//! and tunnels are refused, and clients that take nothing are let go early.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{info, warn};

/// The bound, and whether it is met.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Bytes; none: no bound.
    limit: Option<u64>,
    full: AtomicBool,
    /// Told when it becomes full.
    pressed: Notify,
}

impl Memory {
    /// With the bound that was told, else seven eighths of what the pod may
    /// have.
    pub(crate) fn new(told: Option<u64>) -> Self {
        Self {
            limit: told.or_else(of_the_pod),
            ..Self::default()
        }
    }

    /// Whether there is too much; until an eighth of the bound is free again.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Until it becomes full.
    pub(crate) async fn pressed(&self) {
        self.pressed.notified().await;
    }

    /// Looks now and then, for ever.
    pub(crate) async fn watch(&self) {
        let Some(limit) = self.limit else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(held) = resident() else { continue };
            let was = self.is_full();
            let full = is_too_much(was, held, limit);
            self.full.store(full, Ordering::Relaxed);
            if full && !was {
                warn!(held, limit, "too much memory: requests are refused");
                self.pressed.notify_waiters();
            } else if was && !full {
                info!(held, limit, "there is memory again");
            }
        }
    }
}

fn is_too_much(was: bool, held: u64, limit: u64) -> bool {
    held >= if was { limit - limit / 8 } else { limit }
}

/// Bytes that are resident, as the kernel counts them.
fn resident() -> Option<u64> {
    kib_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn kib_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The limit of the container's memory, where there is one; an eighth is left
/// for what a request needs between two looks.
fn of_the_pod() -> Option<u64> {
    let text = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?;
    let limit: u64 = text.trim().parse().ok()?;
    Some(limit - limit / 8)
}

const LOOK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_until_an_eighth_is_free() {
        assert!(!is_too_much(false, 799, 800));
        assert!(is_too_much(false, 800, 800));
        assert!(is_too_much(true, 700, 800));
        assert!(!is_too_much(true, 699, 800));
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        assert_eq!(kib_of("Name:\tx\nVmRSS:\t  12 kB\n"), Some(12 << 10));
        assert_eq!(kib_of("VmRSS: much\n"), None);
        assert!(resident().is_some_and(|bytes| bytes > 100_000));
    }
}
