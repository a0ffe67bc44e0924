//! Workloads: from pods, WorkloadEntries and endpoints of slices, and what all have in common
//! (`control-plane-contract` 2).

use std::net::IpAddr;
use std::sync::Arc;

use ambit_kube::{Kind, ObjectKey, Redirection, WorkloadEntrySpec};
use ambit_proto::workload::{
    ApplicationTunnel, Locality as WireLocality, NetworkMode, TunnelProtocol, Workload,
    WorkloadStatus, WorkloadType, application_tunnel,
};
use ambit_types::{DEFAULT_TRUST_DOMAIN, Locality, NamespacedName};
use bytes::Bytes;

use super::hints::hints;
use super::members;
use crate::about::About;
use crate::codes;
use crate::input::{
    Labels, Pod, Slice, WorkloadEntry, canonical_name, canonical_revision, parse_ip, speaks_hbone,
};
use crate::output::{AddressResource, Diagnostic};
use crate::outputs::Output;
use crate::status::Status;
use crate::store::Store;
use crate::view::View;
use crate::waypoint::{self, Binding, Extra, GATEWAY_NAME};

/// A pod's workload, captured or not; none while it has no address, and none once it is over.
pub(super) fn pod(view: &View<'_>, about: About<'_, Pod>) -> Output {
    let (key, pod) = (about.key, &about.object.object);
    let mut diagnostics = hints(&about, &pod.hints);
    if let Err(bad) = &pod.addresses {
        let message = "not an address, so the pod isn't part of the mesh";
        let told = about.error(codes::BAD_ADDRESS, &bad.field, message);
        diagnostics.push(told.value(&bad.value).remedy("write an IP address"));
    }
    let at = NamespacedName::new(Arc::clone(&key.namespace), Arc::clone(&key.name));
    let message = pod
        .is_endpoint()
        .then(|| pod_workload(view.store, &at, pod));
    let own = waypoint::of_workload(view, &key.namespace, &pod.labels, pod.account());
    diagnostics.extend(waypoint::workload_status(&about, &own).1);
    let extra = Extra {
        labels: Some(&pod.labels),
        draining: pod.draining,
    };
    let tunnel = pod
        .labels
        .get(GATEWAY_NAME)
        .and_then(|gateway| application_tunnel(view, &key.namespace, gateway));
    let message = message.map(|message| Workload {
        application_tunnel: tunnel,
        ..message
    });
    Output {
        diagnostics,
        ..with_waypoint(view, (key, &own), message, &extra)
    }
}

/// A workload with the waypoint of its own addresses, and with the policies that guard its services.
fn with_waypoint(
    view: &View<'_>,
    (key, own): (&ObjectKey, &Binding),
    message: Option<Workload>,
    extra: &Extra<'_>,
) -> Output {
    let Some(mut message) = message else {
        return Output::default();
    };
    message.waypoint = own.wire(view.store.network()).0;
    let guards = waypoint::guards_of(view, &message);
    message.authorization_policies.extend(guards);
    let resource = waypoint::workload(view, (key, own), &message, extra);
    Output {
        addresses: vec![AddressResource::workload(message)],
        waypoint: resource.into_iter().collect(),
        ..Output::default()
    }
}

/// How an instance of a waypoint is told who called, if its Gateway binds that.
fn application_tunnel(
    view: &View<'_>,
    namespace: &str,
    gateway: &str,
) -> Option<ApplicationTunnel> {
    let fact = view.waypoint_fact(&NamespacedName::new(namespace, gateway))?;
    let inbound = fact.inbound?;
    let protocol = if inbound.proxy {
        application_tunnel::Protocol::Proxy
    } else {
        application_tunnel::Protocol::None
    };
    Some(ApplicationTunnel {
        protocol: protocol.into(),
        port: inbound.port.unwrap_or_default().into(),
    })
}

fn pod_workload(store: &Store, at: &NamespacedName, pod: &Pod) -> Workload {
    let namespace = &*at.namespace;
    let captured = store.redirection(at, &pod.uid) == Redirection::Enabled;
    let addresses = pod.addresses.as_deref().unwrap_or_default();
    let locality = store.nodes.get(&pod.node);
    Workload {
        uid: uid_of(store, &Store::key(Kind::Pod, &at.namespace, &at.name)).to_string(),
        name: at.name.to_string(),
        addresses: addresses.iter().map(octets).collect(),
        service_account: pod.service_account.to_string(),
        node: pod.node.to_string(),
        locality: locality.and_then(wire_locality),
        status: health(pod.healthy),
        network_mode: if pod.host_network {
            NetworkMode::HostNetwork.into()
        } else {
            NetworkMode::Standard.into()
        },
        services: members::of_pod(store, at, pod),
        ..described(store, namespace, &pod.labels, &pod.workload_name, captured)
    }
}

/// A WorkloadEntry's workload.
pub(super) fn workload_entry(view: &View<'_>, about: About<'_, WorkloadEntry>) -> Output {
    let store = view.store;
    let (key, entry) = (about.key, &about.object.object);
    let namespace = &*key.namespace;
    let mut diagnostics = hints(&about, &entry.hints);
    diagnostics.extend(unplaced(&about, "spec.address", &entry.spec));
    let uid = uid_of(store, key).to_string();
    let base = described(
        store,
        namespace,
        &entry.labels,
        &entry.workload_name,
        entry.captured,
    );
    let message = placed(&entry.spec, base).map(|base| Workload {
        uid,
        name: key.name.to_string(),
        services: members::of_workload_entry(store, namespace, &entry.labels, &entry.spec),
        ..base
    });
    let own = waypoint::of_workload(view, namespace, &entry.labels, &entry.spec.service_account);
    let (conditions, told) = waypoint::workload_status(&about, &own);
    diagnostics.extend(told);
    let extra = Extra {
        labels: Some(&entry.labels),
        draining: false,
    };
    Output {
        status: Status::of(conditions),
        diagnostics,
        ..with_waypoint(view, (key, &own), message, &extra)
    }
}

