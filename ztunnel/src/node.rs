//! What every path needs of the process: the view, the certificates, the
//! records, and a few settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ambit_identity::CertStore;
use ambit_state::StateReader;
use ambit_telemetry::SocketsOpen;
use parking_lot::Mutex;

use crate::config::Limits;
use crate::dns;
use crate::flow::{Flows, Telling};

/// Shared by all threads; nothing in it is locked on a path.
pub(crate) struct Node {
    pub(crate) state: StateReader,
    pub(crate) certs: CertStore,
    pub(crate) telling: Telling,
    pub(crate) sockets: SocketsOpen,
    pub(crate) limits: Limits,
    /// `NETWORK`.
    pub(crate) network: Arc<str>,
    /// `ENABLE_RESPONSE_BAGGAGE`.
    pub(crate) response_baggage: bool,
    /// `LOCALHOST_APP_TUNNEL`.
    pub(crate) localhost_app_tunnel: bool,
    /// `AUTHZ_POLICY_INFO_LOGGING`.
    pub(crate) authz_info: bool,
    pub(crate) control_plane: ControlPlane,
    /// How names are answered; none leaves port 15053 closed.
    pub(crate) dns: Option<dns::Settings>,
}

/// Whether the control plane talks to us, as the discovery client last saw it.
/// Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ControlPlane(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    configured: bool,
    away: AtomicBool,
}

impl ControlPlane {
    pub(crate) fn new(configured: bool) -> Self {
        Self(Arc::new(Inner {
            configured,
            away: AtomicBool::new(false),
        }))
    }

    /// A stream ended, or couldn't be opened.
    pub(crate) fn left(&self) {
        self.0.away.store(true, Ordering::Relaxed);
    }

    /// A message came.
    pub(crate) fn spoke(&self) {
        self.0.away.store(false, Ordering::Relaxed);
    }

    /// There is one, and it doesn't answer: what it hasn't sent by now may
    /// take any time.
    pub(crate) fn is_away(&self) -> bool {
        self.0.configured && self.0.away.load(Ordering::Relaxed)
    }
}

/// The flows of every pod, for the admin server and the metrics. Clones share
/// it.
#[derive(Clone, Default)]
pub(crate) struct FlowDirectory(Arc<Mutex<BTreeMap<String, Vec<Arc<Flows>>>>>);

impl FlowDirectory {
    pub(crate) fn insert(&self, uid: &str, threads: Vec<Arc<Flows>>) {
        self.0.lock().insert(uid.to_owned(), threads);
    }

    pub(crate) fn remove(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// The flows of a pod, one set a data thread.
    pub(crate) fn of(&self, uid: &str) -> Vec<Arc<Flows>> {
        self.0.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Brings every byte counter up to now.
    pub(crate) fn tell_bytes(&self) {
        for flows in self.0.lock().values().flatten() {
            flows.tell_bytes();
        }
    }
}
