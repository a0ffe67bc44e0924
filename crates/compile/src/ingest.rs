//! Takes changes into the store and marks what depends on them.
//!
//! One function per kind: what is kept of the object is compared with what was kept before, and only a difference
//! costs anything. Marking too much is slow; marking too little is wrong: the property test in `tests/` compares
//! every history with a compile from scratch.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use ambit_kube::core::Node;
use ambit_kube::{FieldLines, Kind, Located, MeshConfig, Object, ObjectKey, Origin, Redirection};
use ambit_types::NamespacedName;

use crate::dirty::{Dirty, Unit};
use crate::input::{
    Labels, Mesh, Namespace, Pod, Service, ServiceEntry, Slice, WorkloadEntry, locality_of,
};
use crate::policy::{Kept, Peer, Policy, Refused};
use crate::store::{NETWORK, PolicyEntry, Space, Store, Table};

mod marks;

/// The store while changes go in, and what they touched.
pub(crate) struct Ingest<'a> {
    pub(crate) store: &'a mut Store,
    pub(crate) dirty: &'a mut Dirty,
}

impl Ingest<'_> {
    /// An object is now as given.
    pub(crate) fn apply(&mut self, located: Located<Object>) {
        let key = located.object.key();
        if !self.is_ours(&located.object) {
            self.delete(&key);
            return;
        }
        let Located {
            object,
            origin,
            lines,
        } = located;
        match object {
            Object::MeshConfig(o) => self.mesh_config(&key, Some(at(o, origin, lines))),
            Object::Namespace(o) => {
                self.namespace(&key, Some(at(Namespace::new(&o), origin, lines)));
            }
            Object::Node(o) => self.node(&key, Some(&o)),
            Object::ServiceAccount(_) => {}
            Object::Pod(o) => self.pod(&key, Some(at(Pod::new(&o), origin, lines))),
            Object::Service(o) => {
                let kept = Service::new(&o).map(|kept| at(kept, origin, lines));
                self.service(&key, kept);
            }
            Object::EndpointSlice(o) => {
                let kept = Slice::new(&o, &key.namespace);
                self.slice(&key, kept.map(|kept| at(kept, origin, lines)));
            }
            Object::ServiceEntry(o) => {
                self.service_entry(&key, Some(at(ServiceEntry::new(&o), origin, lines)));
            }
            Object::WorkloadEntry(o) => {
                self.workload_entry(&key, Some(at(WorkloadEntry::new(&o), origin, lines)));
            }
            Object::AuthorizationPolicy(o) => {
                let read = Policy::read(&o, &key.namespace, self.store.settings.dry_run_policies);
                self.read_policy(&key, (read, o.metadata.generation), at((), origin, lines));
            }
            Object::PeerAuthentication(o) => {
                self.read_peer(&key, Peer::read(&o), at((), origin, lines));
            }
            Object::Broken(broken) => match key.kind {
                Kind::PeerAuthentication => {
                    self.read_peer(&key, Err(Peer::broken(&broken)), at((), origin, lines));
                }
                _ => {
                    let read = (Err(Policy::broken(&broken)), None);
                    self.read_policy(&key, read, at((), origin, lines));
                }
            },
        }
    }

    /// An object is gone.
    pub(crate) fn delete(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::MeshConfig => self.mesh_config(key, None),
            Kind::Namespace => self.namespace(key, None),
            Kind::Node => self.node(key, None),
            Kind::ServiceAccount => {}
            Kind::Pod => self.pod(key, None),
            Kind::Service => self.service(key, None),
            Kind::EndpointSlice => self.slice(key, None),
            Kind::ServiceEntry => self.service_entry(key, None),
            Kind::WorkloadEntry => self.workload_entry(key, None),
            Kind::AuthorizationPolicy => self.policy(key, None),
            Kind::PeerAuthentication => self.peer(key, None),
        }
    }

    /// A node agent says how far a pod's capture has come.
    pub(crate) fn redirection(&mut self, pod: NamespacedName, uid: Arc<str>, state: Redirection) {
        let before = if state == Redirection::None {
            // Of another pod of this name, it isn't this report's to end.
            match self.store.redirections.get(&pod) {
                Some((of, _)) if *of == uid => self.store.redirections.remove(&pod),
                Some(_) | None => return,
            }
        } else {
            let redirections = &mut self.store.redirections;
            redirections.insert(pod.clone(), (Arc::clone(&uid), state))
        };
        if before != Some((uid, state)) {
            self.dirty
                .object(ObjectKey::new(Kind::Pod, pod.namespace, pod.name));
        }
    }

    /// Configuration of another revision is nobody's business here (contract 8.2).
    fn is_ours(&self, object: &Object) -> bool {
        let revision = &*self.store.settings.revision;
        let filtered = matches!(
            object.kind(),
            Kind::ServiceEntry
                | Kind::WorkloadEntry
                | Kind::AuthorizationPolicy
                | Kind::PeerAuthentication
        );
        let labels = match object {
            Object::Broken(broken) => Some(&broken.labels),
            other => other.metadata().and_then(|meta| meta.labels.as_ref()),
        };
        let theirs = labels.and_then(|labels| labels.get("istio.io/rev"));
        !filtered || revision.is_empty() || theirs.is_none_or(|theirs| theirs == revision)
    }
}

