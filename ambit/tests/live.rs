//! `ambit analyze` of a cluster.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

mod program;

use program::api::{Api, Lists};
use program::{ambit_at, fixture};
use serde_json::{Value, json};

const POLICIES: &str = "/apis/security.istio.io/v1/authorizationpolicies";
const NAMESPACES: &str = "/api/v1/namespaces";

/// An object as an API server has it.
fn served(namespace: &str, name: &str, more: Value) -> Value {
    let mut object = json!({"metadata": {
        "name": name, "uid": format!("uid-{name}"), "resourceVersion": "5",
        "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{"manager": "kubectl"}]}});
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    for (key, value) in more.as_object().unwrap() {
        match key.as_str() {
            "labels" | "annotations" => object["metadata"][key] = value.clone(),
            _ => object[key] = value.clone(),
        }
    }
    object
}

fn policy(namespace: &str, source: &str) -> Value {
    let rules = json!([{"from": [{"source": {source: ["cluster.local/ns/shop/sa/web"]}}]}]);
    let spec = json!({"action": "ALLOW", "rules": rules});
    served(
        namespace,
        "gate",
        json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "spec": spec,
        "status": {"conditions": []}}),
    )
}

/// A shop in order: two namespaces, a pod that is captured behind a service.
fn shop() -> Lists {
    let mut lists = Lists::default();
    let mut put = |path: &str, object: Value| {
        lists
            .objects
            .entry(path.to_owned())
            .or_default()
            .push(object);
    };
    for name in ["shop", "bank", "kube-system", "istio-system"] {
        let labels = json!({"labels": {"istio.io/dataplane-mode": "ambient"}});
        put(NAMESPACES, served("", name, labels));
    }
    put("/api/v1/nodes", served("", "node-1", json!({})));
    put(
        "/api/v1/pods",
        served(
            "shop",
            "cart",
            json!({
        "labels": {"app": "cart"}, "annotations": {"ambient.istio.io/redirection": "enabled"},
        "spec": {"nodeName": "node-1", "serviceAccountName": "cart",
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": "10.7.1.5", "podIPs": [{"ip": "10.7.1.5"}],
            "conditions": [{"type": "Ready", "status": "True"}]}}),
        ),
    );
    put(
        "/api/v1/services",
        served(
            "shop",
            "cart",
            json!({
        "spec": {"clusterIP": "10.96.7.1", "selector": {"app": "cart"}, "ports": [{"name": "http", "port": 80}]}}),
        ),
    );
    // Nobody has defined VirtualServices.
    put(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        served(
            "",
            "authorizationpolicies.security.istio.io",
            json!({
            "spec": {"group": "security.istio.io", "names": {"kind": "AuthorizationPolicy"},
                "versions": [{"name": "v1", "served": true}]},
            "status": {"conditions": [{"type": "Established", "status": "True"}]}}),
        ),
    );
    lists
}

fn with(policies: Vec<Value>) -> Api {
    let mut lists = shop();
    lists.objects.insert(POLICIES.to_owned(), policies);
    Api::serve(lists)
}

#[test]
fn a_cluster_in_order_is_said_to_be() {
    let api = with(vec![policy("shop", "principals")]);
    for (arguments, what) in [
        (&["analyze"][..], "namespace: shop."),
        (&["analyze", "-n", "bank"], "namespace: bank."),
        (
            &["analyze", "-A", "--failure-threshold=info"],
            "all namespaces.",
        ),
    ] {
        let run = ambit_at(&api, "", arguments);
        assert_eq!(
            (run.code, run.output.as_str()),
            (0, ""),
            "{arguments:?}: {}",
            run.notes
        );
        assert!(
            run.notes.contains(&format!("when analyzing {what}")),
            "{}",
            run.notes
        );
    }
}

#[test]
fn a_slip_in_the_cluster_is_found_in_its_namespace() {
    let api = with(vec![
        policy("shop", "principels"),
        policy("bank", "principels"),
        policy("kube-system", "principels"),
    ]);
    let seen = |arguments: &[&str]| {
        let run = ambit_at(&api, "", arguments);
        let all = ["shop", "bank", "kube-system"];
        let named = |namespace: &&str| {
            run.output
                .contains(&format!("(AuthorizationPolicy gate.{namespace}) "))
        };
        let named: Vec<_> = all.into_iter().filter(named).collect();
        (run.code, named)
    };
    assert_eq!(seen(&["analyze"]), (79, vec!["shop"]));
    assert_eq!(seen(&["analyze", "-n", "bank"]), (79, vec!["bank"]));
    assert_eq!(seen(&["analyze", "-A"]), (79, vec!["shop", "bank"]));
    assert_eq!(
        seen(&["analyze", "-n", "kube-system"]),
        (79, vec!["kube-system"])
    );
    let run = ambit_at(&api, "", &["analyze", "-o", "json"]);
    let found: Value = serde_json::from_str(&run.output).unwrap();
    let slip = found
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["code"] == "AMB0106")
        .unwrap();
    assert_eq!(
        (run.code, &slip["origin"]),
        (79, &json!("AuthorizationPolicy shop/gate"))
    );
    assert_eq!(slip["reference"], "");
}

#[test]
fn files_over_the_cluster_are_what_would_be() {
    let good = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: gate, namespace: shop}, \
                spec: {selector: {matchLabels: {app: cart}}, rules: [{}]}}";
    let bad = good.replace("rules", "rulez");
    let api = with(vec![policy("shop", "principels")]);
    // The file's version of the policy holds, and it selects the cluster's pod.
    let run = ambit_at(&api, good, &["analyze", "-k", "-"]);
    assert_eq!((run.code, run.output.as_str()), (0, ""), "{}", run.notes);
    let run = ambit_at(&api, &bad, &["analyze", "-k", "-f", "-"]);
    assert_eq!(run.code, 79, "{}{}", run.output, run.notes);
    assert!(
        run.output.contains("(AuthorizationPolicy gate.shop -:1) "),
        "{}",
        run.output
    );
    assert!(!run.output.contains("principels"), "{}", run.output);
    // Files alone, though there is a cluster.
    let run = ambit_at(&api, "", &["analyze", &fixture("shop")]);
    assert_eq!((run.code, run.output.as_str()), (0, ""), "{}", run.notes);
}

#[test]
fn a_cluster_that_cannot_be_read_says_why() {
    let mut lists = shop();
    lists.refused.insert("/api/v1/pods".to_owned(), 403);
    let run = ambit_at(&Api::serve(lists), "", &["analyze"]);
    assert_eq!(run.code, 1, "{}", run.output);
    assert!(
        run.notes
            .contains("Pod can't be read from the API server: forbidden"),
        "{}",
        run.notes
    );
    let api = with(Vec::new());
    let run = ambit_at(&api, "", &["analyze", "--context", "away"]);
    assert!(
        run.code == 1 && run.notes.contains("no answer"),
        "{} {}",
        run.code,
        run.notes
    );
    let run = ambit_at(&api, "", &["analyze", "--context", "nowhere"]);
    assert!(
        run.code == 1 && run.notes.contains("no cluster"),
        "{} {}",
        run.code,
        run.notes
    );
    // As upstream: a word, and no failure.
    let run = ambit_at(&api, "", &["analyze", "-n", "shpo"]);
    assert!(
        run.code == 0 && run.notes.contains("namespace shpo isn't in the cluster"),
        "{} {}",
        run.code,
        run.notes
    );
}
