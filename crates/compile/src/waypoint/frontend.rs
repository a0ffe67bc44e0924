//! What a waypoint is told of itself and of the services that it serves.

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_kube::{Kind, ObjectKey};
use ambit_proto::waypoint::{
    Cidr, FRONTEND_TYPE, Frontend, FrontendPort, GATEWAY_TYPE, Gateway, Origin, POD_TYPE, Protocol,
    Telemetry, TrafficType, Workload, WorkloadPort,
};
use ambit_proto::workload;
use ambit_translate::{WaypointInfo, istio, linkerd, security, telemetry};
use ambit_types::NamespacedName;

use super::audience::Uses;
use super::binding::{Ask, Binding, Level};
use super::gateway::{Traffic, WaypointFact, is_waypoint_class};
use super::translated::called;
use super::{backend, position, render};
use crate::facts::ServiceFact;
use crate::input::{Vip, octets};
use crate::output::{Audience, WaypointResource};
use crate::outputs::Output;
use crate::reads::Read;
use crate::view::View;

/// What holds for a waypoint as a whole, and what runs for it.
pub(crate) fn gateway(view: &View<'_>, at: &NamespacedName) -> Output {
    let Some(fact) = view.waypoint_fact(at) else {
        return Output::default();
    };
    let ours = is_waypoint_class(view, &fact.class);
    if !ours {
        return Output::default();
    }
    let store = view.store;
    let mesh = view.mesh_info();
    let key = ObjectKey::new(Kind::Gateway, &*at.namespace, &*at.name);
    let object = view.gateway(at);
    let xfcc = object
        .as_ref()
        .and_then(|gateway| gateway.annotation("ambient.istio.io/xfcc-include-client-identity"));
    let aliases = mesh.trust_domain_aliases.iter();
    let (providers, _) = security::providers(view);
    let mut message = Gateway {
        origin: Some(origin(view, &key)),
        trust_domain: mesh.trust_domain.to_string(),
        trust_domain_aliases: aliases.map(ToString::to_string).collect(),
        root_namespace: mesh.root_namespace.to_string(),
        cluster_id: store.settings.cluster_id.to_string(),
        cluster_domain: store.settings.cluster_domain.to_string(),
        network: store.network().to_owned(),
        traffic: traffic(fact.traffic).into(),
        xfcc_client_identity: xfcc == Some("true"),
        authorization_providers: providers,
        ..Gateway::default()
    };
    // What is wrong with the mesh configuration is said there.
    let _ = istio::mesh_routing(mesh, &mut message);
    message.telemetry = Some(telemetry::gateway(&info(&fact), view));
    message.destination_reporter = telemetry::destination_reporter(mesh);
    let audience: Audience = [fact.key()].into();
    let services = called(&message.authorization_providers, message.telemetry.as_ref());
    let name = fact.key();
    let resource = WaypointResource::new(name, &message, Arc::clone(&audience));
    Output {
        waypoint: vec![(position(GATEWAY_TYPE), resource)],
        rendered: render::rendered(view, &fact),
        uses: Uses {
            services,
            waypoints: audience,
        },
        ..Output::default()
    }
}

fn traffic(traffic: Traffic) -> TrafficType {
    match (traffic.services, traffic.workloads) {
        (true, false) => TrafficType::Service,
        (false, true) => TrafficType::Workload,
        (true, true) => TrafficType::All,
        (false, false) => TrafficType::None,
    }
}

