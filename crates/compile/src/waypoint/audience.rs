//! Which waypoints need which service's backends: counted by who refers to them (ADR 0009).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::dirty::Unit;
use crate::output::Audience;

/// References to services, by the unit that makes them.
#[derive(Debug, Default)]
pub(crate) struct Audiences {
    uses: HashMap<Unit, Uses>,
    /// By service, `namespace/hostname`; by waypoint, how many units refer for it.
    users: HashMap<Arc<str>, BTreeMap<Arc<str>, usize>>,
}

/// What a unit refers to, and for whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    /// `namespace/hostname` each.
    pub(crate) services: BTreeSet<Arc<str>>,
    pub(crate) waypoints: Audience,
}

impl Uses {
    fn is_nothing(&self) -> bool {
        self.services.is_empty() || self.waypoints.is_empty()
    }
}

impl Audiences {
    /// Replaces the references of a unit; the services whose users may be others now.
    pub(crate) fn replace(&mut self, unit: &Unit, new: Uses) -> BTreeSet<Arc<str>> {
        let same = match self.uses.get(unit) {
            Some(known) => *known == new,
            None => new.is_nothing(),
        };
        if same {
            return BTreeSet::new();
        }
        let old = self.uses.remove(unit).unwrap_or_default();
        let mut touched: BTreeSet<_> = old.services.iter().cloned().collect();
        for service in &old.services {
            let Some(users) = self.users.get_mut(service) else {
                continue;
            };
            for waypoint in old.waypoints.iter() {
                let count = users.get_mut(waypoint);
                let left = count.map_or(0, |count| {
                    *count = count.saturating_sub(1);
                    *count
                });
                if left == 0 {
                    users.remove(waypoint);
                }
            }
            if users.is_empty() {
                self.users.remove(service);
            }
        }
        if !new.is_nothing() {
            for service in &new.services {
                let users = self.users.entry(Arc::clone(service)).or_default();
                for waypoint in new.waypoints.iter() {
                    *users.entry(Arc::clone(waypoint)).or_default() += 1;
                }
            }
            touched.extend(new.services.iter().cloned());
            self.uses.insert(unit.clone(), new);
        }
        touched
    }

    /// The waypoints that use a service.
    pub(crate) fn of(&self, service: &str) -> Audience {
        let users = self.users.get(service).into_iter();
        users.flat_map(BTreeMap::keys).cloned().collect()
    }

    /// Whether any waypoint uses a service.
    pub(crate) fn has(&self, service: &str) -> bool {
        self.users.contains_key(service)
    }
}
