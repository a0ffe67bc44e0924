//! What depends on what: from a thing that changes to the units that read it.

use std::sync::Arc;

use ambit_kube::{Kind, ObjectKey};
use ambit_types::NamespacedName;

use crate::dirty::{Dirty, Sending, Unit};
use crate::input::Labels;
use crate::store::{ACCOUNT, SERVICE, Space, Store};

/// Marks dependants, by what is in the store.
pub(super) struct Marks<'a> {
    pub(super) store: &'a Store,
    pub(super) dirty: &'a mut Dirty,
}

impl Marks<'_> {
    /// A pod that may or may not be there.
    pub(super) fn pod(&mut self, pod: &NamespacedName) {
        let (namespace, name) = (Arc::clone(&pod.namespace), Arc::clone(&pod.name));
        self.dirty
            .object(ObjectKey::new(Kind::Pod, namespace, name));
    }

    /// Pods and WorkloadEntries of a namespace with these labels.
    pub(super) fn selected(&mut self, namespace: &Arc<str>, selector: &Labels) {
        self.each_selected(namespace, selector, |dirty, key| dirty.object(key));
    }

    /// The members of a Service, by a selector that it has or had, and by slices.
    pub(super) fn members(&mut self, service: &ObjectKey, selector: &Labels, sending: Sending) {
        let mark = |dirty: &mut Dirty, key| match sending {
            Sending::Always => dirty.dropped(key),
            Sending::IfChanged => dirty.object(key),
        };
        let namespace = &service.namespace;
        if !selector.is_empty() {
            self.each_selected(namespace, selector, mark);
        }
        let Some(space) = self.store.spaces.get(namespace) else {
            return;
        };
        for (name, slice) in space.slices.at(SERVICE, &service.name) {
            mark(self.dirty, Store::key(Kind::EndpointSlice, namespace, name));
            for (pod, _) in &slice.object.pods {
                mark(self.dirty, Store::key(Kind::Pod, &pod.namespace, &pod.name));
            }
        }
    }

    /// Pods and WorkloadEntries of a namespace that run under an account.
    pub(super) fn account(&mut self, namespace: &Arc<str>, account: &str) {
        let Some(space) = self.store.spaces.get(namespace) else {
            return;
        };
        for (name, _) in space.pods.at(ACCOUNT, account) {
            self.dirty.object(Store::key(Kind::Pod, namespace, name));
        }
        for (name, _) in space.workloads.at(ACCOUNT, account) {
            let key = Store::key(Kind::WorkloadEntry, namespace, name);
            self.dirty.object(key);
        }
    }

    /// Whoever selects workloads with these labels, and tells when there are none.
    pub(super) fn selecting(&mut self, namespace: &Arc<str>, labels: &Labels) {
        let root = &self.store.mesh.root_namespace;
        for (of, kinds) in [(namespace, true), (root, false)] {
            let Some(space) = self.store.spaces.get(of) else {
                continue;
            };
            for (name, _) in space.policies.selecting(labels) {
                self.dirty
                    .object(Store::key(Kind::AuthorizationPolicy, of, name));
            }
            if !kinds {
                continue;
            }
            for (name, _) in space.services.selecting(labels) {
                self.dirty.object(Store::key(Kind::Service, of, name));
            }
            for (name, _) in space.entries.selecting(labels) {
                self.dirty.object(Store::key(Kind::ServiceEntry, of, name));
            }
            for (name, _) in space.peers.selecting(labels) {
                self.dirty
                    .object(Store::key(Kind::PeerAuthentication, of, name));
            }
        }
    }

    /// ServiceEntries that claim a host, whose hold on it may have changed, and their members.
    pub(super) fn entries_of(&mut self, host: &Arc<str>) {
        let store = self.store;
        for claim in store.hosts.get(host).into_iter().flatten() {
            let space = store.spaces.get(&claim.namespace);
            let entry = space.and_then(|space| space.entries.get(&claim.name));
            if claim.kind != Kind::ServiceEntry {
                continue;
            }
            self.dirty.object(claim.clone());
            if let Some(selector) = entry.and_then(|entry| entry.object.selector.as_ref()) {
                self.selected(&claim.namespace, selector);
            }
        }
    }

    /// Workloads that an authorization policy of a namespace binds by label.
    pub(super) fn bound(&mut self, namespace: &Arc<str>, selector: &Labels) {
        if *namespace != self.store.mesh.root_namespace {
            self.labelled(namespace, selector);
            return;
        }
        for name in self.store.spaces.keys() {
            self.labelled(name, selector);
        }
    }

    /// Workloads of a namespace, of every kind that has labels.
    pub(super) fn labelled(&mut self, namespace: &Arc<str>, selector: &Labels) {
        self.selected(namespace, selector);
        let space = self.store.spaces.get(namespace);
        for (name, _) in space
            .into_iter()
            .flat_map(|space| space.entries.selected(selector))
        {
            self.dirty
                .object(Store::key(Kind::ServiceEntry, namespace, name));
        }
    }

    /// Workloads and PeerAuthentications that inherit from those of a namespace.
    pub(super) fn levels(&mut self, namespace: &Arc<str>) {
        let store = self.store;
        let mesh_wide = *namespace == store.mesh.root_namespace;
        for (name, space) in &store.spaces {
            if !mesh_wide && name != namespace {
                continue;
            }
            self.labelled(name, &Labels::default());
            for peer in space.peers.keys() {
                self.dirty
                    .object(Store::key(Kind::PeerAuthentication, name, peer));
            }
        }
    }

    /// The services of a namespace.
    pub(super) fn hosts_of_space(&mut self, namespace: &Arc<str>) {
        let Some(space) = self.store.spaces.get(namespace) else {
            return;
        };
        for name in space.services.keys() {
            self.dirty.host(&self.store.hostname(namespace, name));
        }
        for entry in space.entries.values() {
            for host in &entry.object.hosts {
                self.dirty.host(host);
            }
        }
    }

    /// Everything in a namespace, and what its being there decides elsewhere.
    pub(super) fn space(&mut self, namespace: &Arc<str>) {
        let Some(space) = self.store.spaces.get(namespace) else {
            return;
        };
        self.dirty.mark(Unit::StaticStrict);
        self.dirty
            .object(ObjectKey::new(Kind::Namespace, "", Arc::clone(namespace)));
        for key in space.keys(namespace) {
            self.dirty.object(key);
        }
        for key in self.store.objects.keys_in(namespace) {
            if key.kind == Kind::Gateway {
                let at = NamespacedName::new(Arc::clone(namespace), Arc::clone(&key.name));
                self.dirty.mark(Unit::Waypoint(at));
            }
            self.dirty.object(key);
        }
        self.hosts_of_space(namespace);
        self.outward(space);
    }

    /// Pods of other namespaces that slices of this one point at, and policies of the root that select here.
    fn outward(&mut self, space: &Space) {
        for slice in space.slices.values() {
            for (pod, _) in &slice.object.pods {
                self.dirty
                    .object(Store::key(Kind::Pod, &pod.namespace, &pod.name));
            }
        }
        let root = &self.store.mesh.root_namespace;
        let policies = self.store.spaces.get(root).into_iter();
        for name in policies.flat_map(|space| space.policies.keys()) {
            self.dirty
                .object(Store::key(Kind::AuthorizationPolicy, root, name));
        }
    }

    /// All that there is.
    pub(super) fn everything(&mut self) {
        self.dirty.mark(Unit::StaticStrict);
        for namespace in self.store.spaces.keys() {
            self.space(namespace);
        }
    }

    fn each_selected(
        &mut self,
        namespace: &Arc<str>,
        selector: &Labels,
        mark: impl Fn(&mut Dirty, ObjectKey),
    ) {
        let Some(space) = self.store.spaces.get(namespace) else {
            return;
        };
        for (name, _) in space.pods.selected(selector) {
            mark(self.dirty, Store::key(Kind::Pod, namespace, name));
        }
        for (name, _) in space.workloads.selected(selector) {
            mark(self.dirty, Store::key(Kind::WorkloadEntry, namespace, name));
        }
    }
}
