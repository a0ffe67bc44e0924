//! Everything that is in force, by the unit that gave it, and what changed since the last look.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ambit_kube::ObjectKey;
use ambit_proto::waypoint::TYPES;

use crate::dirty::{Sending, Unit};
use crate::output::{
    AddressKind, AddressResource, AuthorizationResource, Changes, Delta, Diagnostic, ResourceName,
    Snapshot, WaypointChanges, WaypointResource,
};
use crate::status::Status;
use crate::waypoint::{Rendered, Uses};

/// What one unit gives.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) addresses: Vec<AddressResource>,
    pub(crate) authorizations: Vec<AuthorizationResource>,
    /// With the position of their type in `ambit_proto::waypoint::TYPES`.
    pub(crate) waypoint: Vec<(usize, WaypointResource)>,
    pub(crate) rendered: Option<Rendered>,
    pub(crate) status: Option<Status>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// What it refers to, and for whom; the compiler takes that out.
    pub(crate) uses: Uses,
}

/// The whole output.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    addresses: Table<AddressResource>,
    authorizations: Table<AuthorizationResource>,
    members: Members,
    waypoint: [Table<WaypointResource>; TYPES.len()],
    rendered: BTreeMap<Arc<str>, Arc<Rendered>>,
    changed_rendered: BTreeMap<Arc<str>, Option<Arc<Rendered>>>,
    statuses: BTreeMap<ObjectKey, Arc<Status>>,
    diagnostics: BTreeMap<Unit, Vec<Diagnostic>>,
    changed_statuses: BTreeMap<ObjectKey, Option<Arc<Status>>>,
    changed_diagnostics: bool,
}

impl Outputs {
    /// Replaces what a unit gave before; the services that its workloads are or were members of.
    pub(crate) fn replace(
        &mut self,
        unit: &Unit,
        output: Output,
        sending: Sending,
    ) -> BTreeSet<ResourceName> {
        let before = self.workloads_of(unit);
        self.addresses.replace(unit, output.addresses, sending);
        let members = self.count_members(unit, &before);
        self.replace_rest(
            unit,
            Output {
                addresses: Vec::new(),
                ..output
            },
            sending,
        );
        members
    }

    /// The workloads that a unit gives now.
    fn workloads_of(&self, unit: &Unit) -> Vec<Arc<AddressResource>> {
        let names = self.addresses.owned.get(unit).into_iter().flatten();
        let resources = names.filter_map(|name| self.addresses.resources.get(name));
        let workloads = resources.filter(|of| matches!(of.kind, AddressKind::Workload { .. }));
        workloads.cloned().collect()
    }

    fn count_members(
        &mut self,
        unit: &Unit,
        before: &[Arc<AddressResource>],
    ) -> BTreeSet<ResourceName> {
        let now = self.workloads_of(unit);
        let mut touched = BTreeSet::new();
        for (list, is) in [(before, false), (&*now, true)] {
            let other: &[_] = if is { before } else { &now };
            for resource in list {
                let AddressKind::Workload { services, .. } = &resource.kind else {
                    continue;
                };
                // One that came out as it was may have other labels, which only endpoints carry.
                touched.extend(services.iter().cloned());
                if other.iter().any(|same| Arc::ptr_eq(same, resource)) {
                    continue;
                }
                for service in services {
                    self.members.replace(service, &resource.name, unit, is);
                }
            }
        }
        touched
    }

    /// The workloads of a service, by uid, with the units that give them.
    pub(crate) fn members(
        &self,
        service: &str,
    ) -> impl Iterator<Item = (&Arc<AddressResource>, &Unit)> {
        let members = self.members.0.get(service).into_iter().flatten();
        members.filter_map(|(uid, unit)| Some((self.addresses.resources.get(uid)?, unit)))
    }

    fn replace_rest(&mut self, unit: &Unit, output: Output, sending: Sending) {
        self.authorizations
            .replace(unit, output.authorizations, sending);
        let mut by_type: [Vec<WaypointResource>; TYPES.len()] = std::array::from_fn(|_| Vec::new());
        for (at, resource) in output.waypoint {
            if let Some(list) = by_type.get_mut(at) {
                list.push(resource);
            }
        }
        for (table, new) in self.waypoint.iter_mut().zip(by_type) {
            table.replace(unit, new, Sending::IfChanged);
        }
        self.replace_rendered(unit, output.rendered);
        if let Unit::Object(key) = unit {
            self.replace_status(key, output.status);
        }
        let before = if output.diagnostics.is_empty() {
            self.diagnostics.remove(unit)
        } else {
            let now = output.diagnostics;
            let same = self.diagnostics.get(unit) == Some(&now);
            if same {
                return;
            }
            self.diagnostics.insert(unit.clone(), now);
            self.changed_diagnostics = true;
            None
        };
        self.changed_diagnostics |= before.is_some();
    }

