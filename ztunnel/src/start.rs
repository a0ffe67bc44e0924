//! Starts and stops the proxy of a pod on every data thread.

use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{HandshakeGate, HboneConfig, Pool};
use ambit_net::{BoundListener, ListenOptions, Listener, PodSockets, Transparent};
use ambit_netns::{NetNs, NsId};
use ambit_redirect::zds::WorkloadInfo;
use ambit_runtime::{DrainWatch, Scope};
use ambit_types::wire;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::debug;

use crate::certificates::pod_identity;
use crate::dns;
use crate::enrol::{CertificateWait, Pod, Proxies, StartError, Started};
use crate::flow::Flows;
use crate::node::{FlowDirectory, Node};
use crate::pod::{CapturedPorts, Listeners, PodProxy};

/// A data thread, as the control thread sees it.
#[derive(Clone)]
pub(crate) struct DataThread {
    /// Where its tasks are spawned.
    pub(crate) runtime: Handle,
    /// Its handshakes, of all pods.
    pub(crate) gate: HandshakeGate,
}

/// Makes pod proxies.
pub(crate) struct PodStarter {
    pub(crate) node: Arc<Node>,
    pub(crate) threads: Vec<DataThread>,
    /// The recipe for sockets, without a namespace.
    pub(crate) sockets: PodSockets,
    pub(crate) hbone: HboneConfig,
    pub(crate) directory: FlowDirectory,
    /// Connections of all pods; a drain waits for them.
    pub(crate) connections: Scope,
    /// Everything else of all pods; ends with the process.
    pub(crate) background: Scope,
    /// When listeners are handed over.
    pub(crate) closing: DrainWatch,
    /// When connections are asked to end, a moment later.
    pub(crate) drain: DrainWatch,
    pub(crate) trust_domain: Arc<str>,
}

/// The scopes of one pod.
pub(crate) struct RunningPod {
    connections: Scope,
    background: Scope,
}

impl Proxies for PodStarter {
    type Ns = NetNs;
    type Running = RunningPod;

    fn ns_id(ns: &NetNs) -> NsId {
        ns.id()
    }

    async fn start(
        &mut self,
        pod: &Pod<NetNs>,
        wait: CertificateWait,
    ) -> Result<Started<RunningPod>, StartError> {
        let sockets = PodSockets {
            netns: Some(pod.ns.clone()),
            ..self.sockets.clone()
        };
        let mut bound = self.bind(&sockets, Ports::OfPod)?;
        if let Some(dns) = &self.node.dns
            && let Some(one) = one_of(&mut bound, &pod.uid)
        {
            one.names = Some(dns.bind(&sockets, &pod.info));
        }
        let running = self.scopes();
        let spread = self.spread(&pod.uid, &pod.info, &sockets, bound, &running);
        if let Err(error) = spread.await {
            running.cancel();
            self.directory.remove(&pod.uid);
            return Err(error);
        }
        let certified = self.certify(pod, wait).await;
        Ok(Started { running, certified })
    }

    fn stop(&mut self, pod: &Pod<NetNs>, running: RunningPod) {
        self.directory.remove(&pod.uid);
        running.cancel();
    }
}

impl RunningPod {
    fn cancel(&self) {
        self.connections.cancel();
        self.background.cancel();
    }
}

/// Which ports are served.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ports {
    /// All three: redirection brings connections.
    OfPod,
    /// HBONE alone, in this process's own namespace.
    Own,
}

/// The bound ports of one data thread.
struct Bound {
    captured: Option<BoundCaptured>,
    hbone: BoundListener,
    names: Option<dns::BoundPorts>,
}

struct BoundCaptured {
    outbound: BoundListener,
    passthrough: BoundListener,
}

impl PodStarter {
    /// Listens on this process's own 15008, so that the mesh can reach its
    /// metrics with mutual TLS (`ztunnel-contract` 1.1).
    pub(crate) async fn start_own(&self, own: &WorkloadInfo) -> Result<(), StartError> {
        let sockets = PodSockets {
            mark: None,
            transparent: Transparent::Never,
            ..self.sockets.clone()
        };
        let bound = self.bind(&sockets, Ports::Own)?;
        // Dropping the handles ends nothing: the tasks belong to the process.
        let running = self.scopes();
        self.spread("self", own, &sockets, bound, &running).await
    }

    fn scopes(&self) -> RunningPod {
        RunningPod {
            connections: self.connections.child("pod connections"),
            background: self.background.child("pod background"),
        }
    }

    /// Binds every port once per data thread, on this thread: from here on the
    /// kernel queues connections, and an error is known before anything runs.
    fn bind(&self, sockets: &PodSockets, ports: Ports) -> Result<Vec<Bound>, StartError> {
        let captured = ListenOptions::default();
        let hbone = ListenOptions {
            keepalive: false,
            ..captured
        };
        let mut all: Vec<Bound> = Vec::with_capacity(self.threads.len());
        for _ in &self.threads {
            let next = match all.first() {
                Some(first) if !sockets.port_reuse => first.try_clone()?,
                _ => Bound {
                    captured: match ports {
                        Ports::OfPod => Some(BoundCaptured {
                            outbound: sockets.bind(wire::OUTBOUND_PORT, captured)?,
                            passthrough: sockets.bind(wire::INBOUND_PASSTHROUGH_PORT, captured)?,
                        }),
                        Ports::Own => None,
                    },
                    hbone: sockets.bind(wire::HBONE_PORT, hbone)?,
                    names: None,
                },
            };
            all.push(next);
        }
        Ok(all)
    }

