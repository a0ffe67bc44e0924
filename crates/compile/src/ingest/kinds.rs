//! One function per kind: store what is kept, and mark what depends on the difference.

use std::sync::Arc;

use ambit_kube::core::Node;
use ambit_kube::{Kind, Located, MeshConfig, ObjectKey};
use ambit_types::NamespacedName;

use super::{Ingest, at, remove};
use crate::dirty::{Sending, Unit};
use crate::input::{
    Labels, Mesh, Namespace, Pod, Service, ServiceEntry, Slice, WorkloadEntry, locality_of,
};
use crate::policy::{Kept, Peer, Policy, Refused};
use crate::reads::Read;
use crate::store::{NETWORK, PolicyEntry};
use crate::waypoint::{GATEWAY_NAME, asks};

/// What differs between what was and what is, and who reads that.
impl Ingest<'_> {
    pub(super) fn mesh_config(&mut self, key: &ObjectKey, new: Option<Located<Arc<MeshConfig>>>) {
        let configs = &mut self.store.mesh_configs;
        let before = match new {
            Some(new) => configs.insert(key.clone(), new),
            None => configs.remove(key),
        };
        if before.as_ref() == configs.get(key) {
            return;
        }
        self.dirty.object(key.clone());
        for other in configs.keys() {
            self.dirty.object(other.clone());
        }
        let read = match self.store.chosen_mesh_config() {
            Some(chosen) => {
                let config = self.store.mesh_configs.get(chosen);
                config.map(|config| Mesh::new(&self.store.settings, &config.object.spec))
            }
            None => None,
        };
        let (mesh, fault) = match read {
            None => (Mesh::default_of(&self.store.settings), None),
            Some(Ok(mesh)) => (mesh, None),
            Some(Err(fault)) => (self.store.mesh.clone(), Some(fault)),
        };
        self.store.mesh_fault = fault;
        if mesh != self.store.mesh {
            self.store.mesh = mesh;
            self.everything();
        }
        if self.store.describe_mesh() {
            self.touch(&Read::Mesh);
        }
    }

    pub(super) fn namespace(&mut self, key: &ObjectKey, new: Option<Located<Namespace>>) {
        let name = &key.name;
        let old = self
            .store
            .spaces
            .get(name)
            .and_then(|space| space.namespace.clone());
        if old == new {
            return;
        }
        self.dirty.object(key.clone());
        let labels = |object: &Option<Located<Namespace>>| {
            object
                .as_ref()
                .map_or_else(Labels::default, |o| o.object.labels.clone())
        };
        let (was, is) = (labels(&old), labels(&new));
        let mesh = &self.store.mesh;
        let discovered = (mesh.discovers(&was), mesh.discovers(&is));
        let visible = (mesh.visibility(name, &was), mesh.visibility(name, &is));
        let of_system = *name == self.store.settings.system_namespace;
        let of_root = *name == mesh.root_namespace;
        if (of_system && was.get(NETWORK) != is.get(NETWORK))
            || (of_root && discovered.0 != discovered.1)
        {
            self.everything();
        } else if discovered.0 != discovered.1 {
            // Whoever asked for anything may have asked for something in there.
            self.readers.touch_all(self.dirty);
            self.marks().space(name);
        } else if visible.0 != visible.1 || asks(&was) != asks(&is) || bypass(&old) != bypass(&new)
        {
            self.marks().space(name);
        } else if old.map(|o| o.object.distribution) != new.as_ref().map(|o| o.object.distribution)
        {
            self.marks().hosts_of_space(name);
        }
        self.space(name).namespace = new;
        self.touch(&Read::Space(Arc::clone(name)));
        self.prune(name);
    }

    /// All that there is.
    fn everything(&mut self) {
        self.readers.touch_all(self.dirty);
        self.marks().everything();
    }

    pub(super) fn node(&mut self, key: &ObjectKey, new: Option<&Node>) {
        let nodes = &mut self.store.nodes;
        let before = match new.map(locality_of) {
            Some(new) => nodes.insert(Arc::clone(&key.name), new),
            None => nodes.remove(&key.name),
        };
        if before.as_ref() == nodes.get(&key.name) {
            return;
        }
        for pod in self.store.pods_on_node.get(&key.name).into_iter().flatten() {
            let (namespace, name) = (Arc::clone(&pod.namespace), Arc::clone(&pod.name));
            self.dirty
                .object(ObjectKey::new(Kind::Pod, namespace, name));
        }
    }

    pub(super) fn pod(&mut self, key: &ObjectKey, new: Option<Located<Pod>>) {
        let Some(old) = self.swap(key, new, |space| &mut space.pods) else {
            return;
        };
        self.dirty.object(key.clone());
        let new = self.get(key, |space| &space.pods);
        let old = old.map(|old| old.object);
        let facts = |pod: &Pod| (pod.terminal, pod.labels.clone());
        let (was, is) = (old.as_ref().map(facts), new.map(facts));
        let member = |pod: &Pod| (pod.service_account.clone(), pod.addresses.clone());
        let moved = was != is || old.as_ref().map(member) != new.map(member);
        let gateway = |pod: &Pod| pod.labels.get(GATEWAY_NAME).map(Arc::<str>::from);
        let gateways = (old.as_ref().and_then(gateway), new.and_then(gateway));
        let nodes = (
            old.map(|pod| pod.node),
            new.map(|pod| Arc::clone(&pod.node)),
        );
        if was != is {
            for (_, labels) in was.iter().chain(&is) {
                self.marks().selecting(&key.namespace, labels);
            }
        }
        if nodes.0 != nodes.1 {
            let at = NamespacedName::new(Arc::clone(&key.namespace), Arc::clone(&key.name));
            if let Some(node) = nodes.0 {
                remove(&mut self.store.pods_on_node, &node, &at);
            }
            if let Some(node) = nodes.1.filter(|node| !node.is_empty()) {
                self.store.pods_on_node.entry(node).or_default().insert(at);
            }
        }
        self.instance(key, gateways);
        if moved {
            self.touch(&Read::Workloads(Arc::clone(&key.namespace)));
        }
    }

    /// A pod of a Gateway, before and now.
    fn instance(&mut self, key: &ObjectKey, (was, is): (Option<Arc<str>>, Option<Arc<str>>)) {
        let at = |gateway: &Arc<str>| {
            NamespacedName::new(Arc::clone(&key.namespace), Arc::clone(gateway))
        };
        let (was, is) = (was.as_ref().map(at), is.as_ref().map(at));
        if let Some(was) = &was {
            remove(&mut self.store.instances, was, &key.name);
            self.touch(&Read::Instances(was.clone()));
        }
        if let Some(is) = is {
            self.touch(&Read::Instances(is.clone()));
            let instances = self.store.instances.entry(is).or_default();
            instances.insert(Arc::clone(&key.name));
        }
    }

    pub(super) fn service(&mut self, key: &ObjectKey, new: Option<Located<Service>>) {
        let Some(old) = self.swap(key, new, |space| &mut space.services) else {
            return;
        };
        self.dirty.object(key.clone());
        let (old, new) = (
            old.map(|old| old.object),
            self.get(key, |space| &space.services).cloned(),
        );
        let host = self.store.hostname(&key.namespace, &key.name);
        self.dirty.host(&host);
        if old.is_none() {
            self.claim(&host, key);
            self.marks().entries_of(&host);
        } else if new.is_none() {
            remove(&mut self.store.hosts, &host, key);
            self.marks().entries_of(&host);
        }
        let binding = |service: &Service| (service.selector.clone(), service.ports.clone());
        let unready = |service: &Option<Service>| service.as_ref().map(|s| s.publish_not_ready);
        let sending = match (unready(&old), unready(&new)) {
            (Some(false), Some(true)) => Sending::Always,
            _ => Sending::IfChanged,
        };
        if sending == Sending::Always || old.as_ref().map(binding) != new.as_ref().map(binding) {
            for service in old.iter().chain(&new) {
                self.marks().members(key, &service.selector, sending);
            }
        }
    }

    pub(super) fn slice(&mut self, key: &ObjectKey, new: Option<Located<Slice>>) {
        let Some(old) = self.swap(key, new, |space| &mut space.slices) else {
            return;
        };
        self.dirty.object(key.clone());
        let at = NamespacedName::new(Arc::clone(&key.namespace), Arc::clone(&key.name));
        for (pod, _) in old.iter().flat_map(|old| &old.object.pods) {
            remove(&mut self.store.slices_of_pod, pod, &at);
            self.marks().pod(pod);
        }
        self.touch(&Read::Workloads(Arc::clone(&key.namespace)));
        let new = self.get(key, |space| &space.slices);
        let pods: Vec<_> = new
            .iter()
            .flat_map(|new| &new.pods)
            .map(|(pod, _)| pod.clone())
            .collect();
        for pod in pods {
            self.marks().pod(&pod);
            let slices = self.store.slices_of_pod.entry(pod).or_default();
            slices.insert(at.clone());
        }
    }

    pub(super) fn service_entry(&mut self, key: &ObjectKey, new: Option<Located<ServiceEntry>>) {
        let Some(old) = self.swap(key, new, |space| &mut space.entries) else {
            return;
        };
        self.dirty.object(key.clone());
        let (old, new) = (
            old.map(|old| old.object),
            self.get(key, |space| &space.entries).cloned(),
        );
        for entry in old.iter().chain(&new) {
            for host in &entry.hosts {
                self.dirty.host(host);
            }
        }
        if old == new {
            return; // Only moved within its file.
        }
        for host in old.iter().flat_map(|old| &old.hosts) {
            remove(&mut self.store.hosts, host, key);
            self.marks().entries_of(host);
        }
        for host in new.iter().flat_map(|new| &new.hosts) {
            self.claim(host, key);
            self.marks().entries_of(host);
        }
        for selector in old
            .iter()
            .chain(&new)
            .filter_map(|entry| entry.selector.as_ref())
        {
            self.marks().selected(&key.namespace, selector);
        }
    }

    pub(super) fn workload_entry(&mut self, key: &ObjectKey, new: Option<Located<WorkloadEntry>>) {
        let Some(old) = self.swap(key, new, |space| &mut space.workloads) else {
            return;
        };
        self.dirty.object(key.clone());
        let was = old.map(|old| old.object.labels);
        let is = self
            .get(key, |space| &space.workloads)
            .map(|new| new.labels.clone());
        if was != is {
            for labels in was.iter().chain(&is) {
                self.marks().selecting(&key.namespace, labels);
            }
        }
        self.touch(&Read::Workloads(Arc::clone(&key.namespace)));
    }

    pub(super) fn read_policy(
        &mut self,
        key: &ObjectKey,
        (read, generation): (Result<Policy, Refused<Policy>>, Option<i64>),
        place: Located<()>,
    ) {
        let before = self
            .get(key, |space| &space.policies)
            .map(|entry| entry.kept.clone());
        let kept = Kept::next(before, read);
        self.policy(
            key,
            Some(at(
                PolicyEntry { kept, generation },
                place.origin,
                place.lines,
            )),
        );
    }

    pub(super) fn policy(&mut self, key: &ObjectKey, new: Option<Located<PolicyEntry>>) {
        let Some(old) = self.swap(key, new, |space| &mut space.policies) else {
            return;
        };
        self.dirty.object(key.clone());
        let selector = |entry: &PolicyEntry| entry.kept.in_force().selector().cloned();
        let was = old.and_then(|old| selector(&old.object));
        let is = self.get(key, |space| &space.policies).and_then(selector);
        if was == is {
            return;
        }
        for selector in was.iter().chain(&is) {
            self.marks().bound(&key.namespace, selector);
        }
    }

    pub(super) fn read_peer(
        &mut self,
        key: &ObjectKey,
        read: Result<Peer, Refused<Peer>>,
        place: Located<()>,
    ) {
        let before = self.get(key, |space| &space.peers).cloned();
        let kept = Kept::next(before, read);
        self.peer(key, Some(at(kept, place.origin, place.lines)));
    }

    pub(super) fn peer(&mut self, key: &ObjectKey, new: Option<Located<Kept<Peer>>>) {
        let Some(old) = self.swap(key, new, |space| &mut space.peers) else {
            return;
        };
        self.dirty.object(key.clone());
        let was = old.map(|old| old.object.in_force().clone());
        let is = self
            .get(key, |space| &space.peers)
            .map(|kept| kept.in_force().clone());
        if was == is {
            return;
        }
        self.dirty.mark(Unit::StaticStrict);
        for peer in was.iter().chain(&is) {
            match peer.reach.selector() {
                Some(selector) => self.marks().labelled(&key.namespace, selector),
                None => self.marks().levels(&key.namespace),
            }
        }
    }
}

/// What its annotation says of going round waypoints.
fn bypass(namespace: &Option<Located<Namespace>>) -> Option<&str> {
    namespace.as_ref()?.object.bypass.as_deref()
}
