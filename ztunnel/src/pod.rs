//! One pod's proxy on one data thread: the context of every path.

use std::net::SocketAddr;
use std::sync::Arc;

use ambit_hbone::{HandshakeGate, HboneConfig, Pool};
use ambit_net::{Listener, PodSockets};
use ambit_redirect::zds::WorkloadInfo;
use ambit_runtime::{DrainWatch, Scope};
use ambit_state::Workload;
use ambit_types::Direction;
use tokio::net::TcpStream;

use crate::accept::accept_loop;
use crate::authorize;
use crate::error::FlowError;
use crate::flow::{Flows, OpenFlow, refuse};
use crate::identify::Identify;
use crate::node::Node;
use crate::{dns, inbound, outbound, passthrough};

/// Everything that a connection of this pod may need on this thread.
pub(crate) struct PodProxy {
    pub(crate) node: Arc<Node>,
    pub(crate) pod: WorkloadInfo,
    pub(crate) sockets: PodSockets,
    /// Clients' addresses are kept towards the application.
    pub(crate) keeps_source: bool,
    pub(crate) pool: Pool,
    pub(crate) flows: Arc<Flows>,
    pub(crate) hbone: HboneConfig,
    /// Bounds the handshakes of this thread, all its pods together.
    pub(crate) gate: HandshakeGate,
    /// Owns the connections; a drain waits for them.
    pub(crate) connections: Scope,
    /// When listeners are handed over.
    pub(crate) closing: DrainWatch,
    /// When connections are asked to end.
    pub(crate) drain: DrainWatch,
    /// Listeners that this process has of each port of the pod.
    pub(crate) listeners: u32,
}

/// The listeners of a pod on one data thread.
pub(crate) struct Listeners {
    /// What redirection brings; this process's own namespace has none.
    pub(crate) captured: Option<CapturedPorts>,
    pub(crate) hbone: Listener,
    /// Where names are asked: on one thread of a pod.
    pub(crate) names: Option<dns::Ports>,
}

/// Where redirected connections arrive.
pub(crate) struct CapturedPorts {
    pub(crate) outbound: Listener,
    pub(crate) passthrough: Listener,
}

impl PodProxy {
    /// Starts to accept; every task belongs to the pod's scopes.
    pub(crate) fn run(self: &Arc<Self>, listeners: Listeners, background: &Scope) {
        background.spawn(
            "keep authorized",
            authorize::keep_authorized(Arc::clone(self)),
        );
        if let Some(captured) = listeners.captured {
            self.accept(captured.outbound, "outbound", outbound::serve);
            self.accept(captured.passthrough, "passthrough", passthrough::serve);
        }
        self.accept(listeners.hbone, "hbone", inbound::serve);
        if let Some(names) = listeners.names {
            dns::serve(self, names);
        }
    }

    /// A task for each connection.
    fn accept<F>(
        self: &Arc<Self>,
        listener: Listener,
        path: &'static str,
        serve: impl Fn(Arc<Self>, TcpStream, SocketAddr) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let proxy = Arc::clone(self);
        let spawn = move |stream, peer| {
            let task = serve(Arc::clone(&proxy), stream, peer);
            proxy.connections.spawn(path, task);
        };
        let accept = accept_loop(listener, self.listeners, self.closing.clone(), spawn);
        self.connections.spawn("accept", accept);
    }

    /// Who this pod is.
    pub(crate) fn identify(&self) -> Identify<'_> {
        Identify {
            state: &self.node.state,
            pod: &self.pod,
            control_plane: &self.node.control_plane,
            bound: self.node.limits.workload,
        }
    }

    /// The pod's workload, if it is known at this moment.
    pub(crate) fn local_now(&self) -> Option<Arc<Workload>> {
        let WorkloadInfo {
            name,
            namespace,
            service_account,
        } = &self.pod;
        self.node
            .state
            .view()
            .local_workload(name, namespace, service_account)
            .cloned()
    }

    /// Asks the policies, by a view that is newer than the flow's registration.
    pub(crate) fn authorize(&self, flow: &OpenFlow) -> Result<(), FlowError> {
        let view = self.node.state.view();
        let flow = flow.flow();
        let local = self.local_now().or_else(|| flow.facts.destination.clone());
        match local {
            Some(local) => authorize::authorize(&view, &local, flow, self),
            None => Err(FlowError::PolicyClosed),
        }
    }

    /// Refuses a connection whose ends were never known.
    pub(crate) fn refuse(
        &self,
        direction: Direction,
        src: SocketAddr,
        dst: SocketAddr,
        error: &FlowError,
    ) {
        refuse(&self.node.telling, direction, src, dst, error);
    }

    /// Refuses a connection that can't even say where it was going.
    pub(crate) fn refuse_unnamed(
        &self,
        direction: Direction,
        src: SocketAddr,
        error: std::io::Error,
    ) {
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        self.refuse(direction, src, unspecified, &FlowError::Accepted(error));
    }

    /// The address that a tunnel's connection was accepted on.
    pub(crate) fn accepted_on(&self, stream: &TcpStream) -> std::io::Result<SocketAddr> {
        stream.local_addr().map(ambit_types::canonical_socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F>(_: impl Fn(Arc<PodProxy>, TcpStream, SocketAddr) -> F) -> usize {
        size_of::<F>()
    }

    /// What an idle connection costs beyond its sockets: a change that keeps
    /// the state of setting up alive while bytes flow shows here.
    #[test]
    fn connections_are_small() {
        let sizes = [
            ("outbound", size(outbound::serve), 512),
            ("passthrough", size(passthrough::serve), 512),
            ("hbone", size(inbound::serve), 512),
            ("stream", inbound::stream_size(), 256),
            ("relay", crate::copy::relay_size(), 512),
            ("flow", size_of::<crate::flow::Flow>(), 384),
        ];
        for (path, size, limit) in sizes {
            assert!(size <= limit, "{path}: {size} bytes");
        }
    }
}
