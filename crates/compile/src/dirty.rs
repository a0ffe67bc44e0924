//! What has to be derived again.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::ObjectKey;
use ambit_types::NamespacedName;
use ipnet::IpNet;

/// A part of the output that is derived as a whole, from the store alone.
///
/// The order is the order of derivation: hosts first, as they tell which virtual addresses to look at again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Unit {
    /// The services of one host name, in all namespaces.
    Host(Arc<str>),
    /// Who claims one virtual address: diagnostics only.
    Vip(IpNet),
    /// The policy that all STRICT workloads share.
    StaticStrict,
    /// What holds for a waypoint as a whole, by its Gateway; and what runs for it.
    Gateway(NamespacedName),
    /// Everything else that an object gives: its workloads or its policy, its status, its diagnostics.
    Object(ObjectKey),
}

/// A set of units.
#[derive(Debug, Default)]
pub(crate) struct Dirty(BTreeMap<Unit, Sending>);

/// Whether a resource that comes out as it was is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    IfChanged,
    Always,
}

impl Dirty {
    pub(crate) fn mark(&mut self, unit: Unit) {
        self.0.entry(unit).or_insert(Sending::IfChanged);
    }

    pub(crate) fn object(&mut self, key: ObjectKey) {
        self.mark(Unit::Object(key));
    }

    /// An object whose resources proxies may have dropped.
    pub(crate) fn dropped(&mut self, key: ObjectKey) {
        self.0.insert(Unit::Object(key), Sending::Always);
    }

    /// Takes the next unit, in order.
    pub(crate) fn pop(&mut self) -> Option<(Unit, Sending)> {
        self.0.pop_first()
    }
}
