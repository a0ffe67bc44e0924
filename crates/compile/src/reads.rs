//! Who has asked what: the dependencies that nobody declares (ADR 0008).
//!
//! While a unit is derived, every question about something else than its own object is noted. When the answer to a
//! question may have changed, whoever asked it is derived again. Questions that found nothing count too.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ambit_kube::{Kind, ObjectKey};
use ambit_types::NamespacedName;

use crate::dirty::{Dirty, Unit};

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Read {
    /// An object as it was written.
    Object(ObjectKey),
    /// All objects of a kind in a namespace.
    Kind(Kind, Arc<str>),
    /// What routes of a kind and namespace are attached to of an object.
    Claims(Kind, Arc<str>, ObjectKey),
    /// Which namespaces have objects of a kind.
    Spaces(Kind),
    /// Whether a namespace is there, and discovered.
    Space(Arc<str>),
    /// The service of a host name in one namespace, as translations see it: namespace, host.
    Service(Arc<str>, Arc<str>),
    /// The same with everything that is known of its waypoints.
    Binding(Arc<str>, Arc<str>),
    /// The services of a host name, wherever.
    Host(Arc<str>),
    /// All services below a DNS suffix.
    Suffix(Arc<str>),
    /// A Gateway as a waypoint.
    Waypoint(NamespacedName),
    /// Which waypoints there are, and of which class.
    Waypoints,
    /// The pods of a waypoint: namespace, Gateway.
    Instances(NamespacedName),
    /// Which workloads a namespace has, with their labels, accounts and addresses.
    Workloads(Arc<str>),
    /// The policies that are attached to an object.
    Attached(ObjectKey),
    /// The policies of a namespace that only a waypoint can enforce and that select workloads.
    Selecting(Arc<str>),
    /// Which Gateways of a namespace are for service accounts.
    Accounts(Arc<str>),
    /// What holds for the mesh as a whole.
    Mesh,
}

/// Questions by unit, and units by question.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    asked: HashMap<Unit, Box<[Read]>>,
    askers: HashMap<Read, BTreeSet<Unit>>,
    /// The suffixes among the questions, which are matched, not looked up.
    suffixes: BTreeSet<Arc<str>>,
    /// The Secrets and ConfigMaps among them, of which a source reads no others.
    data: BTreeSet<ObjectKey>,
}

impl Readers {
    /// Replaces the questions of a unit.
    pub(crate) fn replace(&mut self, unit: &Unit, reads: BTreeSet<Read>) {
        let before = self
            .asked
            .get(unit)
            .map(|reads| &**reads)
            .unwrap_or_default();
        if before.iter().eq(&reads) {
            return;
        }
        for read in self.asked.remove(unit).unwrap_or_default() {
            if let Some(units) = self.askers.get_mut(&read) {
                units.remove(unit);
                if units.is_empty() {
                    self.askers.remove(&read);
                    match &read {
                        Read::Suffix(suffix) => {
                            self.suffixes.remove(suffix);
                        }
                        Read::Object(key) => {
                            self.data.remove(key);
                        }
                        _ => {}
                    }
                }
            }
        }
        for read in &reads {
            match read {
                Read::Suffix(suffix) => {
                    self.suffixes.insert(Arc::clone(suffix));
                }
                Read::Object(key) if matches!(key.kind, Kind::Secret | Kind::ConfigMap) => {
                    self.data.insert(key.clone());
                }
                _ => {}
            }
            let askers = self.askers.entry(read.clone()).or_default();
            askers.insert(unit.clone());
        }
        if !reads.is_empty() {
            self.asked.insert(unit.clone(), reads.into_iter().collect());
        }
    }

    /// The Secrets and ConfigMaps that were asked for.
    pub(crate) fn data(&self) -> &BTreeSet<ObjectKey> {
        &self.data
    }

    /// Marks whoever asked this.
    pub(crate) fn touch(&self, read: &Read, dirty: &mut Dirty) {
        for unit in self.askers.get(read).into_iter().flatten() {
            dirty.mark(unit.clone());
        }
    }

    /// Marks whoever asked for a host name, by itself or by a suffix of it.
    pub(crate) fn touch_host(&self, host: &Arc<str>, dirty: &mut Dirty) {
        self.touch(&Read::Host(Arc::clone(host)), dirty);
        for suffix in self.suffixes.iter().filter(|suffix| is_below(host, suffix)) {
            self.touch(&Read::Suffix(Arc::clone(suffix)), dirty);
        }
    }

    /// Marks everybody who ever asked anything.
    pub(crate) fn touch_all(&self, dirty: &mut Dirty) {
        for unit in self.asked.keys() {
            dirty.mark(unit.clone());
        }
    }
}

/// Whether `*.suffix` covers a host; the empty suffix covers all.
pub(crate) fn is_below(host: &str, suffix: &str) -> bool {
    suffix.is_empty()
        || host
            .strip_suffix(suffix)
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}
