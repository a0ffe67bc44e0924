use std::sync::Arc;

use ambit_types::{NamespacedName, WorkloadUid};
use http::HeaderMap;

use super::*;

fn policy(name: &str, action: HttpAction, rules: Vec<HttpRule>) -> HttpAuthorization {
    HttpAuthorization {
        key: NamespacedName::new("shop", name),
        action,
        targets: Vec::new(),
        rules,
        dry_run: false,
        provider: "".into(),
        workloads: Vec::new(),
    }
}

fn rule(index: u32, method: &str, path: &str) -> HttpRule {
    let text = |text: &str| Text {
        form: crate::StringMatch::exact(text).unwrap(),
        ignore_case: false,
    };
    HttpRule {
        index,
        to: vec![Operation {
            methods: vec![text(method)],
            paths: vec![Path::Text(text(path))],
            ..Operation::default()
        }],
        ..HttpRule::default()
    }
}

fn attrs(headers: &HeaderMap) -> HttpAttrs<'_> {
    HttpAttrs {
        source_ip: [10, 0, 0, 1].into(),
        remote_ip: None,
        peer: None,
        destination_ip: [10, 96, 0, 1].into(),
        destination_port: 80,
        sni: None,
        http: Some(HttpRequest {
            method: "GET",
            host: "cart",
            path: "/a?token=secret",
            headers,
            auth: None,
        }),
    }
}

#[test]
fn verdicts_are_named_as_in_4_8() {
    let headers = HeaderMap::new();
    let deny = Arc::new(policy("no", HttpAction::Deny, vec![rule(3, "GET", "/a")]));
    let bound = HttpPolicies::bind([&deny], None, 80);
    let HttpVerdict::Deny(by) = bound.evaluate(&attrs(&headers)).verdict else {
        panic!("must deny");
    };
    assert_eq!(
        by.to_string(),
        "rbac_access_denied_matched_policy[ns[shop]-policy[no]-rule[3]]"
    );
    let none = Arc::new(policy("nobody", HttpAction::Allow, Vec::new()));
    let bound = HttpPolicies::bind([&none], None, 80);
    let HttpVerdict::Deny(by) = bound.evaluate(&attrs(&headers)).verdict else {
        panic!("must deny");
    };
    assert_eq!(by.to_string(), "rbac_access_denied_matched_policy[none]");
}

#[test]
fn a_policy_that_cant_be_read_refuses_everything() {
    let headers = HeaderMap::new();
    let allow = Arc::new(policy("all", HttpAction::Allow, vec![HttpRule::default()]));
    let mut bound = HttpPolicies::bind([&allow], None, 80);
    assert!(bound.evaluate(&attrs(&headers)).verdict.is_allow());
    bound.block(NamespacedName::new("shop", "odd"));
    assert!(!bound.evaluate(&attrs(&headers)).verdict.is_allow());
}

#[test]
fn a_trace_shows_every_policy_and_the_nearest_rule() {
    let headers = HeaderMap::new();
    let deny = Arc::new(policy("no", HttpAction::Deny, vec![rule(0, "GET", "/a")]));
    let later = Arc::new(policy(
        "later",
        HttpAction::Allow,
        vec![rule(0, "POST", "/a"), rule(1, "GET", "/b")],
    ));
    let bound = HttpPolicies::bind([&deny, &later], None, 80);
    let mut trace = HttpTrace::default();
    let decision = bound.evaluate_with(&attrs(&headers), &mut trace);
    assert!(!decision.verdict.is_allow());
    let lines: Vec<_> = trace.policies.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "DENY shop/no: rule 0 matches",
            "ALLOW shop/later: no rule matches; rule 1 fails at to.operation.paths, which is \"/a\"",
        ]
    );
    let json = serde_json::to_value(&trace).unwrap();
    assert_eq!(json[1]["nearMiss"]["rule"], 1);
}

#[test]
fn policies_for_workloads_are_a_pool_of_their_own() {
    let headers = HeaderMap::new();
    let mut deny = policy("pod", HttpAction::Deny, vec![rule(0, "GET", "/a")]);
    deny.workloads = vec![WorkloadUid::from("pod-1")];
    let bound = HttpPolicies::bind([&Arc::new(deny)], None, 80);
    let attrs = attrs(&headers);
    assert!(bound.asks_workload());
    assert!(bound.evaluate(&attrs).verdict.is_allow());
    assert!(!bound.evaluate_workload("pod-1", &attrs).verdict.is_allow());
    assert!(bound.evaluate_workload("pod-2", &attrs).verdict.is_allow());
}

#[test]
fn providers_are_asked_once() {
    let headers = HeaderMap::new();
    let custom = |name: &str, provider: &str| {
        let mut one = policy(name, HttpAction::Custom, vec![HttpRule::default()]);
        one.provider = provider.into();
        Arc::new(one)
    };
    let all = [custom("a", "x"), custom("b", "y"), custom("c", "x")];
    let bound = HttpPolicies::bind(&all, None, 80);
    let asked = bound.custom(&attrs(&headers));
    let names: Vec<_> = asked.iter().map(|one| one.provider).collect();
    assert_eq!(names, ["x", "y"]);
}
