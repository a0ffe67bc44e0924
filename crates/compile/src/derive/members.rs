//! Which services a workload is a member of, and at which ports (`control-plane-contract` 2.5).

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::WorkloadEntrySpec;
use ambit_proto::workload::{Port, PortList};
use ambit_types::NamespacedName;

use crate::input::{EntryPort, Labels, Pod, Service, ServiceEntry, Slice, Target, Transport};
use crate::store::Store;

/// `namespace/hostname` to ports.
pub(crate) type Members = BTreeMap<String, PortList>;

/// Of a pod: by selector in its namespace, and by the slices that point at it, of whatever namespace.
pub(crate) fn of_pod(store: &Store, at: &NamespacedName, pod: &Pod) -> Members {
    let (service_ports, entry_ports) = (
        |service: &Service| ports_of_pod(service, pod),
        |entry: &ServiceEntry| list(&entry.ports, |port| Some(entry_port_of_pod(port, pod))),
    );
    let mut members = selected(
        store,
        &at.namespace,
        &pod.labels,
        service_ports,
        entry_ports,
    );
    for slice_at in store.slices_of_pod.get(at).into_iter().flatten() {
        let Some((service, slice)) = selectorless(store, slice_at) else {
            continue;
        };
        if slice
            .pods
            .iter()
            .any(|(of, uid)| of == at && **uid == *pod.uid)
        {
            let host = store.hostname(&slice_at.namespace, &slice.service);
            let key = format!("{}/{host}", slice_at.namespace);
            let more = ports_of_slice(service, slice).ports;
            let known = &mut members.entry(key).or_default().ports;
            let new: Vec<_> = more
                .into_iter()
                .filter(|port| !known.contains(port))
                .collect();
            known.extend(new);
        }
    }
    members
}

/// Of a WorkloadEntry: by selector in its namespace.
pub(crate) fn of_workload_entry(
    store: &Store,
    namespace: &str,
    labels: &Labels,
    spec: &WorkloadEntrySpec,
) -> Members {
    let (service_ports, entry_ports) = (
        |service: &Service| ports_of_workload_entry(service, spec),
        |entry: &ServiceEntry| ports_of_endpoint(entry, spec),
    );
    selected(store, namespace, labels, service_ports, entry_ports)
}

/// Of an endpoint that is written out in a ServiceEntry, or of the entry's hosts themselves.
pub(super) fn ports_of_endpoint(entry: &ServiceEntry, spec: &WorkloadEntrySpec) -> PortList {
    list(&entry.ports, |port| {
        let named = spec
            .ports
            .get(&*port.name)
            .copied()
            .filter(|port| *port != 0);
        let target = named.unwrap_or_else(|| port.target.unwrap_or(port.number).into());
        Some((port.number, target))
    })
}

/// Of an endpoint of a slice that is no pod: TCP ports, by name.
pub(super) fn ports_of_slice(service: &Service, slice: &Slice) -> PortList {
    list(&service.ports, |port| {
        let tcp = port.transport == Transport::Tcp;
        let target = slice.port(&port.name).filter(|_| tcp)?;
        Some((port.number, target.into()))
    })
}

fn selected(
    store: &Store,
    namespace: &str,
    labels: &Labels,
    service_ports: impl Fn(&Service) -> PortList,
    entry_ports: impl Fn(&ServiceEntry) -> PortList,
) -> Members {
    let mut members = Members::new();
    let Some(space) = store.space(namespace) else {
        return members;
    };
    for (name, service) in space.services.selecting(labels) {
        let key = format!("{namespace}/{}", store.hostname(namespace, name));
        members.insert(key, service_ports(&service.object));
    }
    for (name, entry) in space.entries.selecting(labels) {
        let entry = &entry.object;
        if entry.selector.as_ref().is_some_and(Labels::is_empty) {
            continue;
        }
        for host in store.hosts_of(namespace, name, entry) {
            members.insert(format!("{namespace}/{host}"), entry_ports(entry));
        }
    }
    members
}

/// The service and the slice, if the service leaves its members to slices.
fn selectorless<'a>(
    store: &'a Store,
    slice_at: &NamespacedName,
) -> Option<(&'a Service, &'a Slice)> {
    let space = store.space(&slice_at.namespace)?;
    let slice = &space.slices.get(&slice_at.name)?.object;
    let service = &space.services.get(&slice.service)?.object;
    service.selector.is_empty().then_some((service, slice))
}

/// A named port that the pod doesn't have is left out; the membership remains.
fn ports_of_pod(service: &Service, pod: &Pod) -> PortList {
    list(&service.ports, |port| {
        let target = match &port.target {
            Target::Number(number) => *number,
            Target::Name(name) => pod.port(name)?,
        };
        Some((port.number, target.into()))
    })
}

fn ports_of_workload_entry(service: &Service, spec: &WorkloadEntrySpec) -> PortList {
    list(&service.ports, |port| {
        let named = |name: &str| spec.ports.get(name).copied().filter(|port| *port != 0);
        let target = match &port.target {
            Target::Number(number) => named(&port.name).unwrap_or_else(|| (*number).into()),
            Target::Name(name) => named(name)?,
        };
        Some((port.number, target))
    })
}

fn entry_port_of_pod(port: &EntryPort, pod: &Pod) -> (u16, u32) {
    let named = (!port.name.is_empty())
        .then(|| pod.port(&port.name))
        .flatten();
    let target = named.or(port.target).unwrap_or(port.number);
    (port.number, target.into())
}

fn list<P>(ports: &[P], target: impl Fn(&P) -> Option<(u16, u32)>) -> PortList {
    let ports = ports.iter().filter_map(target);
    PortList {
        ports: ports
            .map(|(service_port, target_port)| Port {
                service_port: service_port.into(),
                target_port,
                ..Port::default()
            })
            .collect(),
    }
}

/// Whether a slice's endpoints belong to a known service.
pub(super) fn service_of_slice<'a>(
    store: &'a Store,
    namespace: &Arc<str>,
    slice: &Slice,
) -> Option<&'a Service> {
    let space = store.space(namespace)?;
    space
        .services
        .get(&slice.service)
        .map(|service| &service.object)
}
