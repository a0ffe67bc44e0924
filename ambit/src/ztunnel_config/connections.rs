//! Connections, as a table.

use std::net::SocketAddr;

use super::dump::{Connection, Dump, WorkloadState, without_network};
use crate::args::Direction;
use crate::table::render;

/// One connection and whose it is.
pub(super) struct Row<'d> {
    workload: &'d WorkloadState,
    direction: Direction,
    connection: &'d Connection,
}

/// The connections that were asked for, by workload, inbound first.
pub(super) fn select<'d>(
    direction: Option<Direction>,
    namespace: Option<&str>,
    dump: &'d Dump,
) -> Vec<Row<'d>> {
    let mut workloads: Vec<&WorkloadState> = dump
        .workload_states
        .iter()
        .map(|entry| &**entry)
        .filter(|one| namespace.is_none_or(|wanted| wanted == one.info.namespace))
        .collect();
    workloads.sort_by_key(|one| (&one.info.namespace, &one.info.name));
    let both = |workload: &'d WorkloadState| {
        let of = move |direction, list: &'d [Connection]| {
            list.iter().map(move |connection| Row {
                workload,
                direction,
                connection,
            })
        };
        of(Direction::Inbound, &workload.connections.inbound)
            .chain(of(Direction::Outbound, &workload.connections.outbound))
    };
    let wanted = |row: &Row<'_>| direction.is_none_or(|wanted| wanted == row.direction);
    workloads
        .into_iter()
        .flat_map(both)
        .filter(wanted)
        .collect()
}

/// With `names`, known addresses are replaced by service host names and workload names.
pub(super) fn table(rows: &[Row<'_>], names: Option<&Dump>) -> String {
    let name =
        |address: &str| names.map_or_else(|| address.to_owned(), |dump| named(address, dump));
    let row = |row: &Row<'_>| {
        let Connection {
            src,
            original_dst,
            actual_dst,
            protocol,
        } = row.connection;
        let (direction, local, remote) = match row.direction {
            Direction::Inbound => ("Inbound", actual_dst, src),
            Direction::Outbound => ("Outbound", src, actual_dst),
        };
        [
            format!("{}.{}", row.workload.info.name, row.workload.info.namespace),
            direction.into(),
            name(local),
            name(remote),
            original_dst.as_deref().map_or_else(String::new, name),
            protocol.clone(),
        ]
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    render(
        [
            "WORKLOAD",
            "DIRECTION",
            "LOCAL",
            "REMOTE",
            "REMOTE TARGET",
            "PROTOCOL",
        ],
        &rows,
        1,
    )
}

/// `name.namespace:port` of a workload, `hostname:port` of a service, or the address as it is.
fn named(address: &str, dump: &Dump) -> String {
    let Ok(socket) = address.parse::<SocketAddr>() else {
        return address.to_owned();
    };
    let (ip, port) = (socket.ip().to_string(), socket.port());
    let service = dump
        .services
        .iter()
        .find(|service| service.vips.iter().any(|vip| without_network(vip) == ip));
    if let Some(service) = service {
        return format!("{}:{port}", service.hostname);
    }
    match dump
        .workloads
        .iter()
        .find(|workload| workload.workload_ips.contains(&ip))
    {
        Some(workload) => format!("{}.{}:{port}", workload.name, workload.namespace),
        None => address.to_owned(),
    }
}
