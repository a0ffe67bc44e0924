//! From the store to what one unit gives: pure, one module per thing that comes out.

mod hints;
mod host;
mod members;
mod mesh;
mod policy;
mod service_entry;
mod workload;

pub(crate) use host::claims;

use ambit_kube::{Kind, Located, ObjectKey};

use crate::about::About;
use crate::dirty::Unit;
use crate::outputs::Output;
use crate::store::{Space, Store, Table};
use crate::vips::Vips;

/// Everything that a unit gives now.
pub(crate) fn derive(store: &Store, vips: &Vips, unit: &Unit) -> Output {
    match unit {
        Unit::Host(host) => host::services(store, host),
        Unit::Vip(net) => host::shared_vip(store, vips, *net),
        Unit::StaticStrict => policy::static_strict(store),
        Unit::Gateway(_) => Output::default(),
        Unit::Object(key) => object(store, key).unwrap_or_default(),
    }
}

fn object(store: &Store, key: &ObjectKey) -> Option<Output> {
    let space = || store.space(&key.namespace);
    Some(match key.kind {
        Kind::MeshConfig => mesh::config(store, key),
        Kind::Namespace => hints::namespace(store, key)?,
        Kind::Node | Kind::ServiceAccount => return None,
        Kind::Pod => workload::pod(store, find(space()?, |s| &s.pods, key)?),
        Kind::Service => hints::service(store, find(space()?, |s| &s.services, key)?),
        Kind::EndpointSlice => workload::slice(store, find(space()?, |s| &s.slices, key)?),
        Kind::ServiceEntry => service_entry::workloads(store, find(space()?, |s| &s.entries, key)?),
        Kind::WorkloadEntry => {
            workload::workload_entry(store, find(space()?, |s| &s.workloads, key)?)
        }
        Kind::AuthorizationPolicy => {
            policy::authorization(store, find(space()?, |s| &s.policies, key)?)
        }
        Kind::PeerAuthentication => policy::peer(store, find(space()?, |s| &s.peers, key)?),
        _ => return None,
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
