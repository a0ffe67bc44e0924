//! Waypoints of service accounts: a Gateway's annotation `istio.io/for-service-account` names one of its namespace.

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_types::NamespacedName;

use super::binding::{Ask, Level};
use crate::input::Labels;
use crate::reads::Read;
use crate::store::{HostOwner, SERVICE, Store};
use crate::view::View;

/// What a workload of an account asks for.
pub(crate) fn of_workload(view: &View<'_>, namespace: &str, account: &str) -> Ask {
    match gateway(view, namespace, account) {
        Some(at) => Ask::For(at, Level::Account),
        None => Ask::Nothing,
    }
}

/// What a service asks for, all of whose endpoints run under accounts.
pub(crate) fn asked(view: &View<'_>, namespace: &str, host: &str) -> Ask {
    if !view.has_account_waypoints(namespace) {
        return Ask::Nothing;
    }
    view.note(Read::Workloads(namespace.into()));
    let accounts = accounts(view.store, namespace, host);
    let mut gateways = accounts.iter().map(|account| {
        let account = account.as_deref()?;
        gateway(view, namespace, account)
    });
    let Some(first) = gateways.next() else {
        return Ask::Nothing;
    };
    let rest: Vec<_> = gateways.collect();
    if rest.iter().all(|other| *other == first) {
        return first.map_or(Ask::Nothing, |at| Ask::For(at, Level::Account));
    }
    let some = std::iter::once(first).chain(rest).flatten().next();
    some.map_or(Ask::Nothing, Ask::Mixed)
}

/// The Gateway of an account; of several, the first by name.
fn gateway(view: &View<'_>, namespace: &str, account: &str) -> Option<NamespacedName> {
    view.note(Read::Accounts(namespace.into()));
    let gateways = view.store.accounts.get(namespace)?.get(account)?;
    let name = gateways.first()?;
    Some(NamespacedName::new(namespace, Arc::clone(name)))
}

/// Under which accounts the endpoints of a service run; none stands for an endpoint that isn't a workload here.
fn accounts(store: &Store, namespace: &str, host: &str) -> BTreeSet<Option<Arc<str>>> {
    let mut accounts = BTreeSet::new();
    let (Some(space), Some(owner)) = (store.space(namespace), store.host_owner(namespace, host))
    else {
        return accounts;
    };
    let mut select = |selector: &Labels| {
        if selector.is_empty() {
            return;
        }
        for (_, pod) in space.pods.selected(selector) {
            if !pod.object.terminal {
                accounts.insert(Some(Arc::from(pod.object.account())));
            }
        }
        for (_, entry) in space.workloads.selected(selector) {
            accounts.insert(Some(entry.object.spec.service_account.as_str().into()));
        }
    };
    match owner {
        HostOwner::Service(name) => {
            let Some(service) = space.services.get(name) else {
                return accounts;
            };
            select(&service.object.selector);
            if !service.object.selector.is_empty() {
                return accounts;
            }
            let slices = space.slices.at(SERVICE, name);
            for slice in slices.map(|(_, slice)| &slice.object) {
                for (at, _) in &slice.pods {
                    let pod = store.known_pod(&at.namespace, &at.name);
                    let own = pod.filter(|_| *at.namespace == *namespace);
                    accounts.insert(own.map(|pod| Arc::from(pod.account())));
                }
                accounts.extend(slice.endpoints.iter().map(|_| None));
            }
        }
        HostOwner::Entry(_, entry) => match &entry.selector {
            Some(selector) => select(selector),
            None => {
                let endpoints = entry.endpoints.iter();
                accounts.extend(endpoints.map(|endpoint| {
                    let account = &*endpoint.service_account;
                    (!account.is_empty()).then(|| account.into())
                }));
                if entry.endpoints.is_empty() {
                    accounts.insert(None);
                }
            }
        },
    }
    accounts
}

/// The labels of the workloads that a service selects.
pub(super) fn members<'a>(store: &'a Store, namespace: &str, host: &str) -> Vec<&'a Labels> {
    let (Some(space), Some(owner)) = (store.space(namespace), store.host_owner(namespace, host))
    else {
        return Vec::new();
    };
    let selector = match owner {
        HostOwner::Service(name) => space.services.get(name).map(|of| &of.object.selector),
        HostOwner::Entry(_, entry) => entry.selector.as_ref(),
    };
    let Some(selector) = selector.filter(|selector| !selector.is_empty()) else {
        return Vec::new();
    };
    let pods = space.pods.selected(selector).map(|(_, pod)| &pod.object);
    let pods = pods.filter(|pod| !pod.terminal).map(|pod| &pod.labels);
    let entries = space.workloads.selected(selector);
    let entries = entries.map(|(_, entry)| &entry.object.labels);
    pods.chain(entries).collect()
}
