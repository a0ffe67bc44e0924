//! How far each pod has come, for everybody who must know: the report to the
//! control plane, the CNI plugin, metrics, probes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ambit_kube::Redirection;
use tokio::sync::watch;

use crate::inventory::{PodId, PodName};

/// A pod's way through enrolment and out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Enrolled; no proxy listens in it yet, and nothing is redirected.
    Pending,
    /// A proxy listens; nothing is redirected yet.
    ProxyListening,
    /// Rules are in and verified.
    Redirected,
    /// It leaves: new connections go direct, carried ones are carried on.
    Draining,
    /// Nothing of ours is in it.
    Gone,
}

impl Phase {
    pub(crate) const ALL: [Self; 5] = [
        Self::Pending,
        Self::ProxyListening,
        Self::Redirected,
        Self::Draining,
        Self::Gone,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::ProxyListening => "proxy_listening",
            Self::Redirected => "redirected",
            Self::Draining => "draining",
            Self::Gone => "gone",
        }
    }
}

/// One pod on the board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodStatus {
    pub(crate) pod: PodName,
    pub(crate) uid: Arc<str>,
    pub(crate) phase: Phase,
    /// What the control plane may know.
    pub(crate) redirection: Redirection,
    pub(crate) ips: Vec<IpAddr>,
    /// Why it goes no further, in one line.
    pub(crate) trouble: Option<String>,
}

/// Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pods: Mutex<BTreeMap<PodId, PodStatus>>,
    version: watch::Sender<u64>,
    /// The last version that each audience has acknowledged.
    acknowledged: [watch::Sender<u64>; 2],
}

/// Who is told what the board shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// The control plane, by reports.
    ControlPlane,
    /// Whoever reads the annotations of pods.
    Annotations,
}

impl Board {
    /// A board for these audiences.
    pub(crate) fn new(audiences: &[Audience]) -> Self {
        let from = |audience| match audiences.contains(&audience) {
            true => watch::Sender::new(0),
            // Nobody to wait for.
            false => watch::Sender::new(u64::MAX),
        };
        let inner = Inner {
            pods: Mutex::default(),
            version: watch::Sender::new(0),
            acknowledged: [Audience::ControlPlane, Audience::Annotations].map(from),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Writes a pod's status; returns the version that shows it.
    pub(crate) fn post(&self, id: &PodId, status: PodStatus) -> u64 {
        let mut pods = self.pods();
        if pods.get(id) != Some(&status) {
            pods.insert(Arc::clone(id), status);
            self.inner.version.send_modify(|version| *version += 1);
        }
        self.version()
    }

    /// Takes a pod off.
    pub(crate) fn wipe(&self, id: &PodId) {
        let mut pods = self.pods();
        if pods.remove(id).is_some() {
            self.inner.version.send_modify(|version| *version += 1);
        }
    }

    pub(crate) fn status(&self, id: &PodId) -> Option<PodStatus> {
        self.pods().get(id).cloned()
    }

    /// Everything, and the version that it shows.
    pub(crate) fn all(&self) -> (u64, BTreeMap<PodId, PodStatus>) {
        let pods = self.pods();
        (self.version(), pods.clone())
    }

    /// Pods in each phase.
    pub(crate) fn count(&self, phase: Phase) -> usize {
        self.pods().values().filter(|s| s.phase == phase).count()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    /// An audience has taken what this version shows.
    pub(crate) fn acknowledge(&self, audience: Audience, version: u64) {
        let taken = match &self.inner.acknowledged {
            [taken, _] if audience == Audience::ControlPlane => taken,
            [_, taken] => taken,
        };
        taken.send_if_modified(|last| {
            let news = *last < version;
            *last = version.max(*last);
            news
        });
    }

    /// Waits until every audience has taken this version.
    pub(crate) async fn acknowledged(&self, version: u64) {
        for acknowledged in &self.inner.acknowledged {
            let mut acknowledged = acknowledged.subscribe();
            // The sender lives as long as this board.
            let _ = acknowledged.wait_for(|done| *done >= version).await;
        }
    }

    fn version(&self) -> u64 {
        *self.inner.version.borrow()
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<PodId, PodStatus>> {
        self.inner
            .pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
