//! From the file's shape to the nouns of the view.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_policy::Authorization;
use ambit_types::{
    NamespacedHostname, NamespacedName, NetworkAddr, SpiffeId, WorkloadUid, canonical_ip,
};
use ipnet::IpNet;

use super::document::{Document, GatewayDoc, PolicyDoc, ServiceDoc, TunnelDoc, WorkloadDoc};
use super::{StaticConfig, StaticConfigError};
use crate::decode::DEFAULT_CAPACITY;
use crate::model::{
    ApplicationTunnel, GatewayAddress, GatewayDestination, LoadBalancing, NetworkCidr, Service,
    WeightedWaypoint, Workload,
};

type Result<T> = std::result::Result<T, StaticConfigError>;

pub(super) fn read(document: Document) -> Result<StaticConfig> {
    let workloads = each("workloads", document.workloads, workload)?;
    let services = each("services", document.services, service)?;
    let policies = each("policies", document.policies, |_, doc| Ok(policy(doc)))?;
    let mut uids = HashSet::new();
    for (index, one) in workloads.iter().enumerate() {
        if !uids.insert(&one.uid) {
            let path = format!("workloads[{index}].uid");
            return Err(bad(
                path,
                one.uid.as_str(),
                "is the uid of another workload too",
            ));
        }
    }
    let mut keys = HashSet::new();
    for (index, one) in services.iter().enumerate() {
        if !keys.insert(&one.key) {
            let path = format!("services[{index}]");
            return Err(bad(path, one.key.to_string(), "is another service too"));
        }
    }
    let mut names = HashSet::new();
    for (index, one) in policies.iter().enumerate() {
        if !names.insert(&one.key) {
            let path = format!("policies[{index}]");
            return Err(bad(path, one.key.to_string(), "is another policy too"));
        }
    }
    Ok(StaticConfig {
        workloads: workloads.into_iter().map(Arc::new).collect(),
        services: services.into_iter().map(Arc::new).collect(),
        policies,
    })
}

fn each<D, T>(name: &str, docs: Vec<D>, read: impl Fn(&str, D) -> Result<T>) -> Result<Vec<T>> {
    docs.into_iter()
        .enumerate()
        .map(|(index, doc)| read(&format!("{name}[{index}]"), doc))
        .collect()
}

fn workload(at: &str, doc: WorkloadDoc) -> Result<Workload> {
    let namespace: Arc<str> = doc.namespace.into();
    let trust_domain: Arc<str> = doc.trust_domain.into();
    let service_account: Arc<str> = doc.service_account.into();
    // Without a trust domain there is no identity, and so no certificate.
    let id = SpiffeId::new(
        Arc::clone(&trust_domain),
        Arc::clone(&namespace),
        Arc::clone(&service_account),
    );
    let mut services = doc
        .services
        .into_iter()
        .map(|(key, ports)| {
            let path = format!("{at}.services");
            Ok((host_name(path, &key)?, ports.0.into_iter().collect()))
        })
        .collect::<Result<Vec<_>>>()?;
    services.sort_by(|(a, _), (b, _)| a.cmp(b));
    let uid = match doc.uid.is_empty() {
        // Two entries without one are still two workloads.
        true => WorkloadUid::from(format!("static/{at}/{namespace}/{}", doc.name)),
        false => WorkloadUid::from(doc.uid),
    };
    Ok(Workload {
        expected: id.ok().into_iter().collect(),
        uid,
        name: doc.name.into(),
        ips: doc.workload_ips.into_iter().map(canonical_ip).collect(),
        hostname: doc.hostname.into(),
        network: doc.network.into(),
        network_mode: doc.network_mode.into(),
        network_gateway: gateway(at, "networkGateway", doc.network_gateway)?,
        protocol: doc.protocol.into(),
        waypoint: gateway(at, "waypoint", doc.waypoint)?,
        native_tunnel: doc.native_tunnel,
        application_tunnel: doc.application_tunnel.map(tunnel),
        services,
        health: doc.status.into(),
        capacity: doc.capacity.unwrap_or(DEFAULT_CAPACITY),
        authorization_policies: doc
            .authorization_policies
            .into_iter()
            .map(|name| {
                let path = format!("{at}.authorizationPolicies");
                name.parse::<NamespacedName>()
                    .map_err(|_| bad(path, name, "is not of the form NAMESPACE/NAME"))
            })
            .collect::<Result<_>>()?,
        node: doc.node.into(),
        cluster_id: doc.cluster_id.into(),
        locality: doc.locality,
        canonical_name: doc.canonical_name.into(),
        canonical_revision: doc.canonical_revision.into(),
        workload_name: doc.workload_name.into(),
        workload_type: doc.workload_type.into(),
        namespace,
        trust_domain,
        service_account,
    })
}