    /// Hands each thread its listeners and waits until all have them.
    async fn spread(
        &self,
        uid: &str,
        info: &WorkloadInfo,
        sockets: &PodSockets,
        bound: Vec<Bound>,
        running: &RunningPod,
    ) -> Result<(), StartError> {
        let mut flows = Vec::new();
        let mut answers = Vec::new();
        for (thread, bound) in self.threads.iter().zip(bound) {
            let (tell, told) = oneshot::channel();
            let on_thread = OnThread {
                node: Arc::clone(&self.node),
                pod: info.clone(),
                sockets: sockets.clone(),
                hbone: self.hbone.clone(),
                flows: Arc::new(Flows::default()),
                thread: thread.clone(),
                connections: running.connections.clone(),
                background: running.background.clone(),
                closing: self.closing.clone(),
                drain: self.drain.clone(),
                listeners: u32::try_from(self.threads.len()).unwrap_or(u32::MAX),
            };
            flows.push(Arc::clone(&on_thread.flows));
            running
                .background
                .spawn_on(&thread.runtime, "start pod", async move {
                    // Nobody listens only if the start was given up meanwhile.
                    let _ = tell.send(on_thread.start(bound));
                });
            answers.push(told);
        }
        self.directory.insert(uid, flows);
        for (index, told) in answers.into_iter().enumerate() {
            match tokio::time::timeout(THREAD_ANSWER, told).await {
                Ok(Ok(started)) => started?,
                Ok(Err(_)) | Err(_) => return Err(StartError::Thread(index)),
            }
        }
        Ok(())
    }

    /// Has the pod's certificate fetched, and perhaps waits for it.
    async fn certify(&self, pod: &Pod<NetNs>, wait: CertificateWait) -> bool {
        let view = self.node.state.view();
        let Some(id) = pod_identity(&view, &self.trust_domain, &pod.info) else {
            return true;
        };
        self.node.certs.prefetch(&id);
        if wait == CertificateWait::No {
            return true;
        }
        let bound = self.node.limits.add_certificate;
        match tokio::time::timeout(bound, self.node.certs.svid(&id)).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                debug!(%id, %error, "no first certificate");
                false
            }
            Err(_) => false,
        }
    }
}

/// What one data thread needs to serve a pod.
struct OnThread {
    node: Arc<Node>,
    pod: WorkloadInfo,
    sockets: PodSockets,
    hbone: HboneConfig,
    flows: Arc<Flows>,
    thread: DataThread,
    connections: Scope,
    background: Scope,
    closing: DrainWatch,
    drain: DrainWatch,
    listeners: u32,
}

impl OnThread {
    fn start(self, bound: Bound) -> Result<(), StartError> {
        let captured = match bound.captured {
            Some(captured) => Some(CapturedPorts {
                outbound: register(captured.outbound, wire::OUTBOUND_PORT)?,
                passthrough: register(captured.passthrough, wire::INBOUND_PASSTHROUGH_PORT)?,
            }),
            None => None,
        };
        let listeners = Listeners {
            captured,
            hbone: register(bound.hbone, wire::HBONE_PORT)?,
            names: bound.names.map(register_names).transpose()?,
        };
        let pool = Pool::new(self.hbone.clone(), self.sockets.clone(), &self.background);
        let proxy = Arc::new(PodProxy {
            node: self.node,
            pod: self.pod,
            keeps_source: listeners.hbone.is_transparent(),
            sockets: self.sockets,
            pool,
            flows: self.flows,
            hbone: self.hbone,
            gate: self.thread.gate,
            connections: self.connections,
            closing: self.closing,
            drain: self.drain,
            listeners: self.listeners,
        });
        proxy.run(listeners, &self.background);
        Ok(())
    }
}

/// The thread that answers a pod's names: one is enough, and pods share them
/// evenly.
fn one_of<'b>(bound: &'b mut [Bound], uid: &str) -> Option<&'b mut Bound> {
    let sum: usize = uid.bytes().map(usize::from).sum();
    let at = sum.checked_rem(bound.len())?;
    bound.get_mut(at)
}

fn register_names(bound: dns::BoundPorts) -> Result<dns::Ports, StartError> {
    let port = wire::DNS_PORT;
    bound
        .register()
        .map_err(|source| StartError::Register { port, source })
}

fn register(listener: BoundListener, port: u16) -> Result<Listener, StartError> {
    listener
        .register()
        .map_err(|source| StartError::Register { port, source })
}

impl Bound {
    fn try_clone(&self) -> Result<Self, StartError> {
        let captured = match &self.captured {
            Some(captured) => Some(BoundCaptured {
                outbound: duplicate(&captured.outbound, wire::OUTBOUND_PORT)?,
                passthrough: duplicate(&captured.passthrough, wire::INBOUND_PASSTHROUGH_PORT)?,
            }),
            None => None,
        };
        Ok(Self {
            captured,
            hbone: duplicate(&self.hbone, wire::HBONE_PORT)?,
            names: None,
        })
    }
}

fn duplicate(listener: &BoundListener, port: u16) -> Result<BoundListener, StartError> {
    listener
        .try_clone()
        .map_err(|source| StartError::Register { port, source })
}

/// A data thread answers at once unless something is badly wrong.
const THREAD_ANSWER: Duration = Duration::from_secs(2);
