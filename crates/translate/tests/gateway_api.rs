//! Semantics tables of Gateway API for mesh: objects in; status conditions,
//! problems, and what becomes of requests out (`waypoint-contract` section 2).
//! Everything is read as in production, and asked for behind the decoders of
//! `ambit-route`, as a waypoint does.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod gateway_live;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::{Kind, Located, Object, Problem, read_manifest};
use ambit_proto::waypoint as proto;
use ambit_translate::{RouteCondition, Translated, World, gateway_api};
use serde::Deserialize;
use serde_json::{Value, json};

use gateway_live::{BackendLook, Connection, Live, Request, backend, short};
use world::TestWorld;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    cases: Vec<Case>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Case {
    name: String,
    /// Of `waypoint-contract`, or a GEP.
    clause: String,
    /// Of the object `r` that `spec` makes; HTTPRoute unless said.
    kind: Option<String>,
    #[serde(rename = "in")]
    namespace: Option<String>,
    /// Without parentRefs it is attached to Service echo.
    spec: Option<Value>,
    annotations: Option<Value>,
    more: String,
    /// Conditions of the parents of `r`: `Accepted`, `!Accepted:Conflicted`;
    /// one text a parent. Not there: one parent, all well.
    status: Option<Vec<String>>,
    /// Of other objects, by name.
    statuses: BTreeMap<String, Vec<String>>,
    /// `CODE field` of each problem, in any order.
    problems: Vec<String>,
    /// A part of the text of one of them.
    says: Vec<String>,
    /// `frontend:port` of each parent that messages have.
    attached: Option<Vec<String>>,
    requests: Vec<Request>,
    connections: Vec<Connection>,
    backends: Vec<BackendLook>,
}

fn run(text: &str) -> usize {
    let table: Table = serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e}"));
    let mut failed = Vec::new();
    for case in &table.cases {
        assert!(!case.clause.is_empty(), "{}: no clause", case.name);
        for wrong in check(case) {
            failed.push(format!("{} ({}): {wrong}", case.name, case.clause));
        }
    }
    let count = table.cases.len();
    assert!(
        failed.is_empty(),
        "of {count} cases:\n{}",
        failed.join("\n")
    );
    count
}

/// What all objects of a case gave.
#[derive(Default)]
struct Outcome {
    routes: Vec<proto::Route>,
    statuses: BTreeMap<String, Vec<String>>,
    problems: Vec<Problem>,
    wrong: Vec<String>,
}

fn check(case: &Case) -> Vec<String> {
    let own = documents(case);
    let world = TestWorld::from_yaml(&format!("{BASE}\n---\n{own}"));
    let read = read_manifest("case.yaml", &own);
    let mut outcome = Outcome::default();
    let reader = read.problems.iter();
    outcome
        .wrong
        .extend(reader.map(|p| format!("the reader says {p}")));
    for object in &read.objects {
        take(object, &world, &mut outcome);
    }
    statuses(case, &mut outcome);
    problems(case, &mut outcome);
    attached(case, &mut outcome);
    let Outcome { routes, wrong, .. } = &mut outcome;
    let live = Live::new(routes, wrong);
    for request in &case.requests {
        live.request(request, wrong);
    }
    for connection in &case.connections {
        live.connection(connection, wrong);
    }
    for look in &case.backends {
        backend(look, &world, wrong);
    }
    outcome.wrong
}

fn documents(case: &Case) -> String {
    let mut documents = Vec::new();
    if let Some(spec) = &case.spec {
        let kind = case.kind.as_deref().unwrap_or("HTTPRoute");
        let mut spec = spec.clone();
        let policy = kind.ends_with("Policy");
        if !policy && spec.get("parentRefs").is_none() {
            spec["parentRefs"] = json!([{"group": "", "kind": "Service", "name": "echo"}]);
        }
        let version = match kind {
            "TCPRoute" => "gateway.networking.k8s.io/v1alpha2",
            "XBackendTrafficPolicy" => "gateway.networking.x-k8s.io/v1alpha1",
            _ => "gateway.networking.k8s.io/v1",
        };
        let object = json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": {
                "name": "r",
                "namespace": case.namespace.as_deref().unwrap_or("shop"),
                "creationTimestamp": "2026-03-01T00:00:00Z",
                "annotations": case.annotations.clone().unwrap_or(json!({})),
            },
            "spec": spec,
        });
        documents.push(object.to_string());
    }
    if !case.more.is_empty() {
        documents.push(case.more.clone());
    }
    documents.join("\n---\n")
}

fn located<T>(object: &Located<Object>, inner: &Arc<T>) -> Located<Arc<T>> {
    Located {
        object: Arc::clone(inner),
        origin: object.origin.clone(),
        lines: object.lines.clone(),
    }
}

fn take(object: &Located<Object>, world: &dyn World, outcome: &mut Outcome) {
    let name = object.object.key().name.to_string();
    let routes = match &object.object {
        Object::HttpRoute(inner) => gateway_api::http_route(&located(object, inner), world),
        Object::GrpcRoute(inner) => gateway_api::grpc_route(&located(object, inner), world),
        Object::TcpRoute(inner) => gateway_api::tcp_route(&located(object, inner), world),
        Object::TlsRoute(inner) => gateway_api::tls_route(&located(object, inner), world),
        Object::BackendTlsPolicy(inner) => {
            let translated = gateway_api::backend_tls_policy(&located(object, inner), world);
            return keep(name, translated, outcome);
        }
        Object::XBackendTrafficPolicy(inner) => {
            let translated = gateway_api::backend_traffic_policy(&located(object, inner), world);
            return keep(name, translated, outcome);
        }
        _ => return,
    };
    outcome
        .routes
        .extend(routes.resource.clone().unwrap_or_default());
    keep(name, routes, outcome);
}

