//! Which pods are served: requests of the node agent in, proxies started and
//! stopped (`ztunnel-contract` 4.5, the table of steps).
//!
//! Owns the pods and the phase of the conversation. Sockets, threads and the
//! wire are behind [`Proxies`] and the session's shell ([`session`]), so that
//! every row of the table is a unit test here.

pub mod board;
pub mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use ambit_netns::NsId;
use ambit_redirect::zds::WorkloadInfo;
use tracing::{info, warn};

use board::{Board, PodState};

/// Starts and stops the proxy of a pod.
pub trait Proxies: Send {
    /// A pod's network namespace.
    type Ns: Clone + Send;
    /// A proxy that listens in its pod.
    type Running: Send;

    /// What tells two namespaces apart.
    fn ns_id(ns: &Self::Ns) -> NsId;

    /// Listens in the pod on every data thread. `wait` says whether its first
    /// certificate is waited for, too.
    fn start(
        &mut self,
        pod: &Pod<Self::Ns>,
        wait: CertificateWait,
    ) -> impl Future<Output = Result<Started<Self::Running>, StartError>> + Send;

    /// Ends a proxy at once, its connections included.
    fn stop(&mut self, pod: &Pod<Self::Ns>, running: Self::Running);
}

/// A proxy that came up.
pub struct Started<R> {
    /// What can be stopped again.
    pub running: R,
    /// False if the first certificate was waited for in vain.
    pub certified: bool,
}

/// Whether an enrolment waits for the pod's first certificate, so that rules
/// which go in after the acknowledgement find a proxy that can work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateWait {
    /// Up to the bound.
    Bounded,
    /// Only has it fetched.
    No,
}

/// A pod as the node agent names it.
#[derive(Debug, Clone)]
pub struct Pod<N> {
    /// Its Kubernetes uid.
    pub uid: String,
    /// Who runs there.
    pub info: WorkloadInfo,
    /// Where.
    pub ns: N,
}

