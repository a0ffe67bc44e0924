//! The semantics table of L7 authorization, one test per case: from the wire
//! form to the verdict.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use ambit_policy::http::{
    HttpAttrs, HttpAuthorization, HttpDeniedBy, HttpPolicies, HttpRequest, HttpTrace, HttpVerdict,
    RequestAuth,
};
use ambit_proto::waypoint as pb;
use ambit_route::path::{BadPath, Normalization, normalize};
use ambit_types::{NamespacedHostname, SpiffeId};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Read once: the file is long.
static CASES: LazyLock<Table> =
    LazyLock::new(|| serde_saphyr::from_str(include_str!("cases/http.yaml")).unwrap());

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    name: String,
    clause: String,
    allow: Option<Vec<Rule>>,
    deny: Option<Vec<Rule>>,
    audit: Option<Vec<Rule>>,
    custom: Option<Vec<Rule>>,
    dry_allow: Option<Vec<Rule>>,
    dry_deny: Option<Vec<Rule>>,
    #[serde(default)]
    targets: Vec<Target>,
    #[serde(default)]
    req: Req,
    want: String,
    audited: Option<bool>,
    asks: Option<bool>,
    shadow_allow: Option<String>,
    shadow_deny: Option<String>,
}

#[derive(Deserialize, Clone, Default)]
#[serde(deny_unknown_fields, default)]
struct Target {
    frontend: String,
    port: u32,
}

#[derive(Deserialize, Clone, Default)]
#[serde(deny_unknown_fields, default)]
struct Rule {
    from: Vec<Source>,
    to: Vec<Operation>,
    when: Vec<When>,
    unusable: String,
}

#[derive(Deserialize, Clone, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Source {
    principals: Vec<String>,
    not_principals: Vec<String>,
    request_principals: Vec<String>,
    not_request_principals: Vec<String>,
    namespaces: Vec<String>,
    not_namespaces: Vec<String>,
    service_accounts: Vec<String>,
    not_service_accounts: Vec<String>,
    trust_domains: Vec<String>,
    ip_blocks: Vec<String>,
    not_ip_blocks: Vec<String>,
    remote_ip_blocks: Vec<String>,
}