/// The object that something came from.
pub(super) fn origin(view: &View<'_>, key: &ObjectKey) -> Origin {
    let object = view.raw(key);
    let meta = object.and_then(|object| object.object.metadata());
    Origin {
        kind: key.kind.to_string(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        generation: meta.and_then(|meta| meta.generation).unwrap_or_default(),
    }
}

/// The waypoints that serve a service.
pub(super) fn audience(fact: &ServiceFact) -> Audience {
    let names: BTreeSet<Arc<str>> = fact.binding.bound().map(|fact| fact.key()).collect();
    names.into_iter().collect()
}

/// A service to the waypoints that serve it.
pub(crate) fn frontend(view: &View<'_>, service: &Arc<str>) -> Output {
    let Some(fact) = view.service_by_key(service) else {
        return Output::default();
    };
    let audience = audience(&fact);
    if audience.is_empty() {
        return Output::default();
    }
    let message = message(view, &fact);
    let mut services: BTreeSet<Arc<str>> = [Arc::clone(service)].into();
    // What is recorded may differ by waypoint, while a canary takes a share.
    let mut told: Vec<(Option<Telemetry>, Vec<Arc<str>>)> = Vec::new();
    for waypoint in fact.binding.bound() {
        let recorded = telemetry::frontend(&fact.info, &info(waypoint), view);
        services.extend(called(&[], recorded.as_ref()));
        match told.iter_mut().find(|(known, _)| *known == recorded) {
            Some((_, waypoints)) => waypoints.push(waypoint.key()),
            None => told.push((recorded, vec![waypoint.key()])),
        }
    }
    let single = told.len() == 1;
    let resources = told.into_iter().map(|(telemetry, mut waypoints)| {
        let name = match waypoints.first() {
            Some(waypoint) if !single => format!("{service}@{waypoint}").into(),
            _ => Arc::clone(service),
        };
        waypoints.sort();
        let message = Frontend {
            telemetry,
            ..message.clone()
        };
        let resource = WaypointResource::new(name, &message, waypoints.into());
        (position(FRONTEND_TYPE), resource)
    });
    Output {
        waypoint: resources.collect(),
        uses: Uses {
            services,
            waypoints: audience,
        },
        ..Output::default()
    }
}

fn message(view: &View<'_>, fact: &ServiceFact) -> Frontend {
    let info = &fact.info;
    let opaque = linkerd::opaque(info, view);
    let ports = info.ports.iter().map(|port| FrontendPort {
        number: port.number.into(),
        name: port.name.to_string(),
        protocol: if opaque.contains(&port.number) {
            Protocol::Tcp.into()
        } else {
            port.protocol.into()
        },
    });
    Frontend {
        origin: Some(origin(view, &info.object)),
        namespace: info.namespace.to_string(),
        name: info.name.to_string(),
        hostname: info.hostname.to_string(),
        addresses: addresses(view, fact),
        ports: ports.collect(),
        telemetry: None,
    }
}

/// A waypoint as translations see it.
pub(crate) fn info(fact: &WaypointFact) -> WaypointInfo {
    WaypointInfo {
        namespace: Arc::clone(&fact.gateway.namespace),
        name: Arc::clone(&fact.gateway.name),
        class: Arc::clone(&fact.class),
    }
}

fn addresses(view: &View<'_>, fact: &ServiceFact) -> Vec<Cidr> {
    let info = &fact.info;
    view.note(Read::Object(info.object.clone()));
    let Some(space) = view.store.space(&info.namespace) else {
        return Vec::new();
    };
    let vips: Vec<Vip> = if info.object.kind == Kind::Service {
        let service = space.services.get(&info.name);
        let vips = service.into_iter().flat_map(|service| &service.object.vips);
        vips.copied().map(Vip::single).collect()
    } else {
        let entry = space.entries.get(&info.name);
        entry.map_or_else(Vec::new, |entry| entry.object.addresses_of(&info.hostname))
    };
    let cidrs = vips.iter().map(|vip| Cidr {
        address: octets(&vip.ip),
        length: vip.net().prefix_len().into(),
    });
    cidrs.collect()
}

/// A workload to the waypoint of its own addresses.
pub(crate) fn workload(
    view: &View<'_>,
    (key, binding): (&ObjectKey, &Binding),
    message: &workload::Workload,
    extra: &backend::Extra<'_>,
) -> Option<(usize, WaypointResource)> {
    let fact = binding.bound().next()?;
    let of_account = matches!(binding.ask, Ask::For(_, Level::Account));
    let ports = if of_account {
        service_ports(view, message, &fact.key())
    } else {
        Vec::new()
    };
    let resource = Workload {
        origin: Some(origin_of(key)),
        endpoint: Some(super::endpoint(view, message, None, extra)),
        ports,
        protocols: Vec::new(),
    };
    let audience = [fact.key()].into();
    let name = message.uid.as_str().into();
    Some((
        position(POD_TYPE),
        WaypointResource::new(name, &resource, audience),
    ))
}

/// Pods and WorkloadEntries carry no generation here: theirs counts nothing that is sent.
fn origin_of(key: &ObjectKey) -> Origin {
    Origin {
        kind: key.kind.to_string(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        generation: 0,
    }
}

/// The target ports that stand for a port of a service of the same waypoint; of several, the first service by name.
fn service_ports(
    view: &View<'_>,
    message: &workload::Workload,
    waypoint: &str,
) -> Vec<WorkloadPort> {
    let mut ports: Vec<WorkloadPort> = Vec::new();
    for (service, list) in &message.services {
        let fact = view.service_by_key(service);
        let served = fact.is_some_and(|fact| fact.binding.bound().any(|of| *of.key() == *waypoint));
        if !served {
            continue;
        }
        for port in &list.ports {
            if !ports.iter().any(|known| known.port == port.target_port) {
                ports.push(WorkloadPort {
                    port: port.target_port,
                    frontend: service.clone(),
                    service_port: port.service_port,
                });
            }
        }
    }
    ports
}
