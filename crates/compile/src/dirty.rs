//! What has to be derived again.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::ObjectKey;
use ambit_types::NamespacedName;
use ipnet::IpNet;

/// A part of the output that is derived as a whole.
///
/// The order is the order of derivation: facts first, that others ask for; hosts before addresses, as they tell which
/// virtual addresses to look at again; last what depends on who refers to whom, and on workloads that came out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Unit {
    /// A Gateway as a waypoint: a fact.
    Waypoint(NamespacedName),
    /// The services of one host name as others see them, with their waypoints: facts.
    Services(Arc<str>),
    /// The services of one host name, in all namespaces.
    Host(Arc<str>),
    /// Who claims one virtual address: diagnostics only.
    Vip(IpNet),
    /// The policy that all STRICT workloads share.
    StaticStrict,
    /// What holds for a waypoint as a whole, by its Gateway; and what runs for it.
    Gateway(NamespacedName),
    /// A service to the waypoints that serve it, `namespace/hostname`.
    Frontend(Arc<str>),
    /// Everything else that an object gives: its workloads, its routes or its policy, its status, its diagnostics.
    Object(ObjectKey),
    /// The policy by which a service's workloads admit its waypoint only, `namespace/hostname`.
    Guard(Arc<str>),
    /// How a service is called, for each namespace with waypoints that call it, `namespace/hostname`.
    Backend(Arc<str>),
    /// Where a service's endpoints are, `namespace/hostname`.
    Endpoints(Arc<str>),
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

    /// Whatever a host name gives.
    pub(crate) fn host(&mut self, host: &Arc<str>) {
        self.mark(Unit::Services(Arc::clone(host)));
        self.mark(Unit::Host(Arc::clone(host)));
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
