//! How a service is called and where its endpoints are, for those waypoints that call it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::Kind;
use ambit_proto::waypoint::{
    BACKEND_TYPE, ENDPOINTS_TYPE, Endpoint, Endpoints, Health, Label, Locality, PortMapping,
};
use ambit_proto::workload::{self, TunnelProtocol, Workload, WorkloadStatus, address};
use prost::Message as _;

use super::position;
use crate::dirty::Unit;
use crate::input::Labels;
use crate::output::{AddressResource, Audience, WaypointResource};
use crate::outputs::{Output, Outputs};
use crate::view::View;

/// A service as those call it who use it: a resource for each namespace that has such waypoints, as DestinationRules
/// are looked up from there.
pub(crate) fn backend(view: &View<'_>, service: &Arc<str>) -> Output {
    let users = view.audiences.of(service);
    let mut by_namespace: BTreeMap<&str, Vec<Arc<str>>> = BTreeMap::new();
    for user in users.iter() {
        let namespace = user.split('/').next().unwrap_or_default();
        by_namespace
            .entry(namespace)
            .or_default()
            .push(Arc::clone(user));
    }
    let (namespace, host) = service.split_once('/').unwrap_or_default();
    let info = view.service_info(namespace, host);
    let Some(info) = info.filter(|_| !users.is_empty()) else {
        return Output::default();
    };
    let mut output = Output::default();
    for (namespace, users) in by_namespace {
        let (message, problems) = super::objects::backend(view, &info, namespace);
        let name = format!("{service}@{namespace}").into();
        let audience: Audience = users.into();
        let resource = WaypointResource::new(name, &message, audience);
        output.waypoint.push((position(BACKEND_TYPE), resource));
        for problem in problems {
            if !output.diagnostics.contains(&problem) {
                output.diagnostics.push(problem);
            }
        }
    }
    output
}

/// Where a service's endpoints are.
pub(crate) fn endpoints(view: &View<'_>, outputs: &Outputs, service: &Arc<str>) -> Output {
    let users = view.audiences.of(service);
    if users.is_empty() {
        return Output::default();
    }
    let members = outputs.members(service);
    let endpoints = members.filter_map(|(resource, unit)| {
        let message = decoded(resource)?;
        let extra = extra(view, unit, &resource.name);
        Some(endpoint(view, &message, Some(service), &extra))
    });
    let (namespace, hostname) = service.split_once('/').unwrap_or_default();
    let message = Endpoints {
        endpoints: endpoints.collect(),
        namespace: namespace.to_owned(),
        hostname: hostname.to_owned(),
    };
    let resource = WaypointResource::new(Arc::clone(service), &message, users);
    Output {
        waypoint: vec![(position(ENDPOINTS_TYPE), resource)],
        ..Output::default()
    }
}

/// The workload in an encoded resource.
pub(super) fn decoded(resource: &AddressResource) -> Option<Workload> {
    let message = workload::Address::decode(resource.body.clone()).ok()?;
    match message.r#type? {
        address::Type::Workload(workload) => Some(workload),
        address::Type::Service(_) => None,
    }
}

/// What an endpoint has that a workload on the wire hasn't.
#[derive(Default)]
pub(crate) struct Extra<'a> {
    pub(crate) labels: Option<&'a Labels>,
    /// About to go, but serving.
    pub(crate) draining: bool,
}

fn extra<'a>(view: &View<'a>, unit: &Unit, uid: &str) -> Extra<'a> {
    let Unit::Object(key) = unit else {
        return Extra::default();
    };
    let Some(space) = view.store.space(&key.namespace) else {
        return Extra::default();
    };
    match key.kind {
        Kind::Pod => space
            .pods
            .get(&key.name)
            .map_or_else(Extra::default, |pod| Extra {
                labels: Some(&pod.object.labels),
                draining: pod.object.draining,
            }),
        Kind::WorkloadEntry => Extra {
            labels: space
                .workloads
                .get(&key.name)
                .map(|entry| &entry.object.labels),
            draining: false,
        },
        // Its uid ends with the endpoint's address.
        Kind::ServiceEntry => Extra {
            labels: space.entries.get(&key.name).and_then(|entry| {
                let address = uid.rsplit('/').next().unwrap_or_default();
                entry.object.endpoint_labels(address)
            }),
            draining: false,
        },
        _ => Extra::default(),
    }
}

/// An endpoint of a service, or a workload by itself.
pub(crate) fn endpoint(
    view: &View<'_>,
    message: &Workload,
    service: Option<&str>,
    extra: &Extra<'_>,
) -> Endpoint {
    let hbone = message.tunnel_protocol() == TunnelProtocol::Hbone;
    let ports = service.and_then(|service| message.services.get(service));
    let ports = ports.iter().flat_map(|list| &list.ports);
    let named = |text: &str, otherwise: &str| match (hbone, text) {
        (true, "") => otherwise.to_owned(),
        _ => text.to_owned(),
    };
    let labels = extra.labels.into_iter().flat_map(Labels::iter);
    Endpoint {
        uid: message.uid.clone(),
        addresses: message.addresses.iter().map(|ip| ip.to_vec()).collect(),
        hostname: message.hostname.clone(),
        hbone,
        trust_domain: if hbone {
            view.store.mesh.trust_domain.to_string()
        } else {
            String::new()
        },
        namespace: message.namespace.clone(),
        service_account: named(&message.service_account, "default"),
        ports: ports
            .map(|port| PortMapping {
                service: port.service_port,
                target: port.target_port,
            })
            .collect(),
        locality: message.locality.as_ref().map(|at| Locality {
            region: at.region.clone(),
            zone: at.zone.clone(),
            subzone: at.subzone.clone(),
        }),
        node: message.node.clone(),
        network: message.network.clone(),
        cluster_id: message.cluster_id.clone(),
        weight: message.capacity.unwrap_or_default(),
        health: match (message.status(), extra.draining) {
            (_, true) => Health::Draining.into(),
            (WorkloadStatus::Healthy, false) => Health::Ready.into(),
            (WorkloadStatus::Unhealthy, false) => Health::NotReady.into(),
        },
        labels: labels
            .map(|(key, value)| Label {
                key: key.to_owned(),
                value: value.to_owned(),
            })
            .collect(),
        workload_name: message.workload_name.clone(),
        workload_type: workload_type(message).to_owned(),
        canonical_name: message.canonical_name.clone(),
        canonical_revision: message.canonical_revision.clone(),
    }
}

fn workload_type(message: &Workload) -> &'static str {
    match message.workload_type() {
        workload::WorkloadType::Deployment => "deployment",
        workload::WorkloadType::Cronjob => "cronjob",
        workload::WorkloadType::Pod => "pod",
        workload::WorkloadType::Job => "job",
    }
}
