//! Which endpoints are preferred for where they run (`waypoint-contract` 3.5).

use ambit_types::Locality;

use crate::model::{Endpoint, Local, LocalityBalancing, Settings, Topology, TopologyScope};

/// How endpoints are grouped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// Each endpoint's priority; less is used first.
    Priorities(Vec<u32>),
    /// Weights, and each endpoint's place among them; without one it isn't
    /// used.
    Weights(Vec<u32>, Vec<Option<usize>>),
}

/// Whether an endpoint may be used at all (internalTrafficPolicy Local).
pub(crate) fn admits(topology: Option<&Topology>, local: &Local, endpoint: &Endpoint) -> bool {
    match topology {
        Some(topology) if topology.strict => topology
            .scopes
            .iter()
            .all(|scope| in_scope(*scope, local, endpoint)),
        _ => true,
    }
}

/// Groups endpoints. A locality setting wins over the topology preference, and
/// without ejection it doesn't fail over (3.5).
pub(crate) fn group<'a>(
    settings: &Settings,
    local: &Local,
    endpoints: impl Iterator<Item = &'a Endpoint> + Clone,
) -> Grouping {
    if let Some(locality) = &settings.policy.balancer.locality {
        let to = locality
            .distribute
            .iter()
            .find(|spread| covers(&spread.from, &local.locality).is_some())
            .map(|spread| &spread.to);
        return match to {
            Some(to) if locality.enabled => {
                let places = endpoints.map(|e| most_specific(to, &e.locality)).collect();
                Grouping::Weights(to.iter().map(|(_, weight)| *weight).collect(), places)
            }
            _ if locality.enabled && settings.policy.outlier.is_some() => {
                Grouping::Priorities(endpoints.map(|e| failover(locality, local, e)).collect())
            }
            _ => Grouping::Priorities(endpoints.map(|_| 0).collect()),
        };
    }
    let scopes = match &settings.topology {
        Some(topology) if !topology.strict => topology.scopes.as_slice(),
        _ => &[],
    };
    Grouping::Priorities(endpoints.map(|e| mismatch(scopes, local, e)).collect())
}

/// Priority by the first scope that differs.
fn mismatch(scopes: &[TopologyScope], local: &Local, endpoint: &Endpoint) -> u32 {
    let same = scopes
        .iter()
        .take_while(|scope| in_scope(**scope, local, endpoint))
        .count();
    u32::try_from(scopes.len() - same).unwrap_or(u32::MAX)
}

fn in_scope(scope: TopologyScope, local: &Local, endpoint: &Endpoint) -> bool {
    let (here, there) = (&local.locality, &endpoint.locality);
    match scope {
        TopologyScope::Network => local.network == endpoint.network,
        TopologyScope::Region => here.region == there.region,
        TopologyScope::Zone => here.region == there.region && here.zone == there.zone,
        TopologyScope::Subzone => here == there,
        TopologyScope::Node => local.node == endpoint.node,
        TopologyScope::Cluster => local.cluster_id == endpoint.cluster_id,
    }
}

fn failover(setting: &LocalityBalancing, local: &Local, endpoint: &Endpoint) -> u32 {
    if !setting.failover_priority.is_empty() {
        let same = setting
            .failover_priority
            .iter()
            .take_while(|key| label_agrees(key, local, endpoint))
            .count();
        return u32::try_from(setting.failover_priority.len() - same).unwrap_or(u32::MAX);
    }
    let (here, there) = (&local.locality, &endpoint.locality);
    if here == there {
        0
    } else if here.region == there.region && here.zone == there.zone {
        1
    } else if here.region == there.region {
        2
    } else {
        let wanted = setting
            .failover
            .iter()
            .find(|(from, _)| **from == *here.region);
        match wanted {
            Some((_, to)) if **to != *there.region => 4,
            _ => 3,
        }
    }
}

/// `key` is the same at both ends; `key=value` is the endpoint's.
fn label_agrees(key: &str, local: &Local, endpoint: &Endpoint) -> bool {
    match key.split_once('=') {
        Some((key, value)) => endpoint.label(key) == Some(value),
        None => local.label(key).unwrap_or_default() == endpoint.label(key).unwrap_or_default(),
    }
}

fn most_specific(to: &[(Box<str>, u32)], locality: &Locality) -> Option<usize> {
    to.iter()
        .enumerate()
        .filter_map(|(at, (pattern, _))| covers(pattern, locality).map(|parts| (parts, at)))
        .max_by_key(|(parts, at)| (*parts, usize::MAX - at))
        .map(|(_, at)| at)
}

/// How many parts of `region/zone/subzone` a pattern names, if it matches;
/// `*` is the rest.
fn covers(pattern: &str, locality: &Locality) -> Option<usize> {
    let mut named = 0;
    let parts = [&locality.region, &locality.zone, &locality.subzone];
    for (wanted, part) in pattern.split('/').zip(parts) {
        match wanted {
            "*" => return Some(named),
            wanted if *wanted == **part => named += 1,
            _ => return None,
        }
    }
    Some(named)
}
