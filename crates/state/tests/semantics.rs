//! The semantics tables of `cases/`, one test per case.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_state::{
    Authority, Found, OutboundRoute, RouteTrace, StateConfig, StaticConfig, View, new,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Deserialize;

/// A table's file; each kind of case has its own fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table<C> {
    /// A static state file.
    state: String,
    cases: Vec<C>,
}

impl<C> Table<C> {
    fn view(&self) -> Arc<View> {
        let (mut writer, reader) = new(StateConfig::default());
        writer.load_static(StaticConfig::parse(&self.state).unwrap());
        reader.view()
    }
}

trait Case: for<'de> Deserialize<'de> {
    fn name(&self) -> &str;
    fn clause(&self) -> &str;
    fn check(&self, view: &View);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outbound {
    name: String,
    clause: String,
    #[serde(default)]
    source: Option<String>,
    dst: SocketAddr,
    want: BTreeSet<String>,
}

impl Case for Outbound {
    fn name(&self) -> &str {
        &self.name
    }

    fn clause(&self) -> &str {
        &self.clause
    }

    fn check(&self, view: &View) {
        let source = self.source.as_deref().unwrap_or("client");
        let source = view.workload(source).unwrap();
        let outcomes: BTreeSet<_> = (0..200)
            .map(|seed| {
                let mut rng = StdRng::seed_from_u64(seed);
                let route = view.route_outbound(source, self.dst, &mut rng);
                let plain = describe(&route);
                let mut trace = RouteTrace::default();
                let mut rng = StdRng::seed_from_u64(seed);
                let route = view.route_outbound_with(source, self.dst, &mut rng, &mut trace);
                assert_eq!(plain, describe(&route), "traced and plain disagree");
                assert!(
                    trace
                        .lines
                        .iter()
                        .any(|line| line.starts_with("decided by row"))
                );
                plain
            })
            .collect();
        assert_eq!(outcomes, self.want);
    }
}

fn describe(route: &Result<OutboundRoute, ambit_state::RouteError>) -> String {
    let route = match route {
        Ok(route) => route,
        Err(error) => return format!("refused {}: {error}", error.reason().as_str()),
    };
    let row = route.row().number();
    let through = route
        .service()
        .map(|service| format!(" through {}", service.key))
        .unwrap_or_default();
    match route {
        OutboundRoute::Passthrough { dst, .. } => format!("row {row} passthrough {dst}"),
        OutboundRoute::Tcp { dst, workload, .. } => {
            format!("row {row} tcp {dst} to {}{through}", workload.uid)
        }
        OutboundRoute::Hbone {
            dial,
            authority,
            expected,
            workload,
            ..
        } => {
            let ids: Vec<_> = expected.iter().map(ToString::to_string).collect();
            let ids = if ids.is_empty() {
                "nobody".into()
            } else {
                ids.join(", ")
            };
            let uid = &workload.uid;
            format!("row {row} hbone {dial} for {authority} to {uid} as {ids}{through}")
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Inbound {
    name: String,
    clause: String,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    ip: Option<IpAddr>,
    authority: String,
    want: String,
}

impl Case for Inbound {
    fn name(&self) -> &str {
        &self.name
    }

    fn clause(&self) -> &str {
        &self.clause
    }

    fn check(&self, view: &View) {
        let local = view
            .workload(self.to.as_deref().unwrap_or("server"))
            .unwrap();
        let ip = self.ip.unwrap_or([10, 0, 1, 1].into());
        let got = match self.authority.parse::<Authority>() {
            Err(error) => format!("refused {}: {error}", error.reason().as_str()),
            Ok(authority) => match view.route_inbound(local, ip, &authority) {
                Ok(route) => {
                    let proxied = route.proxied.map(|to| format!(" PROXY {to}"));
                    format!("{}{}", route.dial, proxied.unwrap_or_default())
                }
                Err(error) => format!("refused {}: {error}", error.reason().as_str()),
            },
        };
        assert_eq!(got, self.want);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lookup {
    name: String,
    clause: String,
    #[serde(default)]
    network: String,
    #[serde(default)]
    ip: Option<IpAddr>,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    client: Option<String>,
    want: String,
}

impl Case for Lookup {
    fn name(&self) -> &str {
        &self.name
    }

    fn clause(&self) -> &str {
        &self.clause
    }

    fn check(&self, view: &View) {
        let client = self.client.as_deref();
        let found = match (&self.ip, &self.host, &self.key) {
            (Some(ip), ..) => view.at(&self.network, *ip, client),
            (_, Some(host), _) => view.service_named(host, client).map(Found::Service),
            (.., Some(key)) => view.named(&key.parse().unwrap()),
            _ => None,
        };
        let got = match found {
            Some(Found::Workload(workload)) => format!("workload {}", workload.uid),
            Some(Found::Service(service)) => format!("service {}", service.key),
            None => "nothing".into(),
        };
        assert_eq!(got, self.want);
    }
}

fn run<C: Case>(table: &str, name: &str) {
    let table: Table<C> = serde_saphyr::from_str(table).unwrap();
    let case = table.cases.iter().find(|case| case.name() == name).unwrap();
    assert!(!case.clause().is_empty(), "a case cites its clause");
    case.check(&table.view());
}

/// One test per named case, and one that no case of the file is left out.
macro_rules! table {
    ($module:ident: $case_type:ident, $file:literal, [$($case:ident),+ $(,)?]) => {
        mod $module {
            use super::Case;

            const TABLE: &str = include_str!($file);

            $(#[test]
            fn $case() {
                super::run::<super::$case_type>(TABLE, stringify!($case));
            })+

            #[test]
            fn every_case_is_a_test() {
                let table: super::Table<super::$case_type> = serde_saphyr::from_str(TABLE).unwrap();
                let in_file: Vec<_> = table.cases.iter().map(Case::name).collect();
                assert_eq!(in_file, [$(stringify!($case)),+]);
            }
        }
    };
}

table!(outbound: Outbound, "cases/outbound.yaml", [
    unknown_dest,
    unknown_dest_v6,
    mapped_destination_is_v4,
    wrong_network,
    loopback_to_a_proxy_port,
    loopback_v6_to_a_proxy_port,
    loopback_to_another_port,
    proxy_port_of_another_pod,
    known_dest_remote_node_tcp,
    known_dest_local_node_tcp,
    known_dest_remote_node_hbone,
    known_dest_local_node_hbone,
    unhealthy_by_address,
    identity_less_workload_is_never_trusted,
    source_waypoint_is_unused,
    destination_waypoint,
    destination_waypoint_by_address,
    destination_waypoint_mismatch_ip,
    destination_waypoint_unknown,
    from_the_waypoint_itself,
    destination_svc_waypoint,
    destination_svc_waypoint_from_the_waypoint,
    destination_svc_waypoint_unknown,
    destination_svc_waypoint_without_endpoint,
    weighted_waypoints,
    weighted_waypoints_all_zero,
    svc_waypoint_not_marked_hbone,
    svc_waypoint_of_another_family,
    svc_waypoint_by_workload_ip,
    workload_waypoint_by_vip,
    workload_waypoint_by_hostname_of_a_workload,
    svc_waypoint_not_ready,
    svc_waypoint_without_the_port,
    svc_waypoint_behind_a_tunnel,
    svc_waypoint_on_another_network,
    waypoint_account_on_another_ip,
    empty_service,
    port_absent_from_service,
    all_capacities_zero,
    balanced_over_usable_endpoints,
    target_port_of_the_endpoint,
    target_port_of_the_service,
    target_port_behind_a_tunnel,
    host_network_through_service,
    host_network_by_address,
    passthrough_svc,
    passthrough_svc_in_range,
    passthrough_svc_with_waypoint,
    unhealthy_through_service,
    unhealthy_where_all_are_allowed,
    no_gateway,
    double_hbone_by_gateway_ip,
    double_hbone_by_gateway_host,
    endpoint_without_address_or_gateway,
    failover_stays_in_the_network,
    strict_by_node,
    strict_by_node_from_another,
    strict_by_node_without_match,
    prefer_the_zone,
    prefer_the_zone_of_another,
    multiple_address_workload_v6,
    service_ip_families_v4_only,
    service_ip_families_v6_only,
    service_ip_families_dual_follows_the_dialled,
    service_ip_families_dual_follows_the_dialled_v4,
    service_identities_come_before_the_own,
    workload_found_by_dns,
    hidden_service_is_unknown,
    load_balancing_asks_for_a_service_first,
    own_service_may_choose_oneself,
]);

table!(inbound: Inbound, "cases/inbound.yaml", [
    own_address,
    own_address_v6,
    own_address_mapped,
    own_other_address,
    hbone_ip_mismatch,
    foreign_address,
    own_vip_is_not_own_address,
    waypoint_of_the_service,
    waypoint_of_the_service_by_vip,
    weighted_waypoint_of_the_service,
    waypoint_of_a_hidden_service,
    waypoint_of_another_service,
    waypoint_of_the_workload,
    waypoint_of_the_workload_by_address,
    waypoint_of_another_workload,
    not_the_waypoint,
    svc_hostname_port,
    svc_hostname_named_port,
    svc_hostname_port_of_the_service_only,
    svc_hostname_unresolved_named_port,
    svc_hostname_unknown_port,
    unknown_hostname,
    hidden_hostname,
    workload_hostname,
    illegal_port,
    illegal_port_outbound,
    illegal_port_by_hostname,
    tunnel_port,
    tunnel_takes_any_address,
    tunnel_without_port,
    tunnel_to_an_illegal_port,
    proxy_tunnel,
    proxy_tunnel_for_any_address,
    proxy_tunnel_for_a_hostname,
    proxy_tunnel_without_port,
    proxy_tunnel_without_vip,
    authority_without_port,
    authority_without_host,
    authority_with_a_bad_port,
    authority_with_user,
    authority_v6_without_port,
        authority_with_port_zero,
]);

table!(lookups: Lookup, "cases/lookups.yaml", [
    pods_come_first,
    then_hbone,
    host_network_is_not_found,
    other_networks_are_not_found,
    on_its_own_network,
    workload_before_service,
    mapped_addresses_are_v4,
    shared_vip_in_client_namespace,
    shared_vip_canonical,
    shared_vip_without_client,
    namespace_visibility_vip,
    visibility_filtered_exact_vip_falls_through_to_cidr,
    namespace_visibility_without_client,
    cidr_client_namespace_beats_longer,
    cidr_own_range_of_middle_length,
    cidr_longest_prefix,
    cidr_second_longest_prefix,
    cidr_shortest_prefix,
    cidr_canonical,
    cidr_of_full_length_is_exact,
    cidr_v6,
    cidr_v6_outside,
    cidr_outside,
    cidr_hidden_longer_range,
    cidr_of_length_zero,
    hostname_in_client_namespace,
    hostname_canonical,
    namespace_visibility_host,
    hostname_unknown,
    namespaced_hostname_of_a_service,
    namespaced_hostname_of_a_workload,
    namespaced_hostname_of_another_namespace,
]);
