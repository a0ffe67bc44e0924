//! What changes cost among thousands in one namespace: counted, not timed.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use ambit_compile::{Compiler, Delta, Settings};
use ambit_kube::{Change, Kind, ObjectKey, read_object};
use serde_json::{Value, json};

const PODS: usize = 10_000;
const SERVICES: usize = 1_000;
const POLICIES: usize = 200;

fn read(kind: Kind, value: &Value) -> Change {
    let mut loaded = read_object(kind, value.to_string().as_bytes()).unwrap();
    assert_eq!(loaded.problems, []);
    Change::Apply(loaded.objects.remove(0))
}

fn pod(at: usize, app: usize, ready: &str) -> Change {
    let labels = json!({"a-release": "shop", "app": format!("a{app}"), "pod-template-hash": format!("h{app}")});
    let ip = format!("10.{}.{}.{}", 1 + at / 62_500, at / 250 % 250, at % 250);
    let value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p{at}"), "namespace": "shop", "labels": labels},
        "spec": {
            "nodeName": format!("n{}", at % 100), "serviceAccountName": format!("a{app}"),
            "containers": [{"name": "c"}],
        },
        "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
    });
    read(Kind::Pod, &value)
}

/// Selects by a label that all share, and by one of its own.
fn service(at: usize, app: usize) -> Change {
    let value = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("s{at}"), "namespace": "shop"},
        "spec": {
            "clusterIP": format!("10.200.{}.{}", at / 250, at % 250),
            "selector": {"a-release": "shop", "app": format!("a{app}")},
            "ports": [{"name": "http", "port": 80}],
        },
    });
    read(Kind::Service, &value)
}

fn policy(at: usize, app: usize) -> Change {
    let labels = json!({"a-release": "shop", "app": format!("a{app}")});
    let value = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": format!("w{at}"), "namespace": "shop"},
        "spec": {"selector": {"matchLabels": labels}, "rules": [{}]},
    });
    read(Kind::AuthorizationPolicy, &value)
}

/// Neither the start nor a change compares each pod with each service: that would be ten million.
#[test]
fn a_change_among_ten_thousand_pods_looks_at_those_that_it_touches() {
    let mut compiler = Compiler::new(Settings::default());
    let pods = (0..PODS).map(|at| pod(at, at % SERVICES, "True"));
    let services = (0..SERVICES).map(|at| service(at, at));
    let policies = (0..POLICIES).map(|at| policy(at, at));
    compiler.apply(pods.chain(services).chain(policies));
    assert_eq!(compiler.snapshot().addresses.len(), PODS + SERVICES);
    let all = (PODS + SERVICES + POLICIES) as u64;
    let (derived, compared) = (compiler.derivations(), compiler.comparisons());
    println!("the start: {derived} derived, {compared} compared");
    assert!(derived < 5 * all && compared < 20 * all);

    // What is said of services and policies that select, or selected, something is looked at too, and is as it was.
    let gone = Change::Delete(ObjectKey::new(Kind::Pod, "shop", "p5"));
    let cases = [
        (
            "a pod isn't ready: itself",
            pod(4_321, 321, "False"),
            1,
            (1, 5),
        ),
        (
            "a pod goes to another service",
            pod(4_321, 322, "True"),
            1,
            (5, 30),
        ),
        ("a new pod", pod(PODS, 7, "True"), 1, (5, 30)),
        (
            "a service leads elsewhere: ten pods and ten",
            service(10, 11),
            20,
            (30, 150),
        ),
        (
            "a policy binds others: ten pods and ten",
            policy(10, 12),
            20,
            (30, 150),
        ),
        ("a pod goes", gone, 1, (5, 30)),
    ];
    for (name, change, sent, bound) in cases {
        let before = (compiler.derivations(), compiler.comparisons());
        let Delta { addresses, .. } = compiler.apply([change]);
        assert_eq!(
            addresses.changed.len() + addresses.removed.len(),
            sent,
            "{name}"
        );
        let derived = compiler.derivations() - before.0;
        let compared = compiler.comparisons() - before.1;
        println!("{name}: {derived} derived, {compared} compared");
        assert!(
            derived <= bound.0 && compared <= bound.1,
            "{name}: {derived}, {compared}"
        );
    }
}
