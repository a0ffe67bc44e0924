//! Services, as a table.

use super::dump::{Dump, Entry, Service, waypoint_name, without_network};
use crate::table::render;

/// The services of a namespace, or all, by namespace and name.
pub(super) fn select<'d>(namespace: Option<&str>, dump: &'d Dump) -> Vec<&'d Entry<Service>> {
    let mut found: Vec<_> = dump
        .services
        .iter()
        .filter(|one| namespace.is_none_or(|wanted| wanted == one.namespace))
        .collect();
    found.sort_by_key(|one| (&one.namespace, &one.name, &one.hostname));
    found
}

pub(super) fn table(services: &[&Entry<Service>], dump: &Dump) -> String {
    let row = |one: &&Entry<Service>| {
        let vips = one.vips.iter().map(|vip| without_network(vip));
        let cidrs = one.cidr_vips.iter().map(|vip| vip.cidr.as_str());
        [
            one.namespace.clone(),
            one.name.clone(),
            vips.chain(cidrs).collect::<Vec<_>>().join(","),
            waypoint_name(one.waypoint.as_ref(), dump),
            format!("{}/{}", healthy(one, dump), one.endpoints.len()),
        ]
    };
    let rows: Vec<_> = services.iter().map(row).collect();
    render(
        [
            "NAMESPACE",
            "SERVICE NAME",
            "SERVICE VIP",
            "WAYPOINT",
            "ENDPOINTS",
        ],
        &rows,
        1,
    )
}

/// Endpoints whose workload is known and healthy.
fn healthy(service: &Service, dump: &Dump) -> usize {
    let is_healthy = |uid: &str| {
        let workload = dump.workloads.iter().find(|workload| workload.uid == uid);
        workload.is_some_and(|workload| workload.status.eq_ignore_ascii_case("healthy"))
    };
    let uids =
        service
            .endpoints
            .iter()
            .map(|(key, endpoint)| match endpoint.workload_uid.as_str() {
                "" => key.as_str(),
                uid => uid,
            });
    uids.filter(|uid| is_healthy(uid)).count()
}
