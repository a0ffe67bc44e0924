//! Services: one per host name and namespace (`control-plane-contract` 3.1, 3.4).

use std::net::IpAddr;
use std::sync::Arc;

use ambit_kube::{Kind, ObjectKey, Resolution};
use ambit_proto::workload::{self, NetworkAddress, Visibility as WireVisibility};
use ipnet::IpNet;

use crate::about::About;
use crate::codes;
use crate::input::{Age, Preset, Service, ServiceEntry, Target, Vip, Visibility};
use crate::output::{AddressResource, Diagnostic};
use crate::outputs::Output;
use crate::store::{HostOwner, Store};
use crate::view::View;
use crate::vips::Vips;

/// The services of one host name.
pub(super) fn services(view: &View<'_>, host: &str) -> Output {
    let store = view.store;
    let mut services = Vec::new();
    let mut canonical: Option<((Age, Arc<str>), usize)> = None;
    for (namespace, owner) in store.owners(host) {
        let (message, rank) = match owner {
            HostOwner::Service(name) => {
                let Some(service) = store
                    .space(&namespace)
                    .and_then(|space| space.services.get(name))
                else {
                    continue;
                };
                let message = of_service(store, &namespace, name, &service.object);
                (message, None)
            }
            HostOwner::Entry(name, entry) => {
                let message = of_entry(store, &namespace, (name, entry), host);
                let public = message.visibility == i32::from(WireVisibility::Public);
                let rank = public.then(|| (entry.age.clone(), Arc::clone(&namespace)));
                (message, rank)
            }
        };
        if let Some(rank) = rank
            && canonical.as_ref().is_none_or(|(best, _)| rank < *best)
        {
            canonical = Some((rank, services.len()));
        }
        services.push(with_waypoint(view, message));
    }
    let has_kubernetes = services.iter().any(|service| service.canonical);
    if let Some((_, at)) = canonical.filter(|_| !has_kubernetes)
        && let Some(service) = services.get_mut(at)
    {
        service.canonical = true;
    }
    Output {
        addresses: services.into_iter().map(AddressResource::service).collect(),
        ..Output::default()
    }
}

/// A service with the waypoint that it is bound to, or refused by.
fn with_waypoint(view: &View<'_>, message: workload::Service) -> workload::Service {
    // The facts mark the host when they come out differently (`ingest::Spread`).
    let fact = view.facts.service(&message.namespace, &message.hostname);
    let Some(fact) = fact else {
        return message;
    };
    let (waypoint, weighted_waypoints) = fact.binding.wire(view.store.network());
    workload::Service {
        ingress_use_waypoint: waypoint.is_some() && fact.ingress,
        waypoint,
        weighted_waypoints,
        ..message
    }
}

/// The virtual addresses that a host's services claim, with the objects that claim them.
pub(crate) fn claims(store: &Store, host: &str) -> Vec<(IpNet, ObjectKey)> {
    let mut claims = Vec::new();
    for (namespace, owner) in store.owners(host) {
        let space = store.space(&namespace);
        let (key, vips) = match owner {
            HostOwner::Service(name) => {
                let service = space.and_then(|space| space.services.get(name));
                let vips = service.map(|service| service.object.vips.iter().copied());
                let vips = vips.into_iter().flatten().map(Vip::single).collect();
                (Store::key(Kind::Service, &namespace, name), vips)
            }
            HostOwner::Entry(name, entry) => (
                Store::key(Kind::ServiceEntry, &namespace, name),
                entry.addresses_of(host),
            ),
        };
        claims.extend(vips.iter().map(|vip: &Vip| (vip.net(), key.clone())));
    }
    claims
}

