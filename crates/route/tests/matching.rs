//! The rule of a request (`cases/matching.yaml`), and of a connection.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;

use ambit_route::{Found, FoundTcp, Head, Log, Route, Routes, Why};
use serde::Deserialize;
use support::{FRONTEND, RouteYaml};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    routes: Vec<RouteYaml>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    clause: String,
    routes: Vec<String>,
    request: Request,
    want: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Request {
    method: Option<String>,
    scheme: Option<String>,
    authority: Option<String>,
    path: String,
    query: Option<String>,
    headers: Vec<(String, String)>,
    port: Option<u16>,
    namespace: Option<String>,
    claims: Option<serde_json::Value>,
}

fn run(table: &Table, case: &Case) {
    let mut edit = Routes::new(FRONTEND).edit();
    for name in &case.routes {
        let yaml = table
            .routes
            .iter()
            .find(|route| route.name.ends_with(&format!("/{name}")) || route.name == *name)
            .unwrap();
        let route = Route::decode(&yaml.name, &support::route(yaml)).unwrap();
        edit.set(Arc::new(route));
    }
    let routes = edit.finish();
    let request = &case.request;
    let headers = support::headers(&request.headers);
    let head = Head {
        method: request.method.as_deref().unwrap_or("GET"),
        scheme: request.scheme.as_deref().unwrap_or("http"),
        authority: request.authority.as_deref().unwrap_or("cart"),
        path: &request.path,
        query: request.query.as_deref(),
        headers: &headers,
        port: request.port.unwrap_or(80),
        source_namespace: request.namespace.as_deref(),
        claims: request.claims.as_ref(),
    };
    let mut log = Log::default();
    let traced = named(routes.find_with(&head, &mut log));
    assert_eq!(
        traced,
        named(routes.find(&head)),
        "traced and plain disagree"
    );
    let taken: Vec<_> = log
        .steps
        .iter()
        .filter(|step| step.why == Why::Taken)
        .map(|step| step.rule.name.to_string())
        .collect();
    let want_taken: Vec<String> = match traced.as_str() {
        "service" | "no_match" => vec![],
        rule => vec![rule.to_owned()],
    };
    assert_eq!(taken, want_taken, "the trace names what was taken: {log:?}");
    assert_eq!(
        traced,
        case.want,
        "{:#?}",
        log.steps
            .iter()
            .map(|s| (&s.rule.name, &s.why))
            .collect::<Vec<_>>()
    );
}

