//! `config_dump`: the view as JSON, in the shape that `istioctl` reads
//! (`ztunnel-contract` 9.2). Fields are declared in alphabetical order, which
//! is the order of the output.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_policy::{Action, Authorization, Rule, Scope};
use ambit_types::{Locality, NamespacedHostname, NamespacedName};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::{Value, json};

use crate::model::{
    ApplicationTunnel, GatewayAddress, Health, HealthPolicy, IpFamilies, LoadBalancing,
    LoadBalancingMode, NetworkMode, PortMap, Protocol, RoutingScope, Service, TunnelProtocol,
    Visibility, WeightedWaypoint, Workload,
};
use crate::static_config::StaticConfig;
use crate::view::View;

/// The keys `policies`, `services`, `stagedServices`, `staticConfig` and
/// `workloads` of a `config_dump`.
pub fn dump(view: &View) -> Value {
    let mut workloads: Vec<_> = view.workloads().collect();
    workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
    let mut services: Vec<_> = view.services().collect();
    services.sort_by_key(|one| (&one.key.hostname, &one.key.namespace));
    let mut policies: Vec<_> = view
        .policies
        .iter()
        .filter_map(|(_, entry)| entry.policy())
        .collect();
    policies.sort_by(|a, b| a.key.cmp(&b.key));
    let staged: BTreeMap<_, _> = view
        .endpoints
        .keys()
        .filter(|key| view.service(key).is_none())
        .map(|key| (key.to_string(), endpoints(view, key)))
        .collect();
    json!({
        "policies": policies.into_iter().map(|one| policy(one)).collect::<Vec<_>>(),
        "services": services
            .into_iter()
            .map(|one| service(one, endpoints(view, &one.key)))
            .collect::<Vec<_>>(),
        "stagedServices": staged,
        "staticConfig": view.static_config.as_deref().map_or_else(
            || static_config(&StaticConfig::default()),
            static_config,
        ),
        "workloads": workloads.into_iter().map(|one| workload(one)).collect::<Vec<_>>(),
    })
}

/// The key `staticConfig`.
pub(crate) fn static_config(config: &StaticConfig) -> Value {
    json!({
        "policies": config.policies().iter().map(policy).collect::<Vec<_>>(),
        "services": config
            .services()
            .iter()
            .map(|one| service(one, BTreeMap::new()))
            .collect::<Vec<_>>(),
        "workloads": config
            .workloads()
            .iter()
            .map(|one| static_workload(one))
            .collect::<Vec<_>>(),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WorkloadDump<'a, S> {
    #[serde(skip_serializing_if = "Option::is_none")]
    application_tunnel: Option<TunnelDump>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    authorization_policies: &'a [NamespacedName],
    #[serde(skip_serializing_if = "str::is_empty")]
    canonical_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    canonical_revision: &'a str,
    capacity: u32,
    cluster_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    hostname: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    locality: Option<LocalityDump<'a>>,
    name: &'a str,
    namespace: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    native_tunnel: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    network: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_gateway: Option<GatewayDump>,
    network_mode: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    node: &'a str,
    protocol: &'static str,
    service_account: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    services: Option<S>,
    status: &'static str,
    trust_domain: &'a str,
    uid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<GatewayDump>,
    workload_ips: &'a [IpAddr],
    #[serde(skip_serializing_if = "str::is_empty")]
    workload_name: &'a str,
    workload_type: &'static str,
}

#[derive(Serialize)]
struct LocalityDump<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    region: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subzone: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    zone: &'a str,
}

#[derive(Serialize)]
struct TunnelDump {
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    protocol: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GatewayDump {
    destination: String,
    hbone_mtls_port: u16,
}

#[derive(Serialize)]
struct WeightedDump {
    destination: GatewayDump,
    weight: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceDump<'a> {
    canonical: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cidr_vips: Vec<CidrDump<'a>>,
    endpoints: BTreeMap<&'a str, EndpointDump<'a>>,
    hostname: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_families: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_balancer: Option<BalancerDump>,
    name: &'a str,
    namespace: &'a str,
    ports: BTreeMap<u16, u16>,
    subject_alt_names: &'a [Arc<str>],
    vips: Vec<String>,
    visibility: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<GatewayDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    weighted_waypoints: Vec<WeightedDump>,
}

#[derive(Serialize)]
struct CidrDump<'a> {
    cidr: IpNet,
    network: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointDump<'a> {
    port: BTreeMap<u16, u16>,
    status: &'static str,
    workload_uid: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BalancerDump {
    health_policy: &'static str,
    mode: &'static str,
    routing_preferences: Vec<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyDump<'a> {
    action: Action,
    dry_run: bool,
    name: &'a str,
    namespace: &'a str,
    rules: &'a [Rule],
    scope: Scope,
}

fn workload(one: &Workload) -> Value {
    let services: Vec<_> = one
        .services
        .iter()
        .map(|(key, _)| key.to_string())
        .collect();
    to_value(workload_dump(one, Some(services).filter(|s| !s.is_empty())))
}

/// As in the file: with the ports of each service.
fn static_workload(one: &Workload) -> Value {
    let services: BTreeMap<_, _> = one
        .services
        .iter()
        .map(|(key, map)| (key.to_string(), ports(map)))
        .collect();
    to_value(workload_dump(one, Some(services)))
}

fn workload_dump<S>(one: &Workload, services: Option<S>) -> WorkloadDump<'_, S> {
    WorkloadDump {
        application_tunnel: one.application_tunnel.map(tunnel),
        authorization_policies: &one.authorization_policies,
        canonical_name: &one.canonical_name,
        canonical_revision: &one.canonical_revision,
        capacity: one.capacity,
        cluster_id: &one.cluster_id,
        hostname: &one.hostname,
        locality: locality(&one.locality),
        name: &one.name,
        namespace: &one.namespace,
        native_tunnel: one.native_tunnel,
        network: &one.network,
        network_gateway: one.network_gateway.as_ref().map(gateway),
        network_mode: match one.network_mode {
            NetworkMode::Standard => "Standard",
            NetworkMode::HostNetwork => "HostNetwork",
        },
        node: &one.node,
        protocol: match one.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Hbone => "HBONE",
        },
        service_account: &one.service_account,
        services,
        status: status(one.health),
        trust_domain: &one.trust_domain,
        uid: one.uid.as_str(),
        waypoint: one.waypoint.as_ref().map(gateway),
        workload_ips: &one.ips,
        workload_name: &one.workload_name,
        workload_type: one.workload_type.as_str(),
    }
}