fn of_service(store: &Store, namespace: &str, name: &str, service: &Service) -> workload::Service {
    let preset = service.preset.or_else(|| of_namespace(store, namespace));
    workload::Service {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        hostname: store.hostname(namespace, name).to_string(),
        addresses: service
            .vips
            .iter()
            .map(|ip| address(store, &Vip::single(*ip)))
            .collect(),
        ports: service
            .ports
            .iter()
            .map(|port| workload::Port {
                service_port: port.number.into(),
                target_port: match &port.target {
                    Target::Number(number) => (*number).into(),
                    Target::Name(_) => 0,
                },
                app_protocol: port.app.into(),
            })
            .collect(),
        load_balancing: Preset::message(preset, service.publish_not_ready),
        ip_families: service.families.into(),
        canonical: true,
        ..workload::Service::default()
    }
}

fn of_entry(
    store: &Store,
    namespace: &str,
    (name, entry): (&str, &ServiceEntry),
    host: &str,
) -> workload::Service {
    let preset = if entry.resolution == Resolution::None {
        Some(Preset::Passthrough)
    } else {
        let own = entry.distribution.map(Preset::Distribution);
        own.or_else(|| of_namespace(store, namespace))
    };
    let visibility = match store.visibility(namespace) {
        Visibility::Namespace => WireVisibility::Namespace,
        Visibility::Public | Visibility::Hidden => WireVisibility::Public,
    };
    workload::Service {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        hostname: host.to_owned(),
        addresses: entry
            .addresses_of(host)
            .iter()
            .map(|vip| address(store, vip))
            .collect(),
        ports: entry
            .ports
            .iter()
            .map(|port| workload::Port {
                service_port: port.number.into(),
                target_port: port.target.unwrap_or(port.number).into(),
                app_protocol: port.app.into(),
            })
            .collect(),
        subject_alt_names: entry.subject_alt_names.to_vec(),
        load_balancing: Preset::message(preset, false),
        visibility: visibility.into(),
        ..workload::Service::default()
    }
}

fn of_namespace(store: &Store, namespace: &str) -> Option<Preset> {
    let object = store.space(namespace)?.namespace.as_ref()?;
    object.object.distribution.map(Preset::Distribution)
}

fn address(store: &Store, vip: &Vip) -> NetworkAddress {
    NetworkAddress {
        network: store.network().to_owned(),
        address: match vip.ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        },
        length: vip.length.map(Into::into),
    }
}

/// One diagnostic for each object that claims an address which another host's object claims too.
pub(super) fn shared_vip(store: &Store, vips: &Vips, net: IpNet) -> Output {
    let claims = vips.claims(&net);
    let hosts: Vec<_> = claims.iter().map(|(host, _)| host).collect();
    if hosts.windows(2).all(|pair| pair.first() == pair.last()) {
        return Output::default();
    }
    let mut keys: Vec<_> = claims.iter().map(|(_, key)| key).collect();
    keys.sort();
    keys.dedup();
    let single = net.prefix_len() == net.max_prefix_len();
    let shown = if single {
        net.addr().to_string()
    } else {
        net.to_string()
    };
    let diagnostics = keys.iter().filter_map(|key| {
        let others: Vec<_> = keys
            .iter()
            .filter(|other| other != &key)
            .map(ToString::to_string)
            .collect();
        let told = (!others.is_empty()).then(|| shared(store, key, &others.join(" and ")))??;
        Some(
            told.value(&shown)
                .remedy("give one of them another address"),
        )
    });
    Output {
        diagnostics: diagnostics.collect::<Vec<Diagnostic>>(),
        ..Output::default()
    }
}

fn shared(store: &Store, key: &ObjectKey, others: &str) -> Option<crate::about::Told> {
    let message = format!(
        "the virtual address is also that of {others}; which of them answers isn't defined"
    );
    let space = store.space(&key.namespace)?;
    Some(match key.kind {
        Kind::Service => {
            let object = space.services.get(&key.name)?;
            About { key, object }.error(codes::SHARED_VIP, "spec.clusterIP", message)
        }
        _ => {
            let object = space.entries.get(&key.name)?;
            About { key, object }.error(codes::SHARED_VIP, "spec.addresses", message)
        }
    })
}
