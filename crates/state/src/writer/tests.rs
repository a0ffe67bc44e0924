//! What resources do to the view; the decoding rules are beside `decode`.

mod addresses;
mod policies;
mod properties;
mod waiting;

use super::*;

/// A pod of `shop` with one address, its uid as istiod writes it.
fn pod(name: &str, ip: [u8; 4]) -> pb::Workload {
    pb::Workload {
        uid: format!("c//Pod/shop/{name}"),
        name: name.into(),
        namespace: "shop".into(),
        node: "n1".into(),
        addresses: vec![Bytes::copy_from_slice(&ip)],
        tunnel_protocol: pb::TunnelProtocol::Hbone.into(),
        ..Default::default()
    }
}

/// That pod as an endpoint of a service, on port 80.
fn endpoint_of(service: &str, mut pod: pb::Workload) -> pb::Workload {
    let ports = vec![port(80, 8080)];
    pod.services.insert(service.into(), pb::PortList { ports });
    pod
}

fn port(service_port: u32, target_port: u32) -> pb::Port {
    pb::Port {
        service_port,
        target_port,
        ..Default::default()
    }
}

fn service(host: &str, vip: [u8; 4]) -> pb::Service {
    pb::Service {
        name: host.into(),
        namespace: "shop".into(),
        hostname: host.into(),
        addresses: vec![pb::NetworkAddress {
            address: vip.to_vec(),
            ..Default::default()
        }],
        ports: vec![port(80, 80)],
        ..Default::default()
    }
}

fn named(workload: pb::Workload) -> (String, pb::Address) {
    let r#type = Some(pb::address::Type::Workload(workload.clone()));
    (workload.uid, pb::Address { r#type })
}

fn named_service(service: pb::Service) -> (String, pb::Address) {
    let name = format!("{}/{}", service.namespace, service.hostname);
    let r#type = Some(pb::address::Type::Service(service));
    (name, pb::Address { r#type })
}

fn started() -> (StateWriter, StateReader) {
    new(StateConfig {
        local_node: Some("n1".into()),
        ..StateConfig::default()
    })
}
