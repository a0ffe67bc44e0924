//! From the store to what one unit gives: pure, one module per thing that comes out.

mod hints;
mod host;
mod members;
mod mesh;
mod policy;
mod service_entry;
mod workload;

pub(crate) use host::claims;
pub(crate) use members::{
    of_pod as members_of_pod, of_workload_entry as members_of_workload_entry,
};
pub(crate) use workload::uid_of;

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::{Kind, Located, ObjectKey};
use ambit_types::NamespacedName;

use crate::about::About;
use crate::dirty::Unit;
use crate::facts::ServiceFact;
use crate::outputs::{Output, Outputs};
use crate::store::{Space, Table};
use crate::view::View;
use crate::waypoint::{self, WaypointFact};

/// What a unit gives.
pub(crate) enum Derived {
    Output(Box<Output>),
    Waypoint(NamespacedName, Option<Box<WaypointFact>>),
    Services(Arc<str>, BTreeMap<Arc<str>, ServiceFact>),
}

/// Everything that a unit gives now; of what came out before, only the workloads are looked at.
pub(crate) fn derive(view: &View<'_>, outputs: &Outputs, unit: &Unit) -> Derived {
    let store = view.store;
    let output = match unit {
        Unit::Waypoint(at) => {
            let before = view.facts.waypoint(at);
            let fact = waypoint::gateway_fact(view, at, before.map(|fact| &**fact));
            return Derived::Waypoint(at.clone(), fact.map(Box::new));
        }
        Unit::Services(host) => {
            return Derived::Services(Arc::clone(host), waypoint::service_facts(view, host));
        }
        Unit::Host(host) => host::services(view, host),
        Unit::Vip(net) => host::shared_vip(store, view.vips, *net),
        Unit::StaticStrict => policy::static_strict(store),
        Unit::Gateway(at) => waypoint::gateway(view, at),
        Unit::Frontend(service) => waypoint::frontend(view, service),
        Unit::Guard(service) => waypoint::guard(view, outputs, service),
        Unit::Backend(service) => waypoint::backend(view, service),
        Unit::Endpoints(service) => waypoint::endpoints(view, outputs, service),
        Unit::Object(key) => object(view, key).unwrap_or_default(),
    };
    Derived::Output(Box::new(output))
}

fn object(view: &View<'_>, key: &ObjectKey) -> Option<Output> {
    let store = view.store;
    let space = || store.space(&key.namespace);
    Some(match key.kind {
        Kind::MeshConfig => mesh::config(view, key),
        Kind::Namespace => hints::namespace(view, key)?,
        Kind::Node | Kind::ServiceAccount => return None,
        Kind::Pod => workload::pod(view, find(space()?, |s| &s.pods, key)?),
        Kind::Service => hints::service(view, find(space()?, |s| &s.services, key)?),
        Kind::EndpointSlice => workload::slice(store, find(space()?, |s| &s.slices, key)?),
        Kind::ServiceEntry => service_entry::workloads(view, find(space()?, |s| &s.entries, key)?),
        Kind::WorkloadEntry => {
            workload::workload_entry(view, find(space()?, |s| &s.workloads, key)?)
        }
        Kind::AuthorizationPolicy => {
            policy::authorization(view, find(space()?, |s| &s.policies, key)?)
        }
        Kind::PeerAuthentication => policy::peer(store, find(space()?, |s| &s.peers, key)?),
        _ => waypoint::object(view, key)?,
    })
}

/// An object with its key, for derivation and for diagnostics alike.
fn find<'a, T>(
    space: &'a Space,
    table: impl FnOnce(&'a Space) -> &'a Table<T>,
    key: &'a ObjectKey,
) -> Option<About<'a, T>> {
    let object: &Located<T> = table(space).get(&key.name)?;
    Some(About { key, object })
}
