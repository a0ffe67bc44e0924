//! Workloads, as a table.

use super::dump::{Dump, Entry, Workload, waypoint_name};
use crate::args::What;
use crate::table::render;

/// The workloads that were asked for, by `name.namespace`, then node.
pub(super) fn select<'d>(what: &What, dump: &'d Dump) -> Vec<&'d Entry<Workload>> {
    let What::Workload {
        address,
        workload_namespace,
        workload_node,
    } = what
    else {
        return all(dump);
    };
    let mut found = all(dump);
    found.retain(|one| {
        address
            .as_ref()
            .is_none_or(|wanted| one.workload_ips.contains(wanted) || one.hostname == *wanted)
            && workload_namespace
                .as_ref()
                .is_none_or(|wanted| *wanted == one.namespace)
            && workload_node
                .as_ref()
                .is_none_or(|wanted| *wanted == one.node)
    });
    found
}

pub(super) fn all(dump: &Dump) -> Vec<&Entry<Workload>> {
    let mut found: Vec<_> = dump.workloads.iter().collect();
    found.sort_by_key(|one| (&one.namespace, &one.name, &one.node, &one.uid));
    found
}

pub(super) fn table(workloads: &[&Entry<Workload>], dump: &Dump) -> String {
    let row = |one: &&Entry<Workload>| {
        let address = if one.workload_ips.is_empty() {
            one.hostname.clone()
        } else {
            one.workload_ips.join(",")
        };
        [
            one.namespace.clone(),
            one.name.clone(),
            address,
            one.node.clone(),
            waypoint_name(one.waypoint.as_ref(), dump),
            one.protocol.clone(),
        ]
    };
    let rows: Vec<_> = workloads.iter().map(row).collect();
    render(
        [
            "NAMESPACE",
            "POD NAME",
            "ADDRESS",
            "NODE",
            "WAYPOINT",
            "PROTOCOL",
        ],
        &rows,
        1,
    )
}