/// The functions for the kinds: mark by what was and what will be, then store.
impl Ingest<'_> {
    fn mesh_config(&mut self, key: &ObjectKey, new: Option<Located<Arc<MeshConfig>>>) {
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
            self.marks().everything();
        }
    }

    fn namespace(&mut self, key: &ObjectKey, new: Option<Located<Namespace>>) {
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
            self.marks().everything();
        } else if discovered.0 != discovered.1 || visible.0 != visible.1 {
            self.marks().space(name);
        } else if old.map(|o| o.object.distribution) != new.as_ref().map(|o| o.object.distribution)
        {
            self.marks().hosts_of_space(name);
        }
        self.space(name).namespace = new;
        self.prune(name);
    }

    fn node(&mut self, key: &ObjectKey, new: Option<&Node>) {
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

    fn pod(&mut self, key: &ObjectKey, new: Option<Located<Pod>>) {
        let Some(old) = self.swap(key, new, |space| &mut space.pods) else {
            return;
        };
        self.dirty.object(key.clone());
        let new = self.get(key, |space| &space.pods);
        let old = old.map(|old| old.object);
        let facts = |pod: &Pod| (pod.terminal, pod.labels.clone());
        let (was, is) = (old.as_ref().map(facts), new.map(facts));
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
    }

    fn service(&mut self, key: &ObjectKey, new: Option<Located<Service>>) {
        let Some(old) = self.swap(key, new, |space| &mut space.services) else {
            return;
        };
        self.dirty.object(key.clone());
        let (old, new) = (
            old.map(|old| old.object),
            self.get(key, |space| &space.services).cloned(),
        );
        let host = self.store.hostname(&key.namespace, &key.name);
        self.dirty.mark(Unit::Host(Arc::clone(&host)));
        if old.is_none() {
            self.claim(&host, key);
            self.marks().entries_of(&host);
        } else if new.is_none() {
            remove(&mut self.store.hosts, &host, key);
            self.marks().entries_of(&host);
        }
        let binding = |service: &Service| (service.selector.clone(), service.ports.clone());
        let unready = |service: &Service| service.publish_not_ready;
        let began =
            old.as_ref().map(unready) == Some(false) && new.as_ref().map(unready) == Some(true);
        if began || old.as_ref().map(binding) != new.as_ref().map(binding) {
            for service in old.iter().chain(&new) {
                self.marks().members(key, &service.selector, began);
            }
        }
    }

    fn slice(&mut self, key: &ObjectKey, new: Option<Located<Slice>>) {
        let Some(old) = self.swap(key, new, |space| &mut space.slices) else {
            return;
        };
        self.dirty.object(key.clone());
        let at = NamespacedName::new(Arc::clone(&key.namespace), Arc::clone(&key.name));
        for (pod, _) in old.iter().flat_map(|old| &old.object.pods) {
            remove(&mut self.store.slices_of_pod, pod, &at);
            self.marks().pod(pod);
        }
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

    fn service_entry(&mut self, key: &ObjectKey, new: Option<Located<ServiceEntry>>) {
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
                self.dirty.mark(Unit::Host(Arc::clone(host)));
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

    fn workload_entry(&mut self, key: &ObjectKey, new: Option<Located<WorkloadEntry>>) {
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
    }

    fn read_policy(
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

    fn policy(&mut self, key: &ObjectKey, new: Option<Located<PolicyEntry>>) {
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

    fn read_peer(
        &mut self,
        key: &ObjectKey,
        read: Result<Peer, Refused<Peer>>,
        place: Located<()>,
    ) {
        let before = self.get(key, |space| &space.peers).cloned();
        let kept = Kept::next(before, read);
        self.peer(key, Some(at(kept, place.origin, place.lines)));
    }

    fn peer(&mut self, key: &ObjectKey, new: Option<Located<Kept<Peer>>>) {
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

/// Storing.
impl Ingest<'_> {
    /// Puts an object in its place, or takes it away; none if nothing changed, else what was there.
    #[expect(
        clippy::option_option,
        reason = "whether it changed, and what was there"
    )]
    fn swap<T: PartialEq>(
        &mut self,
        key: &ObjectKey,
        new: Option<Located<T>>,
        table: impl FnOnce(&mut Space) -> &mut Table<T>,
    ) -> Option<Option<Located<T>>> {
        let table = table(self.space(&key.namespace));
        let gone = new.is_none();
        let changed = if table.get(&key.name) == new.as_ref() {
            None
        } else {
            Some(match new {
                Some(new) => table.insert(Arc::clone(&key.name), new),
                None => table.remove(&key.name),
            })
        };
        if gone {
            self.prune(&key.namespace);
        }
        changed
    }

    fn get<T>(&self, key: &ObjectKey, table: impl FnOnce(&Space) -> &Table<T>) -> Option<&T> {
        let space = self.store.spaces.get(&key.namespace)?;
        table(space).get(&key.name).map(|located| &located.object)
    }

    fn space(&mut self, name: &Arc<str>) -> &mut Space {
        self.store.spaces.entry(Arc::clone(name)).or_default()
    }

    fn prune(&mut self, name: &Arc<str>) {
        if self.store.spaces.get(name).is_some_and(Space::is_empty) {
            self.store.spaces.remove(name);
        }
    }

    fn claim(&mut self, host: &Arc<str>, key: &ObjectKey) {
        let claims = self.store.hosts.entry(Arc::clone(host)).or_default();
        claims.insert(key.clone());
    }

    fn marks(&mut self) -> marks::Marks<'_> {
        marks::Marks {
            store: self.store,
            dirty: self.dirty,
        }
    }
}

fn at<T>(object: T, origin: Origin, lines: FieldLines) -> Located<T> {
    Located {
        object,
        origin,
        lines,
    }
}

/// Takes one value out of an index, and the key with its last value.
fn remove<K: Eq + Hash, V: Ord>(index: &mut HashMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = index.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(key);
        }
    }
}