    fn replace_rendered(&mut self, unit: &Unit, rendered: Option<Rendered>) {
        let Unit::Gateway(gateway) = unit else {
            return;
        };
        let key: Arc<str> = gateway.to_string().into();
        let before = self.rendered.get(&key);
        if before.map(|before| &**before) == rendered.as_ref() {
            return;
        }
        let rendered = rendered.map(Arc::new);
        self.changed_rendered
            .insert(Arc::clone(&key), rendered.clone());
        match rendered {
            Some(rendered) => self.rendered.insert(key, rendered),
            None => self.rendered.remove(&key),
        };
    }

    fn replace_status(&mut self, key: &ObjectKey, status: Option<Status>) {
        if self.statuses.get(key).map(|before| &**before) == status.as_ref() {
            return;
        }
        let status = status.map(Arc::new);
        self.changed_statuses.insert(key.clone(), status.clone());
        match status {
            Some(status) => self.statuses.insert(key.clone(), status),
            None => self.statuses.remove(key),
        };
    }

    /// What changed since the last call.
    pub(crate) fn delta(&mut self) -> Delta {
        Delta {
            addresses: self.addresses.changes(),
            authorizations: self.authorizations.changes(),
            waypoint: WaypointChanges(self.waypoint.each_mut().map(Table::changes)),
            rendered: std::mem::take(&mut self.changed_rendered),
            statuses: std::mem::take(&mut self.changed_statuses),
            diagnostics: std::mem::take(&mut self.changed_diagnostics),
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            addresses: self.addresses.resources.values().cloned().collect(),
            authorizations: self.authorizations.resources.values().cloned().collect(),
            waypoint: self
                .waypoint
                .each_ref()
                .map(|table| table.resources.values().cloned().collect()),
        }
    }

    pub(crate) fn rendered(&self) -> &BTreeMap<Arc<str>, Arc<Rendered>> {
        &self.rendered
    }

    pub(crate) fn statuses(&self) -> &BTreeMap<ObjectKey, Arc<Status>> {
        &self.statuses
    }

    pub(crate) fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.values().flatten()
    }
}

/// Workloads by service and uid, with the units that give them.
#[derive(Debug, Default)]
struct Members(HashMap<ResourceName, BTreeMap<ResourceName, Unit>>);

impl Members {
    fn replace(&mut self, service: &ResourceName, uid: &ResourceName, unit: &Unit, is: bool) {
        if is {
            let members = self.0.entry(Arc::clone(service)).or_default();
            members.insert(Arc::clone(uid), unit.clone());
        } else if let Some(members) = self.0.get_mut(service) {
            members.remove(uid);
            if members.is_empty() {
                self.0.remove(service);
            }
        }
    }
}

/// The resources of one type.
#[derive(Debug)]
struct Table<R> {
    resources: BTreeMap<ResourceName, Arc<R>>,
    owned: HashMap<Unit, Box<[ResourceName]>>,
    /// What was there before the first touch since the last look, and whether to sending it in any case.
    touched: BTreeMap<ResourceName, (Option<Arc<R>>, Sending)>,
}

trait Named: PartialEq {
    fn name(&self) -> &ResourceName;
}

impl Named for AddressResource {
    fn name(&self) -> &ResourceName {
        &self.name
    }
}

impl Named for AuthorizationResource {
    fn name(&self) -> &ResourceName {
        &self.name
    }
}

impl Named for WaypointResource {
    fn name(&self) -> &ResourceName {
        &self.name
    }
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self {
            resources: BTreeMap::new(),
            owned: HashMap::new(),
            touched: BTreeMap::new(),
        }
    }
}

impl<R: Named> Table<R> {
    fn replace(&mut self, unit: &Unit, new: Vec<R>, sending: Sending) {
        let before = self.owned.remove(unit).unwrap_or_default();
        let mut gone: BTreeSet<_> = before.iter().cloned().collect();
        let mut names = Vec::with_capacity(new.len());
        for resource in new {
            gone.remove(resource.name());
            names.push(self.put(resource, sending));
        }
        for name in gone {
            let was = self.resources.remove(&name);
            self.touched
                .entry(name)
                .or_insert((was, Sending::IfChanged));
        }
        if !names.is_empty() {
            self.owned.insert(unit.clone(), names.into());
        }
    }

    fn put(&mut self, resource: R, sending: Sending) -> Arc<str> {
        let known = self.resources.get_key_value(resource.name());
        let name = known.map_or_else(|| Arc::clone(resource.name()), |(name, _)| Arc::clone(name));
        let before = known.map(|(_, before)| Arc::clone(before));
        let same = before.as_deref() == Some(&resource);
        if same && sending == Sending::IfChanged {
            return name;
        }
        let touch = self
            .touched
            .entry(Arc::clone(&name))
            .or_insert((before, sending));
        if sending == Sending::Always {
            touch.1 = sending;
        }
        if !same {
            self.resources.insert(Arc::clone(&name), Arc::new(resource));
        }
        name
    }

    fn changes(&mut self) -> Changes<R> {
        let mut changes = Changes::default();
        for (name, (before, sending)) in std::mem::take(&mut self.touched) {
            match self.resources.get(&name) {
                Some(now) if sending == Sending::Always || before.as_ref() != Some(now) => {
                    changes.changed.push(Arc::clone(now));
                }
                None if before.is_some() => changes.removed.push(name),
                Some(_) | None => {}
            }
        }
        changes
    }
}
