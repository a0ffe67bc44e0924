//! What becomes of a request, and paths (`cases/*.yaml`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use ambit_proto::waypoint as pb;
use ambit_route::{
    Answer, AttemptOutcome, CorsDecision, Failure, MatchedPath, Normalization, RedirectInput,
    RouteKind, Rule, Semantics, path,
};
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use std::collections::BTreeMap;
use support::TextYaml;

#[derive(Deserialize)]
struct Table<C> {
    cases: Vec<C>,
}

fn rule(message: &pb::Rule) -> Rule {
    Rule::decode(message, RouteKind::Http, Semantics::VirtualService).unwrap()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedirectCase {
    name: String,
    clause: String,
    redirect: RedirectYaml,
    status: Option<u16>,
    authority: Option<String>,
    port: Option<u16>,
    path: Option<String>,
    query: Option<String>,
    matched: Option<String>,
    want: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RedirectYaml {
    status: u32,
    scheme: String,
    hostname: String,
    ports: String,
    number: u32,
    full: Option<String>,
    element: Option<String>,
    text: Option<String>,
}

fn redirect(_: &Table<RedirectCase>, case: &RedirectCase) {
    use pb::path_change::Kind;
    let yaml = &case.redirect;
    let port = match (yaml.ports.as_str(), yaml.number) {
        ("", 0) => pb::RedirectPort::GatewayApi,
        ("", _) => pb::RedirectPort::Explicit,
        ("keep", _) => pb::RedirectPort::None,
        ("protocol", _) => pb::RedirectPort::FromProtocol,
        ("request", _) => pb::RedirectPort::FromRequest,
        (other, _) => panic!("{other}"),
    };
    let kind = yaml
        .full
        .clone()
        .map(Kind::Full)
        .or(yaml.element.clone().map(Kind::ElementPrefix))
        .or(yaml.text.clone().map(Kind::TextPrefix));
    let rule = rule(&pb::Rule {
        redirect: Some(pb::Redirect {
            status: yaml.status,
            scheme: yaml.scheme.clone(),
            hostname: yaml.hostname.clone(),
            port: port.into(),
            port_number: yaml.number,
            path: kind.map(|kind| pb::PathChange { kind: Some(kind) }),
        }),
        ..Default::default()
    });
    let Some(Answer::Redirect(redirect)) = rule.answer.as_deref() else {
        panic!("no redirect")
    };
    let input = RedirectInput {
        scheme: "http",
        authority: case.authority.as_deref().unwrap_or("cart"),
        port: case.port.unwrap_or(80),
        path: case.path.as_deref().unwrap_or("/foo/bar"),
        query: case.query.as_deref(),
    };
    let matched = match case.matched.as_deref() {
        Some("text") => MatchedPath::Text(4),
        _ => MatchedPath::Element(4),
    };
    assert_eq!(redirect.location(&input, matched).unwrap(), case.want);
    if let Some(status) = case.status {
        assert_eq!(redirect.status.as_u16(), status);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RewriteCase {
    name: String,
    clause: String,
    prefix: Option<String>,
    text: Option<String>,
    path: String,
    query: Option<String>,
    element: Option<String>,
    r#as: Option<String>,
    full: Option<String>,
    pattern: Option<String>,
    to: Option<String>,
    want: String,
}

fn rewrite(_: &Table<RewriteCase>, case: &RewriteCase) {
    use pb::path_change::Kind;
    let kind = case
        .full
        .clone()
        .map(Kind::Full)
        .or(case.element.clone().map(Kind::ElementPrefix))
        .or(case.r#as.clone().map(Kind::TextPrefix))
        .or(case.pattern.clone().map(|pattern| {
            Kind::Regex(pb::RegexChange {
                pattern,
                substitution: case.to.clone().unwrap(),
            })
        }));
    let matches = if case.prefix.is_some() || case.text.is_some() {
        vec![support::one_match(&support::MatchYaml {
            prefix: case.prefix.clone(),
            text: case.text.clone(),
            ..Default::default()
        })]
    } else {
        vec![]
    };
    let rule = rule(&pb::Rule {
        matches,
        rewrite: Some(pb::Rewrite {
            hostname: String::new(),
            path: Some(pb::PathChange { kind }),
        }),
        ..Default::default()
    });
    let matched = rule.matches.first().map_or(MatchedPath::Whole, |matching| {
        matching
            .path
            .as_ref()
            .and_then(|pattern| pattern.matches(&case.path))
            .unwrap()
    });
    let rewrite = rule.rewrite.as_ref().unwrap();
    let got = rewrite.apply(&case.path, case.query.as_deref(), matched);
    assert_eq!(got.unwrap().as_str(), case.want);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PathCase {
    name: String,
    clause: String,
    mode: String,
    path: String,
    want: Option<String>,
    #[serde(default)]
    refused: bool,
}

fn normalise(_: &Table<PathCase>, case: &PathCase) {
    let mode = match case.mode.as_str() {
        "none" => Normalization::None,
        "base" => Normalization::Base,
        "merge" => Normalization::MergeSlashes,
        "decode" => Normalization::DecodeAndMergeSlashes,
        other => panic!("{other}"),
    };
    let got = path::normalize(&case.path, mode);
    assert_eq!(got.is_err(), case.refused, "{got:?}");
    if let Ok(got) = got {
        assert_eq!(Some(&*got), case.want.as_deref());
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CorsCase {
    name: String,
    clause: String,
    #[serde(default)]
    origins: Vec<String>,
    #[serde(default)]
    matches: Vec<TextYaml>,
    #[serde(default)]
    methods: Vec<String>,
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    expose: Vec<String>,
    #[serde(default)]
    credentials: bool,
    max_age: Option<u64>,
    #[serde(default)]
    forward: bool,
    method: Option<String>,
    request: Vec<(String, String)>,
    #[serde(default)]
    response: Vec<(String, String)>,
    want: String,
    #[serde(default)]
    headers: BTreeMap<String, Vec<String>>,
}

fn cors(_: &Table<CorsCase>, case: &CorsCase) {
    let rule = rule(&pb::Rule {
        cors: Some(pb::Cors {
            origins: case.origins.clone(),
            origin_matches: case.matches.iter().map(support::text).collect(),
            methods: case.methods.clone(),
            headers: case.allow.clone(),
            expose: case.expose.clone(),
            credentials: case.credentials,
            max_age_ms: case.max_age,
            forward_unmatched_preflights: case.forward,
        }),
        ..Default::default()
    });
    let method: Method = case.method.as_deref().unwrap_or("GET").parse().unwrap();
    let mut request = HeaderMap::new();
    for (name, value) in &case.request {
        request.append(
            http::HeaderName::try_from(name).unwrap(),
            http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    let mut out = support::headers(&case.response);
    let got = match rule.cors.as_ref().unwrap().decide(&method, &request) {
        CorsDecision::None => "none",
        CorsDecision::Forward => "forward",
        CorsDecision::Preflight(headers) => {
            out = headers;
            "preflight"
        }
        CorsDecision::Actual(actual) => {
            actual.apply(&mut out);
            "actual"
        }
    };
    assert_eq!(got, case.want);
    if matches!(got, "preflight" | "actual") {
        assert_eq!(support::listed(&out), case.headers);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryCase {
    name: String,
    clause: String,
    #[serde(default)]
    on: Vec<String>,
    #[serde(default)]
    codes: Vec<u32>,
    #[serde(default)]
    grpc: Vec<u32>,
    #[serde(default)]
    per_try: bool,
    #[serde(default)]
    classified: bool,
    #[serde(default)]
    classes: Vec<ClassYaml>,
    status: Option<u16>,
    failure: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    trailer: Option<u16>,
    want: bool,
}

#[derive(Deserialize)]
struct ClassYaml {
    status: (u32, u32, bool),
}

fn retry(_: &Table<RetryCase>, case: &RetryCase) {
    let has = |token: &str| case.on.iter().any(|on| on == token);
    let rule = rule(&pb::Rule {
        retry: Some(pb::Retry {
            attempts: 1,
            on: Some(pb::RetryOn {
                status_5xx: has("5xx"),
                gateway_error: has("gateway-error"),
                reset: has("reset"),
                reset_before_request: has("reset-before-request"),
                connect_failure: has("connect-failure"),
                refused_stream: has("refused-stream"),
                retriable_4xx: has("retriable-4xx"),
                rate_limited: has("envoy-ratelimited"),
                grpc: case.grpc.clone(),
                ..Default::default()
            }),
            status_codes: case.codes.clone(),
            on_per_try_timeout: case.per_try,
            on_classified_failure: case.classified,
            ..Default::default()
        }),
        response_classes: case
            .classes
            .iter()
            .map(|class| pb::ResponseClass {
                condition: Some(pb::Condition {
                    kind: Some(pb::condition::Kind::Status(pb::StatusRange {
                        min: class.status.0,
                        max: class.status.1,
                    })),
                }),
                is_failure: class.status.2,
            })
            .collect(),
        ..Default::default()
    });
    let headers = support::headers(&case.headers);
    let outcome = match (&case.failure, case.status) {
        (Some(failure), _) => AttemptOutcome::Failed(match failure.as_str() {
            "connect" => Failure::Connect,
            "refused" => Failure::RefusedStream,
            "before" => Failure::ResetBeforeRequest,
            "reset" => Failure::Reset,
            "timeout" => Failure::PerTryTimeout,
            "overflow" => Failure::Overflow,
            other => panic!("{other}"),
        }),
        (None, status) => AttemptOutcome::Response {
            status: StatusCode::from_u16(status.unwrap()).unwrap(),
            headers: &headers,
            trailer: case.trailer,
        },
    };
    let policy = rule.retry.as_ref().unwrap();
    assert_eq!(policy.wants(&outcome, Some(&rule)), case.want);
}

// One test for each case of the tables; kept in their order.
table!(
    redirects,
    "cases/redirect.yaml",
    Table<RedirectCase>,
    redirect,
    [
        hostname,
        status_301,
        status_303,
        status_307,
        status_308,
        query_is_kept,
        unset_host_is_the_requests,
        listener_port_is_written,
        listener_port_replaces_hosts,
        port_80_is_left_out,
        scheme_takes_its_port,
        scheme_http_takes_80,
        explicit_port,
        explicit_port_with_scheme,
        explicit_443_with_https_is_left_out,
        explicit_443_with_http_is_written,
        explicit_80_with_https_is_written,
        path_full,
        path_prefix,
        path_prefix_to_root,
        path_prefix_to_root_without_rest,
        v6_host,
        vs_keeps_the_host_header,
        vs_keeps_no_port_of_a_changed_scheme,
        vs_keeps_other_ports_of_a_changed_scheme,
        vs_authority_as_written,
        vs_port_from_protocol,
        vs_port_from_request,
        vs_uri_prefix_is_text,
    ]
);
table!(
    rewrites,
    "cases/rewrite.yaml",
    Table<RewriteCase>,
    rewrite,
    [
        element_middle,
        element_replacement_slash,
        element_match_slash,
        element_both_slashes,
        element_alone,
        element_keeps_trailing_slash,
        element_empty,
        element_root,
        element_empty_trailing,
        element_empty_alone,
        element_root_trailing,
        element_root_alone,
        element_of_root_match,
        element_keeps_the_query,
        conformance_prefix,
        conformance_strip,
        conformance_strip_alone,
        full,
        full_keeps_the_query,
        vs_prefix_is_joined_as_text,
        vs_double_slash_is_the_users,
        vs_prefix_within_an_element,
        vs_exact_is_replaced_whole,
        vs_without_match_prepends,
        vs_regex_groups,
        vs_regex_every_match,
        vs_regex_dollar_is_literal,
        vs_regex_leaves_the_query,
        result_is_from_the_root,
    ]
);
table!(
    paths,
    "cases/path.yaml",
    Table<PathCase>,
    normalise,
    [
        none_as_received,
        none_still_refuses_fragments,
        base_plain,
        base_dot,
        base_dot_dot,
        base_dot_at_the_end,
        base_dot_dot_at_the_end,
        base_never_above_the_root,
        base_only_dots,
        base_hidden_files_stay,
        base_decodes_unreserved,
        base_decodes_dots_first,
        base_keeps_reserved,
        base_keeps_escaped_slashes,
        base_decodes_once,
        base_backslash,
        base_backslash_dots,
        base_keeps_double_slashes,
        base_case_stays,
        base_broken_escape_stays,
        base_broken_escape_with_text,
        base_nested_escape,
        base_nul,
        base_relative,
        base_empty,
        base_fragment,
        options_star,
        merge_slashes,
        merge_trailing,
        merge_after_dots,
        merge_backslashes,
        merge_keeps_escaped_slashes,
        decode_slashes,
        decode_upper_case,
        decode_backslashes,
        decode_before_dots,
        decode_dots_and_slashes,
    ]
);
table!(
    cross_origin,
    "cases/cors.yaml",
    Table<CorsCase>,
    cors,
    [
        no_origin_no_cors,
        exact_origin,
        origin_host_minds_no_case,
        origin_scheme_differs,
        origin_port_differs,
        origin_default_port,
        wildcard_one_label,
        wildcard_more_labels,
        wildcard_not_the_domain,
        wildcard_keeps_the_dot,
        star_answers_star,
        star_with_credentials_echoes,
        preflight,
        preflight_stars,
        preflight_stars_with_credentials_echo,
        options_without_request_method_is_no_preflight,
        unknown_preflight_is_answered,
        unknown_preflight_is_forwarded,
        vs_regex_origin,
        vs_origin_minds_case,
        exposed_headers,
        backend_headers_are_overwritten,
    ]
);
table!(
    retries,
    "cases/retry.yaml",
    Table<RetryCase>,
    retry,
    [
        status_5xx,
        status_5xx_not_4xx,
        status_5xx_reset,
        status_5xx_connect,
        status_5xx_timeout,
        gateway_error_503,
        gateway_error_500,
        gateway_error_timeout,
        reset_after_headers_sent,
        reset_not_by_status,
        reset_before_request,
        reset_before_request_only,
        connect_failure,
        connect_failure_not_upstream_503,
        connect_failure_not_timeout,
        refused_stream,
        refused_stream_only,
        retriable_4xx,
        retriable_4xx_only_409,
        listed_codes,
        unlisted_codes,
        listed_codes_not_timeout,
        gateway_api_timeout,
        rate_limited,
        rate_limited_by_others,
        grpc_unavailable_in_headers,
        grpc_other,
        grpc_in_trailers,
        profile_grpc_in_trailers,
        profile_5xx,
        profile_not_transport_errors,
        profile_class_success,
        profile_class_failure,
        overflow_never,
        istio_default_connect,
        istio_default_503,
    ]
);
