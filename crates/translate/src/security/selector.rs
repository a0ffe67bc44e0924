//! Policies with a selector, or for a whole namespace: whether a waypoint
//! enforces them (issue 4, item 6).

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::{AuthorizationPolicy, Located, WorkloadSelector};

use super::needs;
use super::say::Metadata;
use super::targets::Waypoint;
use crate::{SelectedWorkload, World};

/// Who enforces a policy without references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enforcer {
    /// The node proxies, as far as they can.
    Node,
    /// One waypoint, which all traffic to the selected workloads passes; the
    /// node proxies let in nobody else.
    Waypoint {
        /// The Gateway's namespace and name.
        waypoint: (Arc<str>, Arc<str>),
        /// The workloads' uids on the wire, in order.
        workloads: Vec<Arc<str>>,
    },
}

/// Who enforces a policy without `targetRefs`.
pub fn enforcer(policy: &Located<Arc<AuthorizationPolicy>>, world: &dyn World) -> Enforcer {
    let spec = &policy.object.spec;
    let has_targets = spec.target_ref.is_some() || !spec.target_refs.is_empty();
    if has_targets || needs::only_at_waypoint(spec).is_none() {
        return Enforcer::Node;
    }
    let namespace = Metadata::of(&policy.object.metadata).namespace;
    match behind(spec.selector.as_ref(), namespace, world) {
        Behind::One(waypoint, workloads) => Enforcer::Waypoint {
            waypoint,
            workloads,
        },
        _ => Enforcer::Node,
    }
}

/// Where the workloads of a policy are.
#[derive(Debug)]
pub(super) enum Behind {
    /// The mesh is set to upstream's way.
    Off,
    /// A policy of the root namespace, which reaches into others.
    Mesh,
    /// Nothing is selected.
    Nothing,
    /// All behind one waypoint.
    One(Waypoint, Vec<Arc<str>>),
    /// Behind several, or some behind none.
    Mixed(BTreeMap<Waypoint, Vec<Arc<str>>>),
}

/// Finds the waypoints that the selected workloads are behind.
pub(super) fn behind(
    selector: Option<&WorkloadSelector>,
    namespace: &str,
    world: &dyn World,
) -> Behind {
    let mesh = world.mesh();
    let metadata = mesh
        .config
        .default_config
        .as_ref()
        .map(|config| &config.proxy_metadata);
    if metadata
        .and_then(|metadata| metadata.get(SETTING))
        .is_some_and(|value| value == "upstream")
    {
        return Behind::Off;
    }
    if namespace == &*mesh.root_namespace {
        return Behind::Mesh;
    }
    let none = BTreeMap::new();
    let labels = selector.map_or(&none, |selector| &selector.match_labels);
    group(world.selected(namespace, labels))
}

fn group(selected: Vec<SelectedWorkload>) -> Behind {
    if selected.is_empty() {
        return Behind::Nothing;
    }
    let mut groups: BTreeMap<Waypoint, Vec<Arc<str>>> = BTreeMap::new();
    let mut apart = false;
    for workload in selected {
        match workload.behind {
            Some(waypoint) => groups.entry(waypoint).or_default().push(workload.uid),
            None => apart = true,
        }
    }
    groups.values_mut().for_each(|uids| uids.sort());
    if apart || groups.len() != 1 {
        return Behind::Mixed(groups);
    }
    match groups.pop_first() {
        Some((waypoint, uids)) => Behind::One(waypoint, uids),
        None => Behind::Nothing,
    }
}

/// In `defaultConfig.proxyMetadata` of the mesh configuration: `waypoint` (also
/// when unset) or `upstream`.
const SETTING: &str = "AMBIT_SELECTOR_POLICIES";
