//! What follows from a fact that came out differently.

use std::sync::Arc;

use ambit_kube::Kind;

use super::marks::Marks;
use crate::dirty::{Dirty, Sending, Unit};
use crate::facts::{Difference, ServiceFact};
use crate::reads::{Read, Readers};
use crate::store::Store;

/// Marks what depends on facts.
pub(crate) struct Spread<'a> {
    pub(crate) store: &'a Store,
    pub(crate) readers: &'a Readers,
    pub(crate) dirty: &'a mut Dirty,
}

impl Spread<'_> {
    /// A service of a host is another one now.
    pub(crate) fn service(&mut self, host: &Arc<str>, (namespace, old, new): &Difference) {
        let (namespace, old, new) = (Arc::clone(namespace), old.as_ref(), new.as_ref());
        let key: Arc<str> = format!("{namespace}/{host}").into();
        let read = Read::Binding(Arc::clone(&namespace), Arc::clone(host));
        self.readers.touch(&read, self.dirty);
        let seen = |fact: Option<&Arc<ServiceFact>>| {
            fact.map(|fact| (Arc::clone(&fact.info), fact.canonical, fact.hidden))
        };
        if seen(old) != seen(new) {
            let read = Read::Service(namespace, Arc::clone(host));
            self.readers.touch(&read, self.dirty);
            self.readers.touch_host(host, self.dirty);
        }
        self.dirty.mark(Unit::Host(Arc::clone(host)));
        for fact in old.iter().chain(&new) {
            self.dirty.object(fact.info.object.clone());
        }
        let served = |fact: &&Arc<ServiceFact>| !fact.info.waypoints.is_empty();
        if old.iter().chain(&new).any(served) {
            self.dirty.mark(Unit::Frontend(Arc::clone(&key)));
        }
        let guarded = |fact: Option<&Arc<ServiceFact>>| fact.is_some_and(|fact| fact.guarded);
        if guarded(old) || guarded(new) {
            self.dirty.mark(Unit::Guard(key));
        }
        if guarded(old) != guarded(new) {
            for fact in old.iter().chain(&new) {
                self.members(fact);
            }
        }
    }

    /// The workloads of a service bind another set of policies now.
    fn members(&mut self, fact: &ServiceFact) {
        let key = &fact.info.object;
        let store = self.store;
        let Some(space) = store.spaces.get(&key.namespace) else {
            return;
        };
        let mut marks = Marks {
            store,
            dirty: self.dirty,
        };
        if key.kind == Kind::Service {
            if let Some(service) = space.services.get(&key.name) {
                marks.members(key, &service.object.selector, Sending::IfChanged);
            }
        } else if let Some(entry) = space.entries.get(&key.name) {
            if let Some(selector) = &entry.object.selector {
                marks.selected(&key.namespace, selector);
            }
            self.dirty.object(key.clone());
        }
    }
}
