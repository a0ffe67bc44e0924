//! Circuit breakers (`waypoint-contract` 5.4): counts that a permit gives back
//! when it is dropped. Threads may race past a bound by one each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// What is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Connections.
    Connection,
    /// Requests that wait for one.
    Pending,
    /// Requests under way, whatever the HTTP version.
    Request,
    /// Retries under way.
    Retry,
}

/// A bound was reached: 503, flag UO, `x-envoy-overloaded`; for a retry the
/// failure that was to be retried stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many of {resource:?}")]
pub struct Overflow {
    /// Of what.
    pub resource: Resource,
}

/// One that is counted until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct Permit {
    gauges: Arc<Gauges>,
    resource: Resource,
}

/// The counts of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    overflows: AtomicU64,
}

impl Gauges {
    const fn of(&self, resource: Resource) -> &AtomicU32 {
        match resource {
            Resource::Connection => &self.connections,
            Resource::Pending => &self.pending,
            Resource::Request => &self.requests,
            Resource::Retry => &self.retries,
        }
    }

    pub(crate) fn count(&self, resource: Resource) -> u32 {
        self.of(resource).load(Relaxed)
    }

    pub(crate) fn overflows(&self) -> u64 {
        self.overflows.load(Relaxed)
    }

    pub(crate) fn refuse(&self, resource: Resource) -> Overflow {
        self.overflows.fetch_add(1, Relaxed);
        Overflow { resource }
    }

    /// Takes a place below `most`.
    pub(crate) fn acquire(
        self: &Arc<Self>,
        resource: Resource,
        most: Option<u32>,
    ) -> Result<Permit, Overflow> {
        let before = self.of(resource).fetch_add(1, Relaxed);
        let permit = Permit {
            gauges: Arc::clone(self),
            resource,
        };
        if most.is_some_and(|most| before >= most) {
            drop(permit);
            return Err(self.refuse(resource));
        }
        Ok(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gauges.of(self.resource).fetch_sub(1, Relaxed);
    }
}