fn service(one: &Service, endpoints: BTreeMap<&str, EndpointDump<'_>>) -> Value {
    let ranges = one.cidr_vips.iter().map(|range| CidrDump {
        cidr: range.cidr,
        network: &range.network,
    });
    to_value(ServiceDump {
        canonical: one.canonical,
        cidr_vips: ranges.collect(),
        endpoints,
        hostname: &one.key.hostname,
        ip_families: one.ip_families.map(|families| match families {
            IpFamilies::Ipv4 => "IPv4",
            IpFamilies::Ipv6 => "IPv6",
            IpFamilies::Dual => "Dual",
        }),
        load_balancer: balancer(&one.load_balancing),
        name: &one.name,
        namespace: &one.key.namespace,
        ports: ports(&one.ports),
        subject_alt_names: &one.subject_alt_names,
        vips: one.vips.iter().map(ToString::to_string).collect(),
        visibility: match one.visibility {
            Visibility::Public => "Public",
            Visibility::Namespace => "Namespace",
        },
        waypoint: one.waypoint.as_ref().map(gateway),
        weighted_waypoints: one.weighted_waypoints.iter().map(weighted).collect(),
    })
}

fn policy(one: &Authorization) -> Value {
    to_value(PolicyDump {
        action: one.action,
        dry_run: one.dry_run,
        name: &one.key.name,
        namespace: &one.key.namespace,
        rules: &one.rules,
        scope: one.scope,
    })
}

fn endpoints<'v>(view: &'v View, key: &NamespacedHostname) -> BTreeMap<&'v str, EndpointDump<'v>> {
    let dumps = view.endpoints(key).map(|one| {
        let dump = EndpointDump {
            port: one.ports_in(key).map(ports).unwrap_or_default(),
            status: status(one.health),
            workload_uid: one.uid.as_str(),
        };
        (one.uid.as_str(), dump)
    });
    dumps.collect()
}

fn ports(map: &PortMap) -> BTreeMap<u16, u16> {
    map.iter().collect()
}

fn status(health: Health) -> &'static str {
    match health {
        Health::Healthy => "Healthy",
        Health::Unhealthy => "Unhealthy",
    }
}

fn locality(one: &Locality) -> Option<LocalityDump<'_>> {
    (!one.is_empty()).then(|| LocalityDump {
        region: &one.region,
        subzone: &one.subzone,
        zone: &one.zone,
    })
}

fn tunnel(one: ApplicationTunnel) -> TunnelDump {
    TunnelDump {
        port: one.port,
        protocol: match one.protocol {
            TunnelProtocol::None => "NONE",
            TunnelProtocol::Proxy => "PROXY",
        },
    }
}

fn gateway(one: &GatewayAddress) -> GatewayDump {
    GatewayDump {
        destination: one.destination.to_string(),
        hbone_mtls_port: one.hbone_mtls_port,
    }
}

fn weighted(one: &WeightedWaypoint) -> WeightedDump {
    WeightedDump {
        destination: gateway(&one.destination),
        weight: one.weight,
    }
}

fn balancer(one: &LoadBalancing) -> Option<BalancerDump> {
    if *one == LoadBalancing::default() {
        return None;
    }
    let scope = |scope: &RoutingScope| match scope {
        RoutingScope::Region => "Region",
        RoutingScope::Zone => "Zone",
        RoutingScope::Subzone => "Subzone",
        RoutingScope::Node => "Node",
        RoutingScope::Cluster => "Cluster",
        RoutingScope::Network => "Network",
    };
    Some(BalancerDump {
        health_policy: match one.health_policy {
            HealthPolicy::OnlyHealthy => "OnlyHealthy",
            HealthPolicy::AllowAll => "AllowAll",
        },
        mode: match one.mode {
            LoadBalancingMode::Standard => "Standard",
            LoadBalancingMode::Strict => "Strict",
            LoadBalancingMode::Failover => "Failover",
            LoadBalancingMode::Passthrough => "Passthrough",
        },
        routing_preferences: one.routing_preferences.iter().map(scope).collect(),
    })
}

/// The shapes above have text keys and no floats, so they always have a JSON form.
fn to_value(shape: impl Serialize) -> Value {
    serde_json::to_value(shape).unwrap_or_else(|error| Value::String(error.to_string()))
}

#[cfg(test)]
mod tests;
