//! Resources as the compiler would make them.

use std::net::IpAddr;

use ambit_proto::waypoint as pb;
use prost::Message;

pub(crate) const GATEWAY: &str = pb::GATEWAY_TYPE;
pub(crate) const ENDPOINTS: &str = pb::ENDPOINTS_TYPE;
pub(crate) const BACKEND: &str = pb::BACKEND_TYPE;
pub(crate) const ROUTE: &str = pb::ROUTE_TYPE;
pub(crate) const FRONTEND: &str = pb::FRONTEND_TYPE;
pub(crate) const AUTHORIZATION: &str = pb::WAYPOINT_AUTHORIZATION_TYPE;
pub(crate) const AUTHENTICATION: &str = pb::AUTHENTICATION_TYPE;
pub(crate) const RATE_LIMIT: &str = pb::RATE_LIMIT_TYPE;
pub(crate) const WORKLOAD: &str = pb::POD_TYPE;

pub(crate) fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(crate) fn origin(kind: &str, name: &str) -> Option<pb::Origin> {
    Some(pb::Origin {
        kind: kind.to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        generation: 1,
    })
}

pub(crate) fn gateway_message() -> pb::Gateway {
    pb::Gateway {
        origin: origin("Gateway", "wp"),
        trust_domain: "cluster.local".to_owned(),
        root_namespace: "istio-system".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        traffic: pb::TrafficType::All.into(),
        ..pb::Gateway::default()
    }
}

pub(crate) fn gateway() -> Vec<u8> {
    gateway_message().encode_to_vec()
}

pub(crate) fn frontend(name: &str, vip: IpAddr, ports: &[(u32, pb::Protocol)]) -> Vec<u8> {
    let port = |(number, protocol): &(u32, pb::Protocol)| pb::FrontendPort {
        number: *number,
        name: String::new(),
        protocol: (*protocol).into(),
    };
    let address = bytes(vip);
    pb::Frontend {
        origin: origin("Service", name),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        hostname: host(name),
        addresses: vec![pb::Cidr {
            length: u32::try_from(address.len() * 8).unwrap(),
            address,
        }],
        ports: ports.iter().map(port).collect(),
        ..pb::Frontend::default()
    }
    .encode_to_vec()
}

pub(crate) fn backend_message(name: &str, ports: &[(u32, pb::Protocol)]) -> pb::Backend {
    let port = |(number, protocol): &(u32, pb::Protocol)| pb::BackendPort {
        number: *number,
        protocol: (*protocol).into(),
        ..pb::BackendPort::default()
    };
    pb::Backend {
        origin: origin("Service", name),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        hostname: host(name),
        ports: ports.iter().map(port).collect(),
        ..pb::Backend::default()
    }
}

pub(crate) fn host(name: &str) -> String {
    format!("{name}.shop.svc.cluster.local")
}

pub(crate) fn key(name: &str) -> String {
    format!("shop/{}", host(name))
}

/// An endpoint; with an account it speaks HBONE.
pub(crate) fn endpoint(uid: &str, ip: IpAddr, account: Option<&str>) -> pb::Endpoint {
    pb::Endpoint {
        uid: uid.to_owned(),
        addresses: vec![bytes(ip)],
        hbone: account.is_some(),
        trust_domain: account
            .map(|_| "cluster.local".to_owned())
            .unwrap_or_default(),
        namespace: "shop".to_owned(),
        service_account: account.unwrap_or_default().to_owned(),
        ports: vec![
            pb::PortMapping {
                service: 80,
                target: 8080,
            },
            pb::PortMapping {
                service: 90,
                target: 8080,
            },
        ],
        workload_name: uid.to_owned(),
        canonical_name: uid.to_owned(),
        ..pb::Endpoint::default()
    }
}

pub(crate) fn endpoints(all: &[pb::Endpoint]) -> Vec<u8> {
    pb::Endpoints {
        endpoints: all.to_vec(),
        ..pb::Endpoints::default()
    }
    .encode_to_vec()
}

/// A VirtualService-like route of the frontend `name`.
pub(crate) fn route(name: &str, rules: Vec<pb::Rule>) -> Vec<u8> {
    pb::Route {
        origin: origin("HTTPRoute", "r"),
        parents: vec![pb::Parent {
            frontend: key(name),
            port: 0,
        }],
        rules,
        ..pb::Route::default()
    }
    .encode_to_vec()
}

pub(crate) fn to(name: &str, weight: u32) -> pb::BackendRef {
    pb::BackendRef {
        service: key(name),
        port: 80,
        weight,
        ..pb::BackendRef::default()
    }
}

pub(crate) fn at_path(path: &str) -> pb::Match {
    pb::Match {
        path: Some(pb::PathMatch {
            kind: Some(pb::path_match::Kind::ElementPrefix(path.to_owned())),
            ignore_case: false,
        }),
        ..pb::Match::default()
    }
}