fn keep<R>(name: String, translated: Translated<R>, outcome: &mut Outcome) {
    let parents = translated.parents.iter();
    let shown = parents.map(|parent| shown(&parent.conditions)).collect();
    outcome.statuses.insert(name, shown);
    outcome.problems.extend(translated.problems);
}

fn shown(conditions: &[RouteCondition]) -> String {
    let one = |condition: &RouteCondition| {
        let sign = if condition.status { "" } else { "!" };
        let usual = condition.status && condition.reason == condition.kind;
        let reason = if usual {
            String::new()
        } else {
            format!(":{}", condition.reason)
        };
        format!("{sign}{}{reason}", condition.kind)
    };
    conditions.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn statuses(case: &Case, outcome: &mut Outcome) {
    let mut want = case.statuses.clone();
    if case.spec.is_some() {
        let well = || vec!["Accepted ResolvedRefs ResolvedWaypoints".to_owned()];
        want.insert("r".to_owned(), case.status.clone().unwrap_or_else(well));
    }
    for (name, want) in want {
        let got = outcome.statuses.get(&name).cloned().unwrap_or_default();
        if got != want {
            outcome
                .wrong
                .push(format!("status of {name}: {got:?}, not {want:?}"));
        }
    }
}

fn problems(case: &Case, outcome: &mut Outcome) {
    let problems = &outcome.problems;
    let mut said: Vec<String> = problems
        .iter()
        .map(|p| format!("{} {}", p.code, p.field.as_deref().unwrap_or_default()))
        .collect();
    let mut want = case.problems.clone();
    said.sort();
    want.sort();
    if said != want {
        let full: Vec<_> = problems
            .iter()
            .map(|p| format!("\n    {} {p}", p.code))
            .collect();
        let text = format!("problems {said:?}, not {want:?}{}", full.concat());
        outcome.wrong.push(text);
    }
    for problem in problems {
        let own = problem.code.as_str() >= "AMB0350" && problem.code.as_str() <= "AMB0399";
        if own && (problem.remedy.is_none() || problem.key.is_none()) {
            outcome
                .wrong
                .push(format!("no remedy or object: {problem}"));
        }
    }
    for part in &case.says {
        if !problems
            .iter()
            .any(|problem| problem.to_string().contains(part))
        {
            outcome.wrong.push(format!("no problem says {part}"));
        }
    }
}

fn attached(case: &Case, outcome: &mut Outcome) {
    let Some(want) = &case.attached else {
        return;
    };
    let routes = outcome.routes.iter();
    let got: Vec<String> = routes
        .flat_map(|route| {
            route.parents.iter().map(|parent| {
                let clients = &route.consumer_namespace;
                let clients = if clients.is_empty() { "" } else { " for " }.to_owned() + clients;
                format!("{}:{}{clients}", short(&parent.frontend), parent.port)
            })
        })
        .collect();
    if got != *want {
        outcome
            .wrong
            .push(format!("attached to {got:?}, not {want:?}"));
    }
}

const BASE: &str = include_str!("fixtures/gateway_api/base.yaml");

macro_rules! tables {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            run(include_str!(concat!("fixtures/gateway_api/", stringify!($name), ".yaml")));
        }
    )*};
}

tables! { parents matches backends filters timing streams policies conformance }

/// `status.parents[].parentRef` is compared by equality: exactly what was
/// written, no field more, no field less (2.1, CLI contract 6.1).
#[test]
fn parent_refs_are_repeated_as_written() {
    for parent in [
        json!({"group": "", "kind": "Service", "name": "echo"}),
        json!({"group": "", "kind": "Service", "name": "echo", "namespace": "shop", "port": 80}),
        json!({"group": "", "kind": "Service", "name": "echo", "sectionName": "http"}),
        json!({"group": "networking.istio.io", "kind": "ServiceEntry", "name": "partner"}),
    ] {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "shop"},
            "spec": {"parentRefs": [parent], "rules": []},
        });
        let world = TestWorld::from_yaml(&format!("{BASE}\n---\n{route}"));
        let object = world.object_named(Kind::HttpRoute, "shop", "r");
        let Object::HttpRoute(inner) = &object.object else {
            panic!("not a route")
        };
        let translated = gateway_api::http_route(&located(&object, inner), &world);
        assert_eq!(translated.parents[0].parent_ref, parent);
    }
}

/// The tables together hold what the issue asks of this crate.
#[test]
fn cases_are_counted() {
    let tables = [
        include_str!("fixtures/gateway_api/parents.yaml"),
        include_str!("fixtures/gateway_api/matches.yaml"),
        include_str!("fixtures/gateway_api/backends.yaml"),
        include_str!("fixtures/gateway_api/filters.yaml"),
        include_str!("fixtures/gateway_api/timing.yaml"),
        include_str!("fixtures/gateway_api/streams.yaml"),
        include_str!("fixtures/gateway_api/policies.yaml"),
        include_str!("fixtures/gateway_api/conformance.yaml"),
    ];
    let count: usize = tables
        .iter()
        .map(|text| serde_saphyr::from_str::<Table>(text).unwrap().cases.len())
        .sum();
    assert!(count >= 110, "{count} cases");
}
