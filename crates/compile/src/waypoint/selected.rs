//! Which waypoint all traffic to a workload passes: what makes a policy with a selector enforceable there.

use std::sync::Arc;

use ambit_kube::{Kind, ObjectKey};
use ambit_translate::{SelectedWorkload, ServiceKind};
use ambit_types::NamespacedName;

use super::binding::{Binding, Outcome};
use super::service::of_workload;
use crate::derive::{members_of_pod, members_of_workload_entry, uid_of};
use crate::input::Labels;
use crate::reads::Read;
use crate::view::View;

/// The pods and WorkloadEntries of a namespace with these labels, those that are over left out.
pub(crate) fn selected(view: &View<'_>, namespace: &str, labels: &Labels) -> Vec<SelectedWorkload> {
    view.note(Read::Workloads(namespace.into()));
    let store = view.store;
    let Some(space) = store.space(namespace) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, pod) in space.pods.selected(labels) {
        let pod = &pod.object;
        if pod.terminal {
            continue;
        }
        let at = NamespacedName::new(namespace, Arc::clone(name));
        let own = of_workload(view, namespace, &pod.labels, pod.account());
        let services = members_of_pod(store, &at, pod);
        found.push(SelectedWorkload {
            uid: uid_of(
                store,
                &ObjectKey::new(Kind::Pod, namespace, Arc::clone(name)),
            ),
            behind: behind(view, &own, services.keys()),
        });
    }
    for (name, entry) in space.workloads.selected(labels) {
        let entry = &entry.object;
        let own = of_workload(view, namespace, &entry.labels, &entry.spec.service_account);
        let services = members_of_workload_entry(store, namespace, &entry.labels, &entry.spec);
        let key = ObjectKey::new(Kind::WorkloadEntry, namespace, Arc::clone(name));
        found.push(SelectedWorkload {
            uid: uid_of(store, &key),
            behind: behind(view, &own, services.keys()),
        });
    }
    found
}

/// The one waypoint of its own addresses, if they have any, and of each of its services. A service without an address
/// of its own is reached by the workload's, so it needs a waypoint for these.
fn behind<'a>(
    view: &View<'_>,
    own: &Binding,
    services: impl Iterator<Item = &'a String>,
) -> Option<(Arc<str>, Arc<str>)> {
    let mut one: Option<NamespacedName> = None;
    let mut add = |binding: &Binding| {
        let mut bound = binding.bound();
        let first = bound.next().map(|fact| fact.gateway.clone());
        let single = first.filter(|_| bound.next().is_none() && !binding.bypass);
        match (single, &one) {
            (Some(waypoint), None) => {
                one = Some(waypoint);
                true
            }
            (Some(waypoint), Some(known)) => waypoint == *known,
            (None, _) => false,
        }
    };
    let asks = !matches!(own.outcome, Outcome::Unasked | Outcome::WrongType);
    if asks && !add(own) {
        return None;
    }
    for service in services {
        let fact = view.service_by_key(service)?;
        let headless = fact.info.kind == ServiceKind::Headless;
        if headless && !asks || !headless && !add(&fact.binding) {
            return None;
        }
    }
    one.map(|at| (at.namespace, at.name))
}
