//! Messages as the tables write them.

mod rules;

pub(crate) use rules::show_rule;

use std::net::IpAddr;

use ambit_proto::{waypoint, workload};
use serde_json::{Value, json};

pub(crate) fn show_workload(w: &workload::Workload) -> Value {
    let services = w.services.iter().map(|(key, list)| {
        // A protocol is the service's to say (contract 2.5).
        let ports = list.ports.iter().map(|p| {
            let app = match p.app_protocol() {
                workload::AppProtocol::Unknown => "",
                other => other.as_str_name(),
            };
            format!("{}:{}{app}", p.service_port, p.target_port)
        });
        (key.clone(), Value::from(ports.collect::<Vec<_>>()))
    });
    json!({
        "name": w.name,
        "namespace": w.namespace,
        "addresses": w.addresses.iter().map(|ip| show_ip(ip)).collect::<Vec<_>>(),
        "hostname": w.hostname,
        "network": w.network,
        "tunnelProtocol": w.tunnel_protocol().as_str_name(),
        "nativeTunnel": w.native_tunnel,
        "trustDomain": w.trust_domain,
        "serviceAccount": w.service_account,
        "node": w.node,
        "canonicalName": w.canonical_name,
        "canonicalRevision": w.canonical_revision,
        "workloadType": w.workload_type().as_str_name(),
        "workloadName": w.workload_name,
        "policies": w.authorization_policies,
        "status": w.status().as_str_name(),
        "clusterId": w.cluster_id,
        "services": services.collect::<serde_json::Map<_, _>>(),
        "locality": w.locality.as_ref().map(|l| format!("{}/{}/{}", l.region, l.zone, l.subzone)),
        "networkMode": w.network_mode().as_str_name(),
        "capacity": w.capacity,
        "waypoint": show_waypoint(w.waypoint.as_ref()),
        "applicationTunnel": w.application_tunnel.as_ref().map(|tunnel| {
            format!("{} {}", tunnel.protocol().as_str_name(), tunnel.port)
        }),
    })
}

pub(crate) fn show_service(s: &workload::Service) -> Value {
    let ports = s.ports.iter().map(|p| {
        let app = p.app_protocol().as_str_name();
        format!("{}:{} {app}", p.service_port, p.target_port)
    });
    let addresses = s.addresses.iter().map(|address| {
        let ip = show_ip(&address.address);
        let length = address
            .length
            .map(|length| format!("/{length}"))
            .unwrap_or_default();
        format!("{}/{ip}{length}", address.network)
    });
    let load_balancing = s.load_balancing.as_ref().map(|lb| {
        let scopes: Vec<_> = lb
            .routing_preference()
            .map(|scope| scope.as_str_name())
            .collect();
        format!(
            "{} {} {}",
            lb.mode().as_str_name(),
            scopes.join(","),
            lb.health_policy().as_str_name()
        )
    });
    json!({
        "name": s.name,
        "namespace": s.namespace,
        "hostname": s.hostname,
        "addresses": addresses.collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
        "subjectAltNames": s.subject_alt_names,
        "loadBalancing": load_balancing,
        "ipFamilies": s.ip_families().as_str_name(),
        "canonical": s.canonical,
        "visibility": s.visibility().as_str_name(),
        "waypoint": show_waypoint(s.waypoint.as_ref()),
        "weighted": s.weighted_waypoints.iter().map(|weighted| {
            let to = show_waypoint(weighted.destination.as_ref());
            format!("{} {}", to.as_str().unwrap_or_default(), weighted.weight)
        }).collect::<Vec<_>>(),
        "ingress": s.ingress_use_waypoint,
    })
}

pub(crate) fn show_endpoint(e: &waypoint::Endpoint) -> Value {
    let labels = e.labels.iter();
    let labels = labels.map(|label| format!("{}={}", label.key, label.value));
    json!({
        "addresses": e.addresses.iter().map(|ip| show_ip(ip)).collect::<Vec<_>>(),
        "hostname": e.hostname,
        "hbone": e.hbone,
        "labels": labels.collect::<Vec<_>>().join(","),
    })
}

/// `namespace/hostname` or an address; false where there is none. The port is always 15008 (contract 5.1).
fn show_waypoint(waypoint: Option<&workload::GatewayAddress>) -> Value {
    use workload::gateway_address::Destination;
    let Some(waypoint) = waypoint else {
        return false.into();
    };
    assert_eq!(waypoint.hbone_mtls_port, 15008);
    match waypoint.destination.as_ref().unwrap() {
        Destination::Hostname(name) => format!("{}/{}", name.namespace, name.hostname).into(),
        Destination::Address(address) => {
            format!("{}/{}", address.network, show_ip(&address.address)).into()
        }
    }
}

pub(crate) fn show_ip(bytes: &[u8]) -> String {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4).to_string(),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()).to_string(),
    }
}
