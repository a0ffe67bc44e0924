//! Which routes of Gateway API are attached to what of which services: the index behind `World::claims`. What a route
//! means is not decided here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ambit_kube::{Kind, ObjectKey};
use ambit_translate::Claim;

/// Routes by service, by their kind and namespace, and by what they say of its ports.
#[derive(Debug, Default)]
pub(crate) struct Claims(HashMap<ObjectKey, HashMap<Of, Parts>>);

/// Kind and namespace of routes.
type Of = (Kind, Arc<str>);
/// Names of routes by port and section.
type Parts = BTreeMap<Part, BTreeSet<Arc<str>>>;
type Part = (Option<i64>, Option<Arc<str>>);

impl Claims {
    /// Replaces what a route is attached to. The services about which the answer is another one now: as long as the
    /// first route of a part stays the same, others come and go unnoticed.
    pub(crate) fn replace(
        &mut self,
        route: &ObjectKey,
        before: Vec<(ObjectKey, Claim)>,
        now: Vec<(ObjectKey, Claim)>,
    ) -> BTreeSet<ObjectKey> {
        let parts = |claims: Vec<(ObjectKey, Claim)>| -> BTreeSet<(ObjectKey, Part)> {
            let claims = claims.into_iter();
            claims
                .map(|(service, claim)| (service, (claim.port, claim.section)))
                .collect()
        };
        let (before, now) = (parts(before), parts(now));
        let mut changed = BTreeSet::new();
        for (service, part) in before.difference(&now) {
            if self.remove(route, service, part) {
                changed.insert(service.clone());
            }
        }
        for (service, part) in now.difference(&before) {
            let of = (route.kind, Arc::clone(&route.namespace));
            let parts = self.0.entry(service.clone()).or_default();
            let names = parts
                .entry(of)
                .or_default()
                .entry(part.clone())
                .or_default();
            names.insert(Arc::clone(&route.name));
            if names.first() == Some(&route.name) {
                changed.insert(service.clone());
            }
        }
        changed
    }

    /// Takes a route from a part; whether it was the first one.
    fn remove(&mut self, route: &ObjectKey, service: &ObjectKey, part: &Part) -> bool {
        let of = (route.kind, Arc::clone(&route.namespace));
        let Some(routes) = self.0.get_mut(service) else {
            return false;
        };
        let Some(parts) = routes.get_mut(&of) else {
            return false;
        };
        let Some(names) = parts.get_mut(part) else {
            return false;
        };
        let first = names.first() == Some(&route.name);
        names.remove(&route.name);
        if names.is_empty() {
            parts.remove(part);
        }
        if parts.is_empty() {
            routes.remove(&of);
        }
        if routes.is_empty() {
            self.0.remove(service);
        }
        first
    }

    /// What routes of a kind and namespace are attached to of a service.
    pub(crate) fn of(&self, service: &ObjectKey, kind: Kind, namespace: &Arc<str>) -> Vec<Claim> {
        let routes = self.0.get(service);
        let parts = routes.and_then(|routes| routes.get(&(kind, Arc::clone(namespace))));
        let claims = parts.into_iter().flatten();
        let claims = claims.filter_map(|((port, section), names)| {
            Some(Claim {
                route: Arc::clone(names.first()?),
                port: *port,
                section: section.clone(),
            })
        });
        claims.collect()
    }
}