/// A proxy that didn't come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port can't be listened on.
    #[error(transparent)]
    Listen(#[from] ambit_net::ListenError),
    /// A data thread's runtime can't take a listener.
    #[error("hand over the listener of port {port}")]
    Register {
        /// The port.
        port: u16,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A data thread is gone or stuck.
    #[error("data thread {0} did not answer")]
    Thread(usize),
}

/// Every pod that this node's agent handed over.
pub struct Enrolment<P: Proxies> {
    proxies: P,
    board: Board,
    pods: BTreeMap<String, Entry<P>>,
    phase: Phase,
    /// Set once a snapshot's certificate didn't come in time: its later pods
    /// don't wait as well, so that a dead CA delays a restart once.
    impatient: bool,
}

enum Entry<P: Proxies> {
    Up(Pod<P::Ns>, P::Running),
    Pending(Pod<P::Ns>),
}

/// Where the conversation with the agent is.
enum Phase {
    Disconnected,
    /// Pods named so far.
    Snapshot(BTreeSet<String>),
    Live,
}

impl<P: Proxies> Enrolment<P> {
    /// No pods, no agent.
    pub fn new(proxies: P, board: Board) -> Self {
        Self {
            proxies,
            board,
            pods: BTreeMap::new(),
            phase: Phase::Disconnected,
            impatient: false,
        }
    }

    /// A new conversation: the agent's snapshot follows.
    pub fn on_connected(&mut self) {
        self.phase = Phase::Snapshot(BTreeSet::new());
        self.impatient = false;
    }

    /// The agent is gone. Proxies that run go on; what was pending is the next
    /// snapshot's business.
    pub fn on_disconnected(&mut self) {
        self.phase = Phase::Disconnected;
        let pending = |(uid, entry): (&String, &Entry<P>)| {
            matches!(entry, Entry::Pending(_)).then(|| uid.clone())
        };
        let uids: Vec<_> = self.pods.iter().filter_map(pending).collect();
        for uid in uids {
            self.pods.remove(&uid);
            self.board.remove(&uid);
        }
    }

    /// Serve this pod.
    ///
    /// # Errors
    /// Its proxy didn't come up: the pod stays pending.
    pub async fn on_add(&mut self, pod: Pod<P::Ns>) -> Result<(), StartError> {
        if let Phase::Snapshot(named) = &mut self.phase {
            named.insert(pod.uid.clone());
        }
        match self.pods.remove(&pod.uid) {
            Some(Entry::Up(old, running)) if P::ns_id(&old.ns) == P::ns_id(&pod.ns) => {
                self.pods.insert(pod.uid, Entry::Up(old, running));
                return Ok(());
            }
            Some(Entry::Up(old, running)) => {
                info!(
                    uid = pod.uid,
                    "the pod has another network namespace: its proxy is replaced"
                );
                self.stop(&old, running);
            }
            Some(Entry::Pending(_)) | None => {}
        }
        self.start(pod).await
    }

    /// Go on serving a pod that the agent can't hand over again.
    pub fn on_keep(&mut self, uid: String) {
        if let Phase::Snapshot(named) = &mut self.phase {
            named.insert(uid);
        }
    }

    /// Serve this pod no longer.
    pub fn on_del(&mut self, uid: &str) {
        if let Phase::Snapshot(named) = &mut self.phase {
            // What runs ends with the snapshot, as do others that aren't named.
            named.remove(uid);
            if matches!(self.pods.get(uid), Some(Entry::Pending(_))) {
                self.pods.remove(uid);
                self.board.remove(uid);
            }
            return;
        }
        self.remove(uid);
    }

    /// Every pod has been named: proxies of others end.
    pub fn on_snapshot_sent(&mut self) {
        if let Phase::Snapshot(named) = std::mem::replace(&mut self.phase, Phase::Live) {
            let gone: Vec<_> = self
                .pods
                .keys()
                .filter(|uid| !named.contains(*uid))
                .cloned()
                .collect();
            for uid in gone {
                self.remove(&uid);
            }
        }
        self.impatient = false;
    }

    /// Tries again what didn't come up.
    pub async fn retry_pending(&mut self) {
        let pending: Vec<_> = self
            .pods
            .values()
            .filter_map(|entry| match entry {
                Entry::Pending(pod) => Some(pod.clone()),
                Entry::Up(..) => None,
            })
            .collect();
        for pod in pending {
            let uid = pod.uid.clone();
            if let Err(error) = self.start(pod).await {
                warn!(uid, %error, "the pod's proxy still does not start");
            }
        }
    }

    /// The snapshot is complete, the agent is connected, nothing is pending.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Live) && !self.has_pending()
    }

    /// Some pod's proxy didn't come up.
    pub fn has_pending(&self) -> bool {
        self.pods
            .values()
            .any(|entry| matches!(entry, Entry::Pending(_)))
    }

    async fn start(&mut self, pod: Pod<P::Ns>) -> Result<(), StartError> {
        let wait = if self.impatient {
            CertificateWait::No
        } else {
            CertificateWait::Bounded
        };
        match self.proxies.start(&pod, wait).await {
            Ok(Started { running, certified }) => {
                info!(
                    uid = pod.uid,
                    pod = pod.info.name,
                    namespace = pod.info.namespace,
                    certified,
                    "proxy started"
                );
                self.impatient |= !certified && matches!(self.phase, Phase::Snapshot(_));
                self.board.set(&pod.uid, &pod.info, PodState::Up);
                self.pods.insert(pod.uid.clone(), Entry::Up(pod, running));
                Ok(())
            }
            Err(error) => {
                self.board.set(&pod.uid, &pod.info, PodState::Pending);
                self.pods.insert(pod.uid.clone(), Entry::Pending(pod));
                Err(error)
            }
        }
    }

    fn remove(&mut self, uid: &str) {
        if let Some(Entry::Up(pod, running)) = self.pods.remove(uid) {
            self.stop(&pod, running);
        }
        self.board.remove(uid);
    }

    fn stop(&mut self, pod: &Pod<P::Ns>, running: P::Running) {
        info!(uid = pod.uid, pod = pod.info.name, "proxy stopped");
        self.proxies.stop(pod, running);
        self.board.stopped();
    }
}

#[cfg(test)]
mod tests;
