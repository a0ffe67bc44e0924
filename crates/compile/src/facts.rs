//! What is derived before everything else, and asked for by everything else: services with their waypoints, and
//! waypoints. A fact that comes out as it was stops the wave.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ambit_translate::ServiceInfo;
use ambit_types::NamespacedName;

use crate::waypoint::{Binding, WaypointFact};

/// All facts.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// By host and namespace.
    services: HashMap<Arc<str>, BTreeMap<Arc<str>, Arc<ServiceFact>>>,
    waypoints: BTreeMap<NamespacedName, Arc<WaypointFact>>,
}

/// What is known of a service.
#[derive(Debug, PartialEq)]
pub(crate) struct ServiceFact {
    pub(crate) info: Arc<ServiceInfo>,
    pub(crate) binding: Binding,
    /// Its workloads admit its waypoints only (ADR 0011).
    pub(crate) guarded: bool,
    /// `istio.io/ingress-use-waypoint`.
    pub(crate) ingress: bool,
    /// Among several of one host name, the one for clients of other namespaces.
    pub(crate) canonical: bool,
    /// Seen by its own namespace only.
    pub(crate) hidden: bool,
}

impl Facts {
    pub(crate) fn service(&self, namespace: &str, host: &str) -> Option<&Arc<ServiceFact>> {
        self.services.get(host)?.get(namespace)
    }

    /// The services of a host, by namespace.
    pub(crate) fn host(&self, host: &str) -> impl Iterator<Item = &Arc<ServiceFact>> {
        let namespaces = self.services.get(host).into_iter();
        namespaces.flat_map(BTreeMap::values)
    }

    /// Every host that has a service.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.services.keys()
    }

    pub(crate) fn waypoint(&self, at: &NamespacedName) -> Option<&Arc<WaypointFact>> {
        self.waypoints.get(at)
    }

    /// All waypoints.
    pub(crate) fn waypoints(&self) -> impl Iterator<Item = &Arc<WaypointFact>> {
        self.waypoints.values()
    }

    /// Replaces what is known of a host; what differs, as it was and as it is.
    pub(crate) fn replace_host(
        &mut self,
        host: &Arc<str>,
        new: BTreeMap<Arc<str>, ServiceFact>,
    ) -> Vec<Difference> {
        let mut before = self.services.remove(host).unwrap_or_default();
        let (mut now, mut differences) = (BTreeMap::new(), Vec::new());
        for (namespace, new) in new {
            let old = before.remove(&namespace);
            let new = match &old {
                Some(old) if **old == new => Arc::clone(old),
                _ => {
                    let new = Arc::new(new);
                    differences.push((Arc::clone(&namespace), old, Some(Arc::clone(&new))));
                    new
                }
            };
            now.insert(namespace, new);
        }
        for (namespace, old) in before {
            differences.push((namespace, Some(old), None));
        }
        if !now.is_empty() {
            self.services.insert(Arc::clone(host), now);
        }
        differences
    }

    /// Replaces what is known of a waypoint; whether it differs.
    pub(crate) fn replace_waypoint(
        &mut self,
        at: &NamespacedName,
        new: Option<WaypointFact>,
    ) -> bool {
        if self.waypoints.get(at).map(|known| &**known) == new.as_ref() {
            return false;
        }
        match new {
            Some(new) => self.waypoints.insert(at.clone(), Arc::new(new)),
            None => self.waypoints.remove(at),
        };
        true
    }
}

/// A service by its namespace: as it was, and as it is.
pub(crate) type Difference = (Arc<str>, Option<Arc<ServiceFact>>, Option<Arc<ServiceFact>>);
