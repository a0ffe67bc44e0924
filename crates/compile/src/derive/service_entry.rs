//! What a ServiceEntry gives besides its services: workloads, a status, diagnostics (`control-plane-contract` 2, 3.4).

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_kube::WorkloadEntrySpec;
use ambit_proto::workload::Workload;

use super::hints::{hints, idle};
use super::members;
use super::workload::{described, placed, unplaced};
use crate::about::About;
use crate::codes;
use crate::input::{Labels, ServiceEntry, Visibility};
use crate::output::{AddressResource, Diagnostic, WaypointResource};
use crate::outputs::Output;
use crate::status::{Condition, Status, kind};
use crate::store::Store;
use crate::view::View;
use crate::waypoint::{self, Extra, USE_WAYPOINT};

/// The workloads of a ServiceEntry, its status, and what is wrong with it; its services belong to its hosts.
pub(super) fn workloads(view: &View<'_>, about: About<'_, ServiceEntry>) -> Output {
    let store = view.store;
    let (key, entry) = (about.key, &about.object.object);
    let mut diagnostics = entry_diagnostics(store, &about);
    let hosts: Vec<_> = store.hosts_of(&key.namespace, &key.name, entry).collect();
    let (mut addresses, mut resources) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for (at, spec) in entry.endpoints.iter().enumerate() {
        let field = format!("spec.endpoints[{at}].address");
        diagnostics.extend(unplaced(&about, &field, spec));
        if !seen.insert(&spec.address) {
            let message = "another endpoint of the entry has this address and holds";
            let told = about.warning(codes::SHARED_ENDPOINT, &field, message);
            diagnostics.push(told.value(&spec.address).remedy("remove one of them"));
        } else if entry.selector.is_none()
            && !hosts.is_empty()
            && let Some(message) = endpoint(view, &about, spec, &hosts)
        {
            let (message, told) = bind(view, &about, (at, spec), message, &mut resources);
            diagnostics.extend(told);
            addresses.push(message);
        }
    }
    if entry.endpoints.is_empty() && entry.selector.is_none() && entry.asks_dns() {
        for host in hosts.iter().filter(|host| !host.starts_with('*')) {
            let spec = WorkloadEntrySpec {
                address: host.to_string(),
                ..WorkloadEntrySpec::default()
            };
            addresses.extend(endpoint(view, &about, &spec, &[host]));
        }
    }
    let (bound, told) = waypoint::service_status(view, &about, &hosts);
    diagnostics.extend(told);
    let visibility = visibility(store, &key.namespace);
    Output {
        addresses: addresses
            .into_iter()
            .map(AddressResource::workload)
            .collect(),
        waypoint: resources,
        status: Status::of(bound.into_iter().chain(visibility).collect()),
        diagnostics,
        ..Output::default()
    }
}

fn endpoint(
    view: &View<'_>,
    about: &About<'_, ServiceEntry>,
    spec: &WorkloadEntrySpec,
    hosts: &[&Arc<str>],
) -> Option<Workload> {
    let store = view.store;
    let (key, entry) = (about.key, &about.object.object);
    let (cluster, namespace) = (&store.settings.cluster_id, &*key.namespace);
    let uid = format!(
        "{cluster}/networking.istio.io/ServiceEntry/{namespace}/{}/{}",
        key.name, spec.address
    );
    let ports = members::ports_of_endpoint(entry, spec);
    let services = hosts
        .iter()
        .map(|host| (format!("{namespace}/{host}"), ports.clone()));
    let base = described(store, namespace, &entry.labels, &key.name, entry.captured);
    let mut message = Workload {
        uid,
        name: key.name.to_string(),
        services: services.collect(),
        ..placed(spec, base)?
    };
    let guards = waypoint::guards_of(view, &message);
    message.authorization_policies.extend(guards);
    Some(message)
}

/// Puts the waypoint of an endpoint's own address on it, by its own labels, else by those of the namespace. That of a
/// host without endpoints has none (`control-plane-contract` 2.3).
fn bind(
    view: &View<'_>,
    about: &About<'_, ServiceEntry>,
    (at, spec): (usize, &WorkloadEntrySpec),
    message: Workload,
    resources: &mut Vec<(usize, WaypointResource)>,
) -> (Workload, Vec<Diagnostic>) {
    let (none, entry) = (Labels::default(), &about.object.object);
    let labels = entry.endpoint_labels(&spec.address).unwrap_or(&none);
    let own = waypoint::of_workload(view, &about.key.namespace, labels, &spec.service_account);
    let mut told = waypoint::workload_status(about, &own).1;
    for one in &mut told {
        one.field = Some(format!("spec.endpoints[{at}].labels.{USE_WAYPOINT}"));
    }
    let message = Workload {
        waypoint: own.wire(view.store.network()).0,
        ..message
    };
    let extra = Extra {
        labels: Some(labels),
        draining: false,
    };
    resources.extend(waypoint::workload(
        view,
        (about.key, &own),
        &message,
        &extra,
    ));
    (message, told)
}

fn entry_diagnostics(store: &Store, about: &About<'_, ServiceEntry>) -> Vec<Diagnostic> {
    let (key, entry) = (about.key, &about.object.object);
    let mut told = hints(about, &entry.hints);
    if let Err(bad) = &entry.addresses {
        let message = "neither an address nor a block, so the whole entry isn't sent";
        let error = about.error(codes::BAD_ADDRESS, &bad.field, message);
        told.push(
            error
                .value(&bad.value)
                .remedy("write an address, or a block such as 10.0.0.0/8"),
        );
    }
    for bad in &entry.bad_hosts {
        let error = about.error(
            codes::BAD_HOST,
            &bad.field,
            "not a host name that can be used here",
        );
        let remedy = "write a DNS name; *.NAME only with resolution NONE, STATIC or DYNAMIC_DNS";
        told.push(error.value(&bad.value).remedy(remedy));
    }
    if let Some(selector) = &entry.selector {
        let code = (codes::SELECTS_NOTHING, "spec.workloadSelector.labels");
        told.extend(idle(store, about, code, selector));
    }
    if store.is_sent(&key.namespace, entry) {
        for host in &entry.hosts {
            let kept = store.hosts_of(&key.namespace, &key.name, entry);
            if !kept.into_iter().any(|kept| kept == host) {
                let message =
                    "the host belongs to a Service or an older ServiceEntry of the namespace";
                let warning = about.warning(codes::HOST_TAKEN, "spec.hosts", message);
                told.push(
                    warning
                        .value(host)
                        .remedy("remove the host here, or the other object"),
                );
            }
        }
    }
    told
}

fn visibility(store: &Store, namespace: &str) -> Option<Condition> {
    if !store.mesh.restricts_visibility() {
        return None;
    }
    let (reason, message) = match store.visibility(namespace) {
        Visibility::Public => ("Public", "visible to all namespaces"),
        Visibility::Namespace => ("Namespace", "visible to its own namespace only"),
        Visibility::Hidden => ("None", "visible to nobody"),
    };
    let condition = Condition::new(kind::VISIBILITY_APPLIED, true, reason);
    // Without a generation: what is said depends on labels and namespaces too, which don't count.
    Some(condition.message(message))
}
