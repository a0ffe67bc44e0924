//! Bytes of one flow, readable while it runs.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts a flow's bytes as Istio's metrics do, on both reporters: received is
/// what the downstream sent towards the upstream, sent is what came back.
#[derive(Debug, Default)]
pub struct Meter {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Meter {
    /// Request bytes: downstream to upstream, counted when handed on.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Response bytes: upstream to downstream, counted when handed on.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Both at this moment.
    pub fn transfer(&self) -> Transfer {
        Transfer {
            received: self.received(),
            sent: self.sent(),
        }
    }

    /// Request bytes that went another way than through a relay.
    pub fn add_received(&self, n: usize) {
        self.received.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Response bytes that went another way than through a relay.
    pub fn add_sent(&self, n: usize) {
        self.sent.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// What a flow moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Request bytes: downstream to upstream.
    pub received: u64,
    /// Response bytes: upstream to downstream.
    pub sent: u64,
}