fn named(found: Found<'_>) -> String {
    match found {
        Found::Rule(matched) => matched.rule.name.to_string(),
        Found::Service => "service".into(),
        Found::NoMatch => "no_match".into(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpTable {
    routes: Vec<RouteYaml>,
    cases: Vec<TcpCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpCase {
    name: String,
    clause: String,
    routes: Vec<String>,
    #[serde(default)]
    port: u16,
    sni: Option<String>,
    namespace: Option<String>,
    want: String,
}

fn run_tcp(table: &TcpTable, case: &TcpCase) {
    let mut edit = Routes::new(FRONTEND).edit();
    for name in &case.routes {
        let yaml = table
            .routes
            .iter()
            .find(|route| route.name.ends_with(&format!("/{name}")))
            .unwrap();
        edit.set(Arc::new(
            Route::decode(&yaml.name, &support::route(yaml)).unwrap(),
        ));
    }
    let routes = edit.finish();
    let port = if case.port == 0 { 443 } else { case.port };
    let found = routes.find_tcp(port, case.namespace.as_deref(), case.sni.as_deref());
    let found = match found {
        FoundTcp::Rule(matched) => matched.rule.name.to_string(),
        FoundTcp::Service => "service".into(),
        FoundTcp::NoMatch => "no_match".into(),
    };
    assert_eq!(found, case.want);
}

// One test for each case of the tables; kept in their order.
table!(
    cases,
    "cases/matching.yaml",
    Table,
    run,
    [
        no_routes_is_the_service,
        routes_that_do_not_match_are_404,
        exact_is_byte_exact,
        exact_minds_the_trailing_slash,
        exact_minds_case,
        prefix_itself,
        prefix_with_slash,
        prefix_by_element,
        prefix_deeper,
        longer_prefix_wins,
        trailing_slash_of_the_match_is_ignored,
        regex_is_a_full_match,
        longer_regex_first,
        prefix_before_regex,
        exact_before_prefix,
        conformance_root,
        conformance_example,
        conformance_v2,
        conformance_v2_slash,
        conformance_v2_example,
        conformance_v2example,
        conformance_foo_v2,
        conformance_header_two,
        conformance_header_one,
        method_beats_headers,
        more_headers_beat_fewer,
        headers_beat_query,
        query_beats_nothing,
        path_beats_method,
        older_route_wins,
        names_break_ties,
        document_order_is_last,
        rule_without_match_is_prefix_slash,
        query_exact,
        query_extra_parameters,
        query_all_must_hold,
        query_one_missing,
        query_absent,
        query_concatenated_value,
        query_name_minds_case,
        query_path_rule_beats_query_rule,
        query_first_value_counts,
        query_first_value_counts_too,
        query_regex_is_full,
        query_regex,
        query_first_of_equal_names_in_a_match,
        query_escapes_are_read,
        repeated_header_is_joined,
        repeated_header_one_of_them,
        header_regex_is_full,
        header_regex,
        header_first_of_equivalent_names,
        header_value_minds_case,
        method_match,
        method_other,
        options_star_is_no_path,
        parent_port_holds_only_there,
        parent_port_holds,
        route_without_port_holds_everywhere,
        route_with_and_without_port_mix,
        consumer_route_for_its_clients,
        consumer_route_not_for_others,
        consumer_does_not_merge_with_producer,
        consumer_alone_leaves_others_the_service,
        grpc_service,
        grpc_method,
        grpc_method_of_any_service,
        grpc_longer_service_before_method,
        grpc_more_headers,
        grpc_is_case_sensitive,
        grpc_regex,
        grpc_regex_is_full,
        grpc_replaces_http_on_the_port,
        grpc_without_match,
        vs_prefix_is_text,
        vs_first_in_document_wins,
        vs_exact,
        vs_ignore_case_exact,
        vs_ignore_case_prefix,
        vs_regex_alternatives_are_anchored,
        vs_regex,
        vs_without_header_absent,
        vs_without_header_other,
        vs_without_header_matches,
        vs_header_presence,
        vs_header_presence_absent,
        vs_authority_has_the_port,
        vs_authority_without_port,
        vs_scheme,
        vs_query_presence,
        vs_query_prefix,
        vs_source_namespace,
        vs_source_namespace_other,
        vs_source_namespace_unknown,
        vs_port,
        vs_port_other,
        vs_claim_in_a_list,
        vs_claim_nested,
        vs_claim_not_there,
        vs_claim_excluded,
        vs_claim_is_not_a_header,
        vs_method_regex,
        vs_all_filtered_by_port_is_the_service,
        vs_port_match_without_path,
        vs_concatenate_by_age,
        vs_concatenate_catchall_after,
        mix_older_vs_first,
        mix_older_gateway_block_first,
        mix_falls_through_to_the_younger,
        mix_keeps_both_prefix_meanings,
        profile_condition_all,
        profile_path_is_anchored,
        profile_any_and_not,
        profile_no_match_is_the_service,
        profile_replaces_http_routes,
        profile_of_the_client_wins,
    ]
);
table!(
    tcp,
    "cases/tcp.yaml",
    TcpTable,
    run_tcp,
    [
        no_route_is_the_service,
        tcp_route,
        tcp_route_of_another_port,
        older_tcp_route_first,
        tls_before_tcp,
        tcp_when_no_name_matches,
        wildcard_is_not_the_domain_itself,
        wildcard_takes_several_labels,
        exact_name_before_wildcard,
        longer_wildcard_first,
        no_name_no_tls_route,
        consumer_of_connections,
        consumer_not_for_others,
        vs_port_first_in_document,
        vs_source_namespace_of_connections,
        vs_rest,
    ]
);
