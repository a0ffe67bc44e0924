//! The objects of one kind in one namespace, by name, by label and by what they select.
//!
//! A namespace may have thousands of pods and of services: who is selected, and who selects, is looked up by one label
//! and then compared, never found by comparing all.

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ambit_kube::Located;

use super::PolicyEntry;
use crate::input::{Labels, Pod, Service, ServiceEntry, Slice, WorkloadEntry};
use crate::policy::{Kept, Peer};

/// Objects of one kind in one namespace.
#[derive(Debug)]
pub(crate) struct Table<T> {
    objects: BTreeMap<Arc<str>, Located<T>>,
    /// Names by each label.
    labelled: Names,
    /// Names by one label of what they select: the rarest when they came.
    selecting: Names,
    /// Those that select everything.
    selecting_all: BTreeSet<Arc<str>>,
    /// How many objects were compared.
    compared: AtomicU64,
}

/// What an object is found by.
pub(crate) trait Indexed {
    /// Calls back with each label, and with whatever else it is looked up by.
    fn labels(&self, each: &mut dyn FnMut(&str, &str));
    /// What it selects; none if that can't be anything.
    fn selector(&self) -> Option<&Labels>;
    /// Its labels, to be compared.
    fn compared(&self) -> Option<&Labels>;
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            labelled: Names::default(),
            selecting: Names::default(),
            selecting_all: BTreeSet::new(),
            compared: AtomicU64::new(0),
        }
    }
}

impl<T> Table<T> {
    pub(crate) fn get(&self, name: &str) -> Option<&Located<T>> {
        self.objects.get(name)
    }

    pub(crate) fn iter(&self) -> btree_map::Iter<'_, Arc<str>, Located<T>> {
        self.objects.iter()
    }

    pub(crate) fn keys(&self) -> btree_map::Keys<'_, Arc<str>, Located<T>> {
        self.objects.keys()
    }

    pub(crate) fn values(&self) -> btree_map::Values<'_, Arc<str>, Located<T>> {
        self.objects.values()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// How many objects were compared with labels or selectors until now.
    pub(crate) fn comparisons(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    fn compare(&self) {
        self.compared.fetch_add(1, Ordering::Relaxed);
    }
}

impl<T: Indexed> Table<T> {
    /// Puts an object in its place, or takes it away; what was there.
    pub(crate) fn replace(
        &mut self,
        name: &Arc<str>,
        new: Option<Located<T>>,
    ) -> Option<Located<T>> {
        let old = self.objects.remove(name);
        if let Some(old) = &old {
            let old = &old.object;
            old.labels(&mut |key, value| self.labelled.remove(key, value, name));
            if let Some(selector) = old.selector() {
                for (key, value) in selector.iter() {
                    self.selecting.remove(key, value, name);
                }
                self.selecting_all.remove(name);
            }
        }
        if let Some(new) = new {
            new.object
                .labels(&mut |key, value| self.labelled.insert(key, value, name));
            if let Some(selector) = new.object.selector() {
                let rarest = selector.iter().min_by_key(|(key, value)| {
                    self.selecting.at(key, value).map_or(0, BTreeSet::len)
                });
                match rarest {
                    Some((key, value)) => self.selecting.insert(key, value, name),
                    None => {
                        self.selecting_all.insert(Arc::clone(name));
                    }
                }
            }
            self.objects.insert(Arc::clone(name), new);
        }
        old
    }

    /// The objects that a selector picks, in the order of their names; an empty one picks all.
    pub(crate) fn selected<'a: 's, 's>(
        &'a self,
        selector: &'s Labels,
    ) -> Box<dyn Iterator<Item = (&'a Arc<str>, &'a Located<T>)> + 's> {
        if selector.is_empty() {
            return Box::new(self.objects.iter());
        }
        let sets = selector
            .iter()
            .map(|(key, value)| self.labelled.at(key, value));
        // A label that nobody has picks nobody.
        let rarest = sets
            .min_by_key(|set| set.map_or(0, BTreeSet::len))
            .flatten();
        let found = rarest.into_iter().flatten();
        Box::new(found.filter_map(move |name| {
            self.compare();
            let object = self.objects.get(name)?;
            let labels = object.object.compared()?;
            selector.selects(labels).then_some((name, object))
        }))
    }

    /// The objects that select something with these labels, in no order.
    pub(crate) fn selecting<'a>(
        &'a self,
        labels: &Labels,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Located<T>)> {
        let names = labels.iter();
        let names = names.filter_map(|(key, value)| self.selecting.at(key, value));
        let names = names.flatten().chain(&self.selecting_all);
        names.filter_map(move |name| {
            self.compare();
            let object = self.objects.get(name)?;
            let selector = object.object.selector()?;
            selector.selects(labels).then_some((name, object))
        })
    }

    /// The objects that are looked up by this, in the order of their names.
    pub(crate) fn at<'a>(
        &'a self,
        key: &str,
        value: &str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Located<T>)> {
        let names = self.labelled.at(key, value).into_iter().flatten();
        names.filter_map(|name| {
            self.compare();
            Some((name, self.objects.get(name)?))
        })
    }
}