fn tunnel(doc: TunnelDoc) -> ApplicationTunnel {
    ApplicationTunnel {
        protocol: doc.protocol.into(),
        port: doc.port.filter(|port| *port != 0),
    }
}

fn service(at: &str, doc: ServiceDoc) -> Result<Service> {
    let vips = doc.vips.into_iter();
    let ranges = doc.cidr_vips.into_iter();
    let weighted = doc.weighted_waypoints.into_iter();
    let mut cidr_vips = Vec::new();
    let mut vips = vips
        .map(|vip| network_addr(format!("{at}.vips"), &vip))
        .collect::<Result<Vec<_>>>()?;
    for range in ranges {
        let path = format!("{at}.cidrVips");
        let parsed = range.cidr.parse::<IpNet>();
        let cidr = parsed.map_err(|_| bad(path, range.cidr, "is not a CIDR"))?;
        let network: Arc<str> = range.network.into();
        if cidr.prefix_len() == cidr.max_prefix_len() {
            vips.push(NetworkAddr::new(network, cidr.addr()));
        } else {
            let cidr = cidr.trunc();
            cidr_vips.push(NetworkCidr { network, cidr });
        }
    }
    let key = format!("{}/{}", doc.namespace, doc.hostname);
    Ok(Service {
        key: host_name(format!("{at}.hostname"), &key)?,
        name: doc.name.into(),
        vips,
        cidr_vips,
        ports: doc.ports.0.into_iter().collect(),
        identities: doc
            .subject_alt_names
            .iter()
            .map(|name| {
                let path = format!("{at}.subjectAltNames");
                name.parse::<SpiffeId>()
                    .map_err(|_| bad(path, name.as_str(), "is not a workload's SPIFFE identity"))
            })
            .collect::<Result<_>>()?,
        subject_alt_names: doc.subject_alt_names.into_iter().map(Into::into).collect(),
        waypoint: gateway(at, "waypoint", doc.waypoint)?,
        weighted_waypoints: weighted
            .map(|one| {
                Ok(WeightedWaypoint {
                    destination: read_gateway(at, "weightedWaypoints", &one.destination)?,
                    weight: one.weight,
                })
            })
            .collect::<Result<_>>()?,
        load_balancing: doc.load_balancer.map_or_else(LoadBalancing::default, |lb| {
            let scopes = lb.routing_preferences.into_iter();
            LoadBalancing {
                routing_preferences: scopes.map(Into::into).collect(),
                mode: lb.mode.into(),
                health_policy: lb.health_policy.into(),
            }
        }),
        ip_families: doc.ip_families.map(Into::into),
        canonical: doc.canonical,
        visibility: doc.visibility.into(),
    })
}

fn policy(doc: PolicyDoc) -> Authorization {
    Authorization {
        key: NamespacedName::new(doc.namespace, doc.name),
        scope: doc.scope,
        action: doc.action,
        rules: doc.rules,
        dry_run: doc.dry_run,
    }
}

fn gateway(at: &str, field: &str, doc: Option<GatewayDoc>) -> Result<Option<GatewayAddress>> {
    doc.map(|doc| read_gateway(at, field, &doc)).transpose()
}

/// `network/ip`, or else `namespace/hostname`.
fn read_gateway(at: &str, field: &str, doc: &GatewayDoc) -> Result<GatewayAddress> {
    let path = format!("{at}.{field}.destination");
    let text = &doc.destination;
    let destination = match network_addr(path.clone(), text) {
        Ok(addr) => GatewayDestination::Address(addr),
        Err(_) => GatewayDestination::Hostname(host_name(path, text)?),
    };
    Ok(GatewayAddress {
        destination,
        hbone_mtls_port: doc.hbone_mtls_port,
    })
}

fn network_addr(path: String, text: &str) -> Result<NetworkAddr> {
    let parts = text.split_once('/');
    let addr = parts.and_then(|(network, ip)| Some((network, ip.parse::<IpAddr>().ok()?)));
    match addr {
        Some((network, ip)) => Ok(NetworkAddr::new(network, ip)),
        None => Err(bad(path, text, "is not of the form NETWORK/IP")),
    }
}

fn host_name(path: String, text: &str) -> Result<NamespacedHostname> {
    text.parse()
        .map_err(|_| bad(path, text, "is not of the form NAMESPACE/HOSTNAME"))
}

fn bad(path: String, value: impl Into<String>, problem: &'static str) -> StaticConfigError {
    StaticConfigError::Value {
        path,
        value: value.into(),
        problem,
    }
}
