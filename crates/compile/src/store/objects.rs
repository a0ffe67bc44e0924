//! Objects as they were written, of every kind that is looked at through the world (ADR 0008): one table a kind and
//! namespace, and who attaches to whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ambit_kube::{Kind, Located, Object, ObjectKey};

use super::claims::Claims;
use crate::input::Labels;

/// Objects by kind, namespace and name. Not pods, nodes and slices, of which there are many: those are kept as far as
/// they are read.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    tables: BTreeMap<(Kind, Arc<str>), Table>,
    /// Policies in the form in which they were good last (design D4).
    good: HashMap<ObjectKey, Located<Object>>,
    /// What policies are attached to an object, by reference.
    attached: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// Policies of a namespace that only a waypoint can enforce and that select workloads, with what they select.
    selecting: HashMap<Arc<str>, BTreeMap<ObjectKey, Labels>>,
    /// What routes are attached to.
    pub(crate) claims: Claims,
}

/// Objects by name.
type Table = BTreeMap<Arc<str>, Located<Object>>;

impl Objects {
    /// Whether objects of a kind are kept here.
    pub(crate) fn keeps(kind: Kind) -> bool {
        !matches!(
            kind,
            Kind::Pod | Kind::Node | Kind::EndpointSlice | Kind::ServiceAccount | Kind::MeshConfig
        )
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&Located<Object>> {
        let table = self.tables.get(&(key.kind, Arc::clone(&key.namespace)))?;
        table.get(&key.name)
    }

    /// The objects of a kind in a namespace, by name.
    pub(crate) fn of(
        &self,
        kind: Kind,
        namespace: &Arc<str>,
    ) -> impl Iterator<Item = (&Arc<str>, &Located<Object>)> {
        let table = self.tables.get(&(kind, Arc::clone(namespace)));
        table.into_iter().flatten()
    }

    /// Namespaces that have objects of a kind.
    pub(crate) fn namespaces(&self, kind: Kind) -> impl Iterator<Item = &Arc<str>> {
        let from = (kind, Arc::from(""));
        let tables = self.tables.range(from..);
        tables
            .take_while(move |((of, _), _)| *of == kind)
            .map(|((_, namespace), _)| namespace)
    }

    /// Every object of a namespace.
    pub(crate) fn keys_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = ObjectKey> + 'a {
        let tables = self.tables.iter();
        let tables = tables.filter(move |((_, of), _)| **of == *namespace);
        tables.flat_map(|((kind, namespace), table)| {
            let names = table.keys();
            names.map(|name| ObjectKey::new(*kind, Arc::clone(namespace), Arc::clone(name)))
        })
    }

    /// Puts an object in its place, or takes it away; what was there.
    pub(crate) fn replace(
        &mut self,
        key: &ObjectKey,
        new: Option<Located<Object>>,
    ) -> Option<Located<Object>> {
        let at = (key.kind, Arc::clone(&key.namespace));
        match new {
            Some(new) => {
                let table = self.tables.entry(at).or_default();
                table.insert(Arc::clone(&key.name), new)
            }
            None => {
                let table = self.tables.get_mut(&at)?;
                let old = table.remove(&key.name);
                if table.is_empty() {
                    self.tables.remove(&at);
                }
                old
            }
        }
    }

    /// An object in the form that is in force: as written, or as it was good last.
    pub(crate) fn in_force(&self, key: &ObjectKey) -> Option<&Located<Object>> {
        self.good.get(key).or_else(|| self.get(key))
    }

    /// An object in the form in which it was good last, if it is a policy that ever was.
    pub(crate) fn good(&self, key: &ObjectKey) -> Option<&Located<Object>> {
        self.good.get(key)
    }

    /// Notes the form in which a policy is good; none when it is gone.
    pub(crate) fn keep_good(&mut self, key: &ObjectKey, good: Option<Located<Object>>) {
        match good {
            Some(good) => self.good.insert(key.clone(), good),
            None => self.good.remove(key),
        };
    }

    /// Notes that a policy attaches to an object, or no longer does.
    pub(crate) fn attach(&mut self, target: ObjectKey, policy: &ObjectKey, now: bool) {
        if now {
            let policies = self.attached.entry(target).or_default();
            policies.insert(policy.clone());
        } else if let Some(policies) = self.attached.get_mut(&target) {
            policies.remove(policy);
            if policies.is_empty() {
                self.attached.remove(&target);
            }
        }
    }

    /// Notes what a policy that only a waypoint can enforce selects; none if it doesn't, or is gone.
    pub(crate) fn select(&mut self, policy: &ObjectKey, labels: Option<Labels>) {
        let policies = self.selecting.entry(Arc::clone(&policy.namespace));
        let policies = policies.or_default();
        match labels {
            Some(labels) => policies.insert(policy.clone(), labels),
            None => policies.remove(policy),
        };
        if policies.is_empty() {
            self.selecting.remove(&policy.namespace);
        }
    }

    /// What policies of a namespace select that only a waypoint can enforce.
    pub(crate) fn selecting(&self, namespace: &str) -> impl Iterator<Item = &Labels> {
        let policies = self.selecting.get(namespace).into_iter();
        policies.flat_map(BTreeMap::values)
    }

    /// The policies that name an object as their target.
    pub(crate) fn attached(&self, target: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.attached.get(target).into_iter().flatten()
    }
}
