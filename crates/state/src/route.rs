//! The outcomes of a routing decision: where to, by which rule, or why not.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_types::{FlowReason, SpiffeId};

use crate::model::{Service, Workload};

/// The rule that decided an outbound connection (`ztunnel-contract` 3.2). Row 2,
/// an unknown source, is decided before there is a source to route for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Row {
    /// 1: loopback and a port of the proxy.
    RecursiveCall,
    /// 3: a service with a waypoint.
    ServiceWaypoint,
    /// 4: a service whose mode is PASSTHROUGH.
    ServicePassthrough,
    /// 5: a service without a usable endpoint.
    NoEndpoint,
    /// 6: nothing is known about the destination.
    UnknownDestination,
    /// 7: an endpoint on another network.
    OtherNetwork,
    /// 8: a workload with a waypoint.
    WorkloadWaypoint,
    /// 9: a workload that takes HBONE.
    Hbone,
    /// 10: a workload that takes plain TCP.
    Tcp,
}

impl Row {
    /// Its number in the contract.
    pub fn number(self) -> u8 {
        match self {
            Self::RecursiveCall => 1,
            Self::ServiceWaypoint => 3,
            Self::ServicePassthrough => 4,
            Self::NoEndpoint => 5,
            Self::UnknownDestination => 6,
            Self::OtherNetwork => 7,
            Self::WorkloadWaypoint => 8,
            Self::Hbone => 9,
            Self::Tcp => 10,
        }
    }
}

/// Where an outbound connection goes.
#[derive(Debug, Clone)]
pub enum OutboundRoute {
    /// To where the application dialled, as plain TCP and without labels.
    Passthrough {
        /// The original destination.
        dst: SocketAddr,
        /// Why: [`Row::UnknownDestination`] or [`Row::ServicePassthrough`].
        row: Row,
    },
    /// To a workload that isn't in the mesh, as plain TCP.
    Tcp {
        /// Its address and target port.
        dst: SocketAddr,
        /// It.
        workload: Arc<Workload>,
        /// The service through which it was chosen.
        service: Option<Arc<Service>>,
    },
    /// Through a CONNECT tunnel, to a workload or to its waypoint.
    Hbone {
        /// Why: [`Row::Hbone`], or a waypoint's row.
        row: Row,
        /// The next hop's HBONE address.
        dial: SocketAddr,
        /// `:authority` of the CONNECT (`ztunnel-contract` 2.3).
        authority: String,
        /// One of these the next hop must prove (2.2), in pool-key order.
        expected: Arc<[SpiffeId]>,
        /// The next hop.
        workload: Arc<Workload>,
        /// The service that the application meant.
        service: Option<Arc<Service>>,
    },
}

impl OutboundRoute {
    /// The rule that decided.
    pub fn row(&self) -> Row {
        match self {
            Self::Passthrough { row, .. } | Self::Hbone { row, .. } => *row,
            Self::Tcp { .. } => Row::Tcp,
        }
    }

    /// The next hop's workload, where one is known.
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        match self {
            Self::Passthrough { .. } => None,
            Self::Tcp { workload, .. } | Self::Hbone { workload, .. } => Some(workload),
        }
    }

    /// The service that the application meant, where one is known.
    pub fn service(&self) -> Option<&Arc<Service>> {
        match self {
            Self::Passthrough { .. } => None,
            Self::Tcp { service, .. } | Self::Hbone { service, .. } => service.as_ref(),
        }
    }
}

/// Where an inbound stream goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundRoute {
    /// The accepted local address and the final port: what policies see as the
    /// destination, and what to dial.
    pub dial: SocketAddr,
    /// The application expects a PROXY protocol header first, which names this
    /// as the destination (`ztunnel-contract` 2.9).
    pub proxied: Option<SocketAddr>,
}

/// Why a connection has no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// It would come back to this proxy.
    #[error("attempted recursive call to ourselves: {0}")]
    Recursive(SocketAddr),
    /// The service has no endpoint that may be used for this port.
    #[error("no healthy upstream: {0}")]
    NoHealthyUpstream(SocketAddr),
    /// The endpoint is on another network and no gateway leads there.
    #[error("no valid destination: {workload} is on network {network:?} and has no gateway")]
    NoGateway {
        /// The endpoint's uid.
        workload: Arc<str>,
        /// Its network.
        network: Arc<str>,
    },
    /// The waypoint isn't known, or has no endpoint.
    #[error("unknown waypoint: {0}")]
    UnknownWaypoint(Arc<str>),
    /// It needs what this build doesn't have.
    #[error("{feature} are not supported by this build yet: {needed_by}")]
    Unsupported {
        /// What it needs.
        feature: Feature,
        /// What needs it.
        needed_by: Arc<str>,
    },
    /// CONNECT names an address that isn't this pod's.
    #[error("ip mismatch: {authority} != {local}")]
    AddressMismatch {
        /// The address in the authority.
        authority: IpAddr,
        /// The address that accepted the tunnel.
        local: IpAddr,
    },
    /// CONNECT names a host that this pod's namespace doesn't know.
    #[error("unknown hostname: {0}")]
    UnknownHostname(Arc<str>),
    /// CONNECT names a host without an address, and the application is to be
    /// told one.
    #[error("no address to announce: {0} has no virtual address")]
    NoAddress(Arc<str>),
    /// CONNECT names a port that the service doesn't have, or whose target is unknown.
    #[error("no target port: {host} has no port {port} here")]
    UnknownPort {
        /// The host in the authority.
        host: Arc<str>,
        /// The port in the authority.
        port: u16,
    },
}

/// What later builds have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Endpoints on other networks.
    OtherNetworks,
    /// Workloads that are found by DNS.
    ResolvedWorkloads,
}

impl std::fmt::Display for Feature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OtherNetworks => "other networks",
            Self::ResolvedWorkloads => "workloads found by DNS",
        })
    }
}

impl RouteError {
    /// The one name of this refusal.
    pub fn reason(&self) -> FlowReason {
        match self {
            Self::Recursive(_) => FlowReason::RecursiveCall,
            Self::NoHealthyUpstream(_)
            | Self::NoGateway { .. }
            | Self::NoAddress(_)
            | Self::UnknownPort { .. } => FlowReason::NoHealthyUpstream,
            Self::UnknownWaypoint(_) => FlowReason::UnknownWaypoint,
            Self::Unsupported { .. } => FlowReason::Unsupported,
            Self::AddressMismatch { .. } => FlowReason::AddressMismatch,
            Self::UnknownHostname(_) => FlowReason::UnknownDestination,
        }
    }
}