#[derive(Deserialize, Clone, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Operation {
    hosts: Vec<String>,
    not_hosts: Vec<String>,
    ports: Vec<String>,
    not_ports: Vec<String>,
    methods: Vec<String>,
    not_methods: Vec<String>,
    paths: Vec<String>,
    not_paths: Vec<String>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct When {
    key: String,
    #[serde(default)]
    values: Vec<String>,
    #[serde(default)]
    not_values: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Req {
    peer: Option<String>,
    source: Option<IpAddr>,
    remote: Option<IpAddr>,
    sni: Option<String>,
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
    /// Normalised before it is compared, as the proxy does.
    normalize: Option<String>,
    headers: Vec<(String, String)>,
    jwt: Option<Map<String, Value>>,
    tcp: bool,
}

fn text(value: &str) -> pb::StringMatch {
    use pb::string_match::Kind;
    let kind = if value == "*" {
        Kind::Presence(true)
    } else if let Some(head) = value.strip_suffix('*') {
        Kind::Prefix(head.to_owned())
    } else if let Some(tail) = value.strip_prefix('*') {
        Kind::Suffix(tail.to_owned())
    } else {
        Kind::Exact(value.to_owned())
    };
    pb::StringMatch {
        kind: Some(kind),
        ignore_case: false,
    }
}

fn texts(values: &[String]) -> Vec<pb::StringMatch> {
    values.iter().map(|value| text(value)).collect()
}

fn blocks(values: &[String]) -> Vec<pb::Cidr> {
    let one = |value: &String| {
        let (ip, length) = value.split_once('/').unwrap_or((value, ""));
        let ip: IpAddr = ip.parse().unwrap();
        let (address, full) = match ip {
            IpAddr::V4(ip) => (ip.octets().to_vec(), 32),
            IpAddr::V6(ip) => (ip.octets().to_vec(), 128),
        };
        pb::Cidr {
            address,
            length: length.parse().unwrap_or(full),
        }
    };
    values.iter().map(one).collect()
}

fn ports(values: &[String]) -> Vec<u32> {
    values.iter().map(|value| value.parse().unwrap()).collect()
}

fn accounts(values: &[String]) -> Vec<pb::ServiceAccount> {
    let one = |value: &String| {
        let (namespace, name) = value.split_once('/').unwrap_or(("shop", value));
        pb::ServiceAccount {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    };
    values.iter().map(one).collect()
}

fn paths(values: &[String]) -> Vec<pb::PathPattern> {
    use pb::path_pattern::Kind;
    let one = |value: &String| pb::PathPattern {
        kind: Some(if value.contains("{*") {
            Kind::Template(value.clone())
        } else {
            Kind::Text(text(value))
        }),
    };
    values.iter().map(one).collect()
}

fn when(one: &When) -> pb::When {
    use pb::when::Key;
    let mut wire = pb::When::default();
    let brackets = |rest: &str| -> Vec<String> {
        let inner = rest.trim_start_matches('[').trim_end_matches(']');
        inner.split("][").map(str::to_owned).collect()
    };
    let key = if let Some(rest) = one.key.strip_prefix("request.headers") {
        Key::Header(brackets(rest).remove(0))
    } else if let Some(rest) = one.key.strip_prefix("request.auth.claims") {
        Key::Claim(pb::ClaimPath {
            path: brackets(rest),
        })
    } else {
        Key::Attribute(one.key.clone())
    };
    wire.key = Some(key);
    match one.key.as_str() {
        "source.ip" | "remote.ip" | "destination.ip" => {
            wire.blocks = blocks(&one.values);
            wire.not_blocks = blocks(&one.not_values);
        }
        "destination.port" => {
            wire.ports = ports(&one.values);
            wire.not_ports = ports(&one.not_values);
        }
        _ => {
            wire.values = texts(&one.values);
            wire.not_values = texts(&one.not_values);
        }
    }
    wire
}

fn rule(index: usize, one: &Rule) -> pb::AuthorizationRule {
    let source = |one: &Source| pb::Source {
        principals: texts(&one.principals),
        not_principals: texts(&one.not_principals),
        request_principals: texts(&one.request_principals),
        not_request_principals: texts(&one.not_request_principals),
        namespaces: texts(&one.namespaces),
        not_namespaces: texts(&one.not_namespaces),
        service_accounts: accounts(&one.service_accounts),
        not_service_accounts: accounts(&one.not_service_accounts),
        trust_domains: texts(&one.trust_domains),
        ip_blocks: blocks(&one.ip_blocks),
        not_ip_blocks: blocks(&one.not_ip_blocks),
        remote_ip_blocks: blocks(&one.remote_ip_blocks),
        ..pb::Source::default()
    };
    let operation = |one: &Operation| pb::Operation {
        hosts: texts(&one.hosts),
        not_hosts: texts(&one.not_hosts),
        ports: ports(&one.ports),
        not_ports: ports(&one.not_ports),
        methods: texts(&one.methods),
        not_methods: texts(&one.not_methods),
        paths: paths(&one.paths),
        not_paths: paths(&one.not_paths),
    };
    pb::AuthorizationRule {
        from: one.from.iter().map(source).collect(),
        to: one.to.iter().map(operation).collect(),
        when: one.when.iter().map(when).collect(),
        index: u32::try_from(index).unwrap(),
        unusable: one.unusable.clone(),
    }
}

impl Case {
    fn policies(&self) -> Vec<Arc<HttpAuthorization>> {
        use pb::AuthorizationAction as Action;
        let sets = [
            (Action::Allow, false, &self.allow),
            (Action::Deny, false, &self.deny),
            (Action::Audit, false, &self.audit),
            (Action::Custom, false, &self.custom),
            (Action::Allow, true, &self.dry_allow),
            (Action::Deny, true, &self.dry_deny),
        ];
        let read = |(action, dry_run, rules): (Action, bool, &Option<Vec<Rule>>)| {
            let rules = rules.as_ref()?;
            let targets = self.targets.iter().map(|target| pb::Target {
                frontend: target.frontend.clone(),
                port: target.port,
                ..pb::Target::default()
            });
            let wire = pb::Authorization {
                origin: Some(pb::Origin {
                    kind: "AuthorizationPolicy".to_owned(),
                    namespace: "shop".to_owned(),
                    name: "p".to_owned(),
                    generation: 1,
                }),
                action: action.into(),
                targets: targets.collect(),
                rules: rules
                    .iter()
                    .enumerate()
                    .map(|(i, one)| rule(i, one))
                    .collect(),
                dry_run,
                provider: "authz".to_owned(),
                workload_uids: Vec::new(),
            };
            Some(Arc::new(HttpAuthorization::try_from(wire).unwrap()))
        };
        sets.into_iter().filter_map(read).collect()
    }
}

fn verdict_text(verdict: &HttpVerdict<'_>) -> String {
    match verdict {
        HttpVerdict::Allow(None) => "allow".to_owned(),
        HttpVerdict::Allow(Some(rule)) => format!("allow[{}]", rule.rule),
        HttpVerdict::Deny(HttpDeniedBy::Rule(rule)) => format!("deny[{}]", rule.rule),
        HttpVerdict::Deny(HttpDeniedBy::NoAllowMatched) => "none".to_owned(),
        HttpVerdict::Deny(HttpDeniedBy::Unreadable(key)) => format!("unreadable {key}"),
    }
}

/// The path as the proxy compares it.
fn sent_path(req: &Req) -> Result<Cow<'_, str>, BadPath> {
    let sent = req.path.as_deref().unwrap_or("/");
    let mode = match req.normalize.as_deref() {
        // What the proxy would have refused is compared all the same.
        None => return Ok(sent.into()),
        Some("NONE") => Normalization::None,
        Some("BASE") => Normalization::Base,
        Some("MERGE_SLASHES") => Normalization::MergeSlashes,
        Some("DECODE_AND_MERGE_SLASHES") => Normalization::DecodeAndMergeSlashes,
        Some(other) => panic!("no mode {other}"),
    };
    normalize(sent, mode)
}

fn run(name: &str) {
    let case = CASES.cases.iter().find(|case| case.name == name).unwrap();
    assert!(!case.clause.is_empty(), "a case cites its clause");
    let req = &case.req;
    let peer: Option<SpiffeId> = match req.peer.as_deref() {
        None => Some("spiffe://cluster.local/ns/web/sa/client".parse().unwrap()),
        Some("") => None,
        Some(principal) => Some(format!("spiffe://{principal}").parse().unwrap()),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &req.headers {
        headers.append(
            name.parse::<HeaderName>().unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    let claim = |name: &str| {
        let jwt = req.jwt.as_ref()?;
        jwt.get(name)?.as_str()
    };
    let audiences: Vec<String> = req
        .jwt
        .as_ref()
        .and_then(|jwt| jwt.get("aud")?.as_array())
        .into_iter()
        .flatten()
        .map(|one| one.as_str().unwrap().to_owned())
        .collect();
    let auth = req.jwt.as_ref().map(|claims| RequestAuth {
        issuer: claim("iss").unwrap_or_default(),
        subject: claim("sub").unwrap_or_default(),
        audiences: &audiences,
        presenter: claim("azp"),
        claims,
    });
    let path = match sent_path(req) {
        Ok(path) => path,
        Err(bad) => {
            assert_eq!(format!("400 {bad}"), case.want);
            return;
        }
    };
    let http = HttpRequest {
        method: req.method.as_deref().unwrap_or("GET"),
        host: req.host.as_deref().unwrap_or("cart"),
        path: &path,
        headers: &headers,
        auth,
    };
    let attrs = HttpAttrs {
        source_ip: req.source.unwrap_or([10, 0, 0, 1].into()),
        remote_ip: req.remote,
        peer: peer.as_ref(),
        destination_ip: [10, 96, 0, 1].into(),
        destination_port: 80,
        sni: req.sni.as_deref(),
        http: (!req.tcp).then_some(http),
    };
    let frontend: NamespacedHostname = "shop/cart.shop.svc.cluster.local".parse().unwrap();
    let all = case.policies();
    let bound = HttpPolicies::bind(&all, Some(&frontend), 80);
    let decision = bound.evaluate(&attrs);
    let mut trace = HttpTrace::default();
    assert_eq!(
        decision,
        bound.evaluate_with(&attrs, &mut trace),
        "traced and plain disagree"
    );
    let lines: Vec<_> = trace.policies.iter().map(ToString::to_string).collect();
    assert_eq!(verdict_text(&decision.verdict), case.want, "{lines:#?}");
    if let Some(want) = case.audited {
        assert_eq!(decision.audit.is_some(), want, "{lines:#?}");
    }
    let asked = bound.custom(&attrs);
    assert_eq!(!asked.is_empty(), case.asks.unwrap_or_default());
    assert!(asked.iter().all(|one| one.provider == "authz"));
    assert_eq!(decision.shadow.allow_result(), case.shadow_allow.as_deref());
    assert_eq!(decision.shadow.deny_result(), case.shadow_deny.as_deref());
}

macro_rules! cases {
    ($($case:ident,)+) => {
        $(#[test]
        fn $case() {
            run(stringify!($case));
        })+

        #[test]
        fn every_case_is_a_test() {
            let in_file: Vec<_> = CASES.cases.iter().map(|case| case.name.as_str()).collect();
            assert_eq!(in_file, [$(stringify!($case)),+]);
        }
    };
}

cases! {
    nothing_holds,
    allow_without_rules_denies_everything,
    the_empty_rule_matches_everything,
    the_empty_deny_rule_denies_everything,
    deny_beats_allow,
    deny_that_misses_leaves_allow,
    deny_alone_that_misses_allows,
    no_allow_rule_matches,
    rules_are_alternatives,
    from_and_to_must_both_hold,
    when_must_hold_too,
    conditions_are_anded,
    sources_are_alternatives,
    operations_are_alternatives,
    fields_of_an_operation_are_anded,
    values_of_a_field_are_ored,
    negative_is_none_of_the_values,
    positive_and_negative_are_anded,
    positive_and_negative_pass,
    audit_never_decides,
    audit_alone_allows,
    audit_that_misses,
    unusable_allow_rule_never_matches,
    unusable_deny_rule_is_widened,
    principal_exact,
    principal_has_no_scheme,
    principal_prefix,
    principal_suffix,
    principal_presence,
    no_identity_has_no_principal,
    no_identity_passes_not_principals,
    no_identity_passes_not_namespaces,
    namespace_exact,
    namespace_prefix,
    namespace_dot_is_literal,
    service_account_with_namespace,
    service_account_of_the_policys_namespace,
    service_account_own_namespace_hit,
    service_account_has_no_wildcard,
    service_account_dots_are_literal,
    service_account_with_dots,
    not_service_account_without_identity,
    trust_domain,
    trust_domain_of_another,
    ip_block,
    ip_block_of_one_address,
    ip_block_is_the_tcp_peers,
    mapped_peer_is_v4,
    remote_ip_block,
    remote_ip_falls_back_to_the_peer,
    not_ip_block,
    request_principal,
    request_principal_any,
    request_principal_without_token,
    not_request_principals_without_token,
    request_principal_splits_at_the_last_slash,
    request_principal_issuer_with_slashes,
    request_principal_prefix_is_an_issuer,
    request_principal_prefix_of_a_forged_subject,
    request_principal_suffix,
    request_principal_needs_a_subject,
    host_ignores_case,
    host_value_ignores_case,
    host_is_compared_with_its_port,
    host_with_and_without_port,
    host_suffix,
    host_presence,
    not_hosts,
    port_is_the_service_port,
    port_of_another,
    not_ports,
    method_is_case_sensitive,
    method_prefix,
    grpc_is_post,
    path_exact,
    path_case_counts,
    path_without_query,
    query_takes_no_part,
    path_without_fragment,
    not_paths_without_fragment,
    path_prefix,
    path_suffix,
    star_in_the_middle_is_literal,
    star_in_the_middle_hit,
    template_one_segment,
    template_not_two_segments,
    template_not_an_empty_segment,
    template_any_rest,
    template_zero_segments,
    template_takes_a_literal_star,
    template_dots_are_literal,
    slashes_double,
    slashes_escaped,
    slashes_escaped_dots,
    slashes_back,
    dots_resolved,
    unreserved_decoded,
    fragment_is_refused,
    as_received,
    header_exact,
    header_value_case_counts,
    header_presence_of_an_empty_one,
    header_absent,
    header_absent_passes_not_values,
    header_second_line_is_compared,
    header_joined_form_is_compared,
    header_joined_with_a_space,
    header_comma_values_for_deny,
    header_comma_values_dont_open,
    header_one_good_line_doesnt_excuse,
    header_good_line_excuses,
    header_not_values_of_an_allow_see_each_element,
    double_authorization_header,
    header_prefix,
    when_source_ip,
    when_remote_ip,
    when_destination_ip,
    when_destination_port,
    when_source_principal,
    when_source_service_account,
    when_source_trust_domain,
    when_values_and_not_values,
    when_sni,
    when_sni_absent,
    when_audience,
    when_presenter,
    when_request_principal,
    claim_text,
    claim_element_of_a_list,
    claim_nested,
    claim_number_doesnt_match,
    claim_boolean_doesnt_match,
    claim_object_doesnt_match,
    claim_absent_passes_not_values,
    claim_without_token_passes_not_values,
    claim_name_with_dots,
    unknown_key_never_allows,
    unknown_key_never_saves_from_deny,
    tcp_allow_with_http_never_matches,
    tcp_allow_without_http,
    tcp_deny_is_widened,
    tcp_deny_keeps_the_rest,
    tcp_deny_by_not_paths_is_widened,
    tcp_allow_by_header,
    tcp_deny_by_header,
    tcp_allow_by_claim,
    tcp_allow_by_request_principal,
    tcp_deny_by_request_principal,
    tcp_allow_by_audience,
    tcp_sni,
    custom_asks,
    custom_that_misses_doesnt_ask,
    custom_beside_allow,
    custom_unusable_is_widened,
    custom_on_tcp_is_widened,
    dry_deny_decides_nothing,
    dry_deny_that_misses,
    dry_allow_is_no_allow_policy,
    dry_allow_that_matches,
    target_of_another_service,
    target_of_this_service,
    target_is_everything,
    target_of_another_port,
    target_of_this_port,
    one_of_several_targets,
}
