//! Services and workloads that this waypoint serves, with what is bound to
//! each of their ports.

use std::net::IpAddr;
use std::sync::Arc;

use ambit_jwt::Authenticator;
use ambit_observe::Telemetry;
use ambit_policy::http::HttpPolicies;
use ambit_proto::waypoint as pb;
use ambit_route::Routes;
use ambit_telemetry::ServiceLabels;
use ambit_upstream::{Endpoint, RateLimit};

use super::{Key, ip};
use crate::protocol::Declared;

/// A service.
pub(crate) struct Frontend {
    pub(crate) key: Key,
    pub(crate) message: Arc<pb::Frontend>,
    /// In order of their numbers.
    pub(crate) ports: Vec<Arc<Port>>,
    pub(crate) routes: Arc<Routes>,
    /// The gateway's, with the frontend's own on top.
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) labels: Arc<ServiceLabels>,
}

impl Frontend {
    /// A service port.
    pub(crate) fn port(&self, number: u16) -> Option<&Arc<Port>> {
        let at = self.ports.binary_search_by_key(&number, |port| port.number);
        self.ports.get(at.ok()?)
    }
}

/// A port with what decides about its requests.
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) declared: Declared,
    pub(crate) upstream: Upstream,
    /// gRPC-Web is translated.
    pub(crate) grpc_web: bool,
    pub(crate) policies: HttpPolicies,
    pub(crate) authenticator: Authenticator,
    /// Those that may hold for the port; which do depends on the route.
    pub(crate) limits: Vec<Arc<RateLimit>>,
}

/// What is spoken to backends, as far as the port says (1.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upstream {
    Http1,
    Http2,
    /// What the client speaks.
    SameAsClient,
}

/// A workload whose own addresses are reached through this waypoint.
pub(crate) struct Pod {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Ports that stand for a service's: (port, frontend, service port).
    pub(crate) mapped: Vec<(u16, Key, u16)>,
    pub(crate) declared: Vec<(u16, Declared, Upstream)>,
    pub(crate) policies: HttpPolicies,
    pub(crate) authenticator: Authenticator,
}

impl Pod {
    /// The service port that a port of the pod stands for.
    pub(crate) fn mapped(&self, port: u16) -> Option<(&Key, u16)> {
        let found = self.mapped.iter().find(|(own, ..)| *own == port)?;
        Some((&found.1, found.2))
    }

    /// What a port of the pod speaks.
    pub(crate) fn protocol(&self, port: u16) -> (Declared, Upstream) {
        let found = self.declared.iter().find(|(own, ..)| *own == port);
        found.map_or((Declared::Auto, Upstream::SameAsClient), |found| {
            (found.1, found.2)
        })
    }
}

/// What a declared protocol means on both sides (1.8).
pub(super) fn protocol(declared: pb::Protocol) -> (Declared, Upstream) {
    use pb::Protocol::{Auto, Grpc, GrpcWeb, Http, Http2, Tcp, Tls};
    match declared {
        Auto => (Declared::Auto, Upstream::SameAsClient),
        Http => (Declared::Http, Upstream::Http1),
        Http2 | Grpc | GrpcWeb => (Declared::Http, Upstream::Http2),
        Tcp => (Declared::Tcp, Upstream::Http1),
        Tls => (Declared::Tls, Upstream::Http1),
    }
}

/// Addresses of a frontend as blocks; a full-length one is a VIP.
pub(crate) fn block(cidr: &pb::Cidr) -> Option<ipnet::IpNet> {
    let address: IpAddr = ip(&cidr.address)?;
    let length = u8::try_from(cidr.length).ok()?;
    ipnet::IpNet::new(address, length)
        .ok()
        .map(|net| net.trunc())
}