/// The endpoints of a slice that are no pods.
pub(super) fn slice(store: &Store, about: About<'_, Slice>) -> Output {
    let (key, slice) = (about.key, &about.object.object);
    let Some(service) = members::service_of_slice(store, &key.namespace, slice) else {
        return Output::default();
    };
    let (cluster, namespace) = (&store.settings.cluster_id, &*key.namespace);
    let host = store.hostname(namespace, &slice.service);
    let ports = members::ports_of_slice(service, slice);
    let workloads = slice.endpoints.iter().filter_map(|endpoint| {
        let uid = format!(
            "{cluster}/discovery.k8s.io/EndpointSlice/{namespace}/{}/{}",
            key.name,
            endpoint.first()?
        );
        Some(Workload {
            uid,
            name: key.name.to_string(),
            addresses: endpoint.addresses.iter().map(octets).collect(),
            status: health(endpoint.ready),
            network_mode: NetworkMode::HostNetwork.into(),
            services: [(format!("{namespace}/{host}"), ports.clone())].into(),
            ..common(store, namespace)
        })
    });
    Output {
        addresses: workloads.map(AddressResource::workload).collect(),
        ..Output::default()
    }
}

/// The uid of a pod or a WorkloadEntry (`control-plane-contract` 2.1).
pub(crate) fn uid_of(store: &Store, key: &ObjectKey) -> Arc<str> {
    let cluster = &store.settings.cluster_id;
    let group = match key.kind {
        Kind::Pod => "",
        _ => key.kind.group(),
    };
    let ObjectKey {
        kind,
        namespace,
        name,
    } = key;
    format!("{cluster}/{group}/{kind}/{namespace}/{name}").into()
}

/// What every workload of a namespace has.
fn common(store: &Store, namespace: &str) -> Workload {
    let domain = &*store.mesh.trust_domain;
    Workload {
        namespace: namespace.to_owned(),
        network: store.network().to_owned(),
        trust_domain: if domain == DEFAULT_TRUST_DOMAIN {
            String::new()
        } else {
            domain.to_owned()
        },
        cluster_id: store.settings.cluster_id.to_string(),
        ..Workload::default()
    }
}

/// What every workload with labels has.
pub(super) fn described(
    store: &Store,
    namespace: &str,
    labels: &Labels,
    workload_name: &str,
    captured: bool,
) -> Workload {
    let native = speaks_hbone(labels);
    Workload {
        tunnel_protocol: if native || captured {
            TunnelProtocol::Hbone.into()
        } else {
            TunnelProtocol::None.into()
        },
        native_tunnel: native,
        canonical_name: canonical_name(labels, workload_name).to_owned(),
        canonical_revision: canonical_revision(labels).to_owned(),
        workload_type: WorkloadType::Pod.into(),
        workload_name: workload_name.to_owned(),
        authorization_policies: store.policies_for(namespace, labels),
        ..common(store, namespace)
    }
}

/// A workload with the place that an entry gives it; none where nothing can be dialled.
pub(super) fn placed(spec: &WorkloadEntrySpec, base: Workload) -> Option<Workload> {
    let ip = parse_ip(&spec.address);
    if ip.is_none() && !is_dialable_name(&spec.address) {
        return None;
    }
    let mut parts = spec.locality.split('/').map(Arc::from);
    let mut part = || parts.next().unwrap_or_else(|| "".into());
    let locality = Locality {
        region: part(),
        zone: part(),
        subzone: part(),
    };
    Some(Workload {
        addresses: ip.iter().map(octets).collect(),
        hostname: if ip.is_some() {
            String::new()
        } else {
            spec.address.clone()
        },
        network: if spec.network.is_empty() {
            base.network
        } else {
            spec.network.clone()
        },
        service_account: spec.service_account.clone(),
        locality: wire_locality(&locality),
        capacity: (spec.weight > 0).then_some(spec.weight),
        ..base
    })
}

/// Nothing, for a workload behind a gateway, or a name that DNS may know.
fn is_dialable_name(address: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    address.chars().all(plain) && !address.starts_with('.')
}

pub(super) fn unplaced<T>(
    about: &About<'_, T>,
    field: &str,
    spec: &WorkloadEntrySpec,
) -> Option<Diagnostic> {
    if parse_ip(&spec.address).is_some() || is_dialable_name(&spec.address) {
        return None;
    }
    let message = "neither an address nor a DNS name, so the endpoint isn't sent";
    let told = about.error(codes::BAD_ADDRESS, field, message);
    Some(
        told.value(&spec.address)
            .remedy("write an IP address or a DNS name"),
    )
}

fn wire_locality(locality: &Locality) -> Option<WireLocality> {
    (!locality.is_empty()).then(|| WireLocality {
        region: locality.region.to_string(),
        zone: locality.zone.to_string(),
        subzone: locality.subzone.to_string(),
    })
}

fn health(healthy: bool) -> i32 {
    if healthy {
        WorkloadStatus::Healthy.into()
    } else {
        WorkloadStatus::Unhealthy.into()
    }
}

fn octets(ip: &IpAddr) -> Bytes {
    match ip {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    }
}
