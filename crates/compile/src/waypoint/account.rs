//! Waypoints of service accounts: a Gateway's annotation `istio.io/for-service-account` names one of its namespace.

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_types::NamespacedName;

use super::binding::{Ask, Level};
use crate::input::Labels;
use crate::reads::Read;
use crate::store::{HostOwner, Store};
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
        for pod in space.pods.values().map(|pod| &pod.object) {
            if !pod.terminal && selector.selects_some(&pod.labels) {
                accounts.insert(Some(Arc::from(pod.account())));
            }
        }
        for entry in space.workloads.values().map(|entry| &entry.object) {
            if selector.selects_some(&entry.labels) {
                accounts.insert(Some(entry.spec.service_account.as_str().into()));
            }
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
            let slices = space.slices.values().map(|slice| &slice.object);
            for slice in slices.filter(|slice| slice.service == *name) {
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
    let Some(selector) = selector else {
        return Vec::new();
    };
    let pods = space.pods.values().map(|pod| &pod.object);
    let pods = pods.filter(|pod| !pod.terminal).map(|pod| &pod.labels);
    let entries = space.workloads.values().map(|entry| &entry.object.labels);
    let all = pods.chain(entries);
    all.filter(|labels| selector.selects_some(labels)).collect()
}