impl<'a, T> IntoIterator for &'a Table<T> {
    type Item = (&'a Arc<str>, &'a Located<T>);
    type IntoIter = btree_map::Iter<'a, Arc<str>, Located<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Names by key and value.
#[derive(Debug, Default)]
struct Names(HashMap<Box<str>, Values>);

type Values = HashMap<Box<str>, BTreeSet<Arc<str>>>;

impl Names {
    fn at(&self, key: &str, value: &str) -> Option<&BTreeSet<Arc<str>>> {
        self.0.get(key)?.get(value)
    }

    fn insert(&mut self, key: &str, value: &str, name: &Arc<str>) {
        if !self.0.contains_key(key) {
            self.0.insert(key.into(), HashMap::new());
        }
        let Some(values) = self.0.get_mut(key) else {
            return;
        };
        match values.get_mut(value) {
            Some(names) => {
                names.insert(Arc::clone(name));
            }
            None => {
                values.insert(value.into(), [Arc::clone(name)].into());
            }
        }
    }

    fn remove(&mut self, key: &str, value: &str, name: &Arc<str>) {
        let Some(values) = self.0.get_mut(key) else {
            return;
        };
        if let Some(names) = values.get_mut(value) {
            names.remove(name);
            if names.is_empty() {
                values.remove(value);
            }
        }
        if values.is_empty() {
            self.0.remove(key);
        }
    }
}

/// Stands for the account that a workload runs under: no label has an empty key.
pub(crate) const ACCOUNT: &str = "";
/// Stands for the service that a slice belongs to.
pub(crate) const SERVICE: &str = "";

fn each(labels: &Labels, each: &mut dyn FnMut(&str, &str)) {
    for (key, value) in labels.iter() {
        each(key, value);
    }
}

impl Indexed for Pod {
    fn labels(&self, found: &mut dyn FnMut(&str, &str)) {
        each(&self.labels, found);
        found(ACCOUNT, self.account());
    }

    fn selector(&self) -> Option<&Labels> {
        None
    }

    fn compared(&self) -> Option<&Labels> {
        Some(&self.labels)
    }
}

impl Indexed for WorkloadEntry {
    fn labels(&self, found: &mut dyn FnMut(&str, &str)) {
        each(&self.labels, found);
        found(ACCOUNT, &self.spec.service_account);
    }

    fn selector(&self) -> Option<&Labels> {
        None
    }

    fn compared(&self) -> Option<&Labels> {
        Some(&self.labels)
    }
}

impl Indexed for ServiceEntry {
    fn labels(&self, found: &mut dyn FnMut(&str, &str)) {
        each(&self.labels, found);
    }

    fn selector(&self) -> Option<&Labels> {
        self.selector.as_ref()
    }

    fn compared(&self) -> Option<&Labels> {
        Some(&self.labels)
    }
}

impl Indexed for Service {
    fn labels(&self, _: &mut dyn FnMut(&str, &str)) {}

    /// An empty one selects nothing.
    fn selector(&self) -> Option<&Labels> {
        Some(&self.selector).filter(|selector| !selector.is_empty())
    }

    fn compared(&self) -> Option<&Labels> {
        None
    }
}

impl Indexed for Slice {
    fn labels(&self, found: &mut dyn FnMut(&str, &str)) {
        found(SERVICE, &self.service);
    }

    fn selector(&self) -> Option<&Labels> {
        None
    }

    fn compared(&self) -> Option<&Labels> {
        None
    }
}

impl Indexed for PolicyEntry {
    fn labels(&self, _: &mut dyn FnMut(&str, &str)) {}

    fn selector(&self) -> Option<&Labels> {
        self.kept.in_force().selector()
    }

    fn compared(&self) -> Option<&Labels> {
        None
    }
}

impl Indexed for Kept<Peer> {
    fn labels(&self, _: &mut dyn FnMut(&str, &str)) {}

    fn selector(&self) -> Option<&Labels> {
        self.in_force().reach.selector()
    }

    fn compared(&self) -> Option<&Labels> {
        None
    }
}
