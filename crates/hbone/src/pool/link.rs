//! One pooled connection and the places on it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use ambit_identity::TlsFault;
use ambit_types::SpiffeId;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::HboneConfig;
use crate::engine::Opener;

/// A connection as the pool holds it. Tunnels hold its [`Link`] only, so that
/// the connection can end when the pool lets go and the last tunnel is closed.
pub(crate) struct Conn {
    pub(super) opener: Opener,
    pub(super) link: Arc<Link>,
    /// No new tunnels beyond the end of the certificate that opened it: an
    /// identity that can't be renewed ends, however busy its connections are.
    expires: SystemTime,
}

/// What the pool, the driver and the tunnels of a connection share.
pub(crate) struct Link {
    peer: SpiffeId,
    fault: Arc<OnceLock<TlsFault>>,
    active: AtomicUsize,
    retired: AtomicBool,
    settled: AtomicBool,
    on_settled: Notify,
    last_used: Mutex<Instant>,
}

/// A place for one tunnel; dropping it frees the place.
pub(crate) struct Lease(Arc<Link>);

impl Conn {
    pub(super) fn new(opener: Opener, link: Arc<Link>, expires: SystemTime) -> Self {
        Self {
            opener,
            link,
            expires,
        }
    }

    /// Whether it takes new streams at all. Asked before a place is given.
    pub(super) fn is_usable(&self) -> bool {
        !self.link.retired.load(Ordering::Relaxed)
            && SystemTime::now() < self.expires
            && self.opener.clone().is_usable()
    }

    /// A place, if one is free: our cap and the peer's limit as it stands now.
    pub(super) fn lease(&self, config: &HboneConfig) -> Option<Lease> {
        let peer = self.opener.peer_limit();
        let cap = config.max_streams_per_connection.min(peer).max(1);
        // One thread asks at a time: the pool's lock is held.
        (self.link.active.load(Ordering::Relaxed) < cap).then(|| self.link.lease())
    }

    pub(super) fn first_lease(&self) -> Lease {
        self.link.lease()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.link.active.load(Ordering::Relaxed) == 0
    }

    pub(super) fn last_used(&self) -> Instant {
        *self.link.last_used.lock()
    }
}

impl Link {
    pub(super) fn new(peer: SpiffeId, fault: Arc<OnceLock<TlsFault>>) -> Self {
        Self {
            peer,
            fault,
            active: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            on_settled: Notify::new(),
            last_used: Mutex::new(Instant::now()),
        }
    }

    fn lease(self: &Arc<Self>) -> Lease {
        self.active.fetch_add(1, Ordering::Relaxed);
        Lease(Arc::clone(self))
    }

    /// The peer's settings arrived.
    pub(super) fn on_settled(&self) {
        if !self.settled.swap(true, Ordering::Relaxed) {
            self.on_settled.notify_waiters();
        }
    }

    /// The connection is over.
    pub(super) fn on_ended(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.on_settled();
    }

    /// Waits for the peer's settings or the connection's end.
    pub(super) async fn settled(&self) {
        let notified = self.on_settled.notified();
        if !self.settled.load(Ordering::Relaxed) {
            notified.await;
        }
    }
}

impl Lease {
    pub(crate) fn peer(&self) -> &SpiffeId {
        &self.0.peer
    }

    /// What TLS ended the connection with, if it did.
    pub(super) fn fault(&self) -> Option<TlsFault> {
        self.0.fault.get().copied()
    }

    /// Nothing more is opened on this connection.
    pub(super) fn retire(&self) {
        self.0.retired.store(true, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
        *self.0.last_used.lock() = Instant::now();
    }
}
