//! Takes changes into the store and marks what depends on them.
//!
//! One function per kind: what is kept of the object is compared with what was kept before, and only a difference
//! costs anything. Marking too much is slow; marking too little is wrong: the property test in `tests/` compares
//! every history with a compile from scratch.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use ambit_kube::{FieldLines, Kind, Located, Object, ObjectKey, Origin, Redirection};
use ambit_types::NamespacedName;

use crate::dirty::Dirty;
use crate::input::{Namespace, Pod, Service, ServiceEntry, Slice, WorkloadEntry};
use crate::policy::{Peer, Policy};
use crate::reads::Readers;
use crate::store::{Indexed, Objects, Space, Store, Table};

mod kinds;
mod marks;
mod objects;
mod preview;
mod spread;

pub(crate) use spread::Spread;

/// The store while changes go in, and what they touched.
pub(crate) struct Ingest<'a> {
    pub(crate) store: &'a mut Store,
    pub(crate) dirty: &'a mut Dirty,
    pub(crate) readers: &'a Readers,
}

impl Ingest<'_> {
    /// An object is now as given.
    pub(crate) fn apply(&mut self, located: Located<Object>) {
        let key = located.object.key();
        if !self.is_ours(&located.object) {
            self.delete(&key);
            return;
        }
        if Objects::keeps(key.kind) {
            self.keep(&key, Some(located.clone()));
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
            Object::Pod(o) => {
                let mut pod = Pod::new(&o);
                if self.store.settings.redirection_annotations {
                    pod.hints.believe_redirection();
                }
                self.pod(&key, Some(at(pod, origin, lines)));
            }
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
                Kind::AuthorizationPolicy => {
                    let read = (Err(Policy::broken(&broken)), None);
                    self.read_policy(&key, read, at((), origin, lines));
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// An object is gone.
    pub(crate) fn delete(&mut self, key: &ObjectKey) {
        if Objects::keeps(key.kind) {
            self.keep(key, None);
        }
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
            _ => {}
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

    /// Configuration of another revision is nobody's business here (contract 8.2). A Gateway is: whoever runs it,
    /// services and pods may ask for it (5.1).
    fn is_ours(&self, object: &Object) -> bool {
        let revision = &*self.store.settings.revision;
        let filtered = matches!(
            object.kind(),
            Kind::ServiceEntry
                | Kind::WorkloadEntry
                | Kind::AuthorizationPolicy
                | Kind::PeerAuthentication
                | Kind::RequestAuthentication
                | Kind::VirtualService
                | Kind::DestinationRule
                | Kind::Telemetry
        );
        let labels = match object {
            Object::Broken(broken) => Some(&broken.labels),
            other => other.metadata().and_then(|meta| meta.labels.as_ref()),
        };
        let theirs = labels.and_then(|labels| labels.get("istio.io/rev"));
        !filtered || revision.is_empty() || theirs.is_none_or(|theirs| theirs == revision)
    }
}

/// Storing.
impl Ingest<'_> {
    /// Puts an object in its place, or takes it away; none if nothing changed, else what was there.
    #[expect(
        clippy::option_option,
        reason = "whether it changed, and what was there"
    )]
    fn swap<T: PartialEq + Indexed>(
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
            Some(table.replace(&key.name, new))
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
