//! Waypoints: what they are told, what a change costs, and who is bound to them.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeSet;

use ambit_compile::{Compiler, Delta, Settings, Snapshot};
use ambit_kube::{Change, Kind, ObjectKey, read_manifest};
use ambit_proto::waypoint::{self as pb, TYPES};
use ambit_proto::workload;
use prost::Message;

const MESH: &str = r"
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: wp}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: shop}, spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: shop, labels: {gateway.istio.io/managed: istio.io-mesh-controller}}, spec: {clusterIP: 10.2.0.9, selector: {gateway.networking.k8s.io/gateway-name: wp}, ports: [{name: mesh, port: 15008, appProtocol: hbone}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: wp-1, namespace: shop, uid: u9, labels: {gateway.networking.k8s.io/gateway-name: wp}}, spec: {nodeName: n1, serviceAccountName: wp, containers: [{name: c}]}, status: {phase: Running, podIP: 10.1.0.9, conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.2.0.1, selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.2.0.2, selector: {app: web}, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: cart-v2, namespace: other}, spec: {clusterIP: 10.2.0.3, selector: {app: cart}, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop, uid: u1, labels: {app: cart}}, spec: {nodeName: n1, serviceAccountName: cart, containers: [{name: c}]}, status: {phase: Running, podIP: 10.1.0.1, conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, uid: u2, labels: {app: web}}, spec: {nodeName: n2, containers: [{name: c}]}, status: {phase: Running, podIP: 10.1.0.2}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: shop, namespace: other}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: cart, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: cart, port: 80, weight: 90}, {name: cart-v2, namespace: other, port: 80, weight: 10}]}]}}
";

fn apply(compiler: &mut Compiler, text: &str) -> Delta {
    let loaded = read_manifest("mesh.yaml", text);
    assert_eq!(loaded.problems, []);
    compiler.apply(loaded.objects.into_iter().map(Change::Apply))
}

fn mesh() -> Compiler {
    let mut compiler = Compiler::new(Settings::default());
    apply(&mut compiler, MESH);
    compiler
}

/// Everything of one type: names and audiences.
fn told(snapshot: &Snapshot, type_url: &str) -> Vec<String> {
    let at = TYPES.iter().position(|known| *known == type_url).unwrap();
    let resources = snapshot.waypoint[at].iter();
    resources
        .map(|resource| format!("{} -> {}", resource.name, resource.audience.join(",")))
        .collect()
}

fn body<M: Message + Default>(snapshot: &Snapshot, type_url: &str, name: &str) -> M {
    let at = TYPES.iter().position(|known| *known == type_url).unwrap();
    let mut resources = snapshot.waypoint[at].iter();
    let found = resources.find(|resource| &*resource.name == name).unwrap();
    M::decode(found.body.clone()).unwrap()
}

/// What a delta has of waypoint configuration: `+Type name`, `-Type name`.
fn changed(delta: &Delta) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (type_url, changes) in delta.waypoint.iter() {
        let kind = type_url.rsplit('.').next().unwrap();
        let changed = changes.changed.iter();
        names.extend(changed.map(|resource| format!("+{kind} {}", resource.name)));
        let removed = changes.removed.iter();
        names.extend(removed.map(|name| format!("-{kind} {name}")));
    }
    names
}

fn service(snapshot: &Snapshot, name: &str) -> workload::Service {
    let mut addresses = snapshot.addresses.iter();
    let found = addresses.find(|address| &*address.name == name).unwrap();
    let message = workload::Address::decode(found.body.clone()).unwrap();
    match message.r#type.unwrap() {
        workload::address::Type::Service(service) => service,
        workload::address::Type::Workload(_) => panic!("{name} is a workload"),
    }
}

fn waypoint_of(snapshot: &Snapshot, name: &str) -> String {
    use workload::gateway_address::Destination;
    let message = service(snapshot, name);
    match message.waypoint.and_then(|waypoint| waypoint.destination) {
        Some(Destination::Hostname(name)) => format!("{}/{}", name.namespace, name.hostname),
        Some(Destination::Address(address)) => format!("{:?}", address.address),
        None => "none".to_owned(),
    }
}

const CART: &str = "shop/cart.shop.svc.cluster.local";

#[test]
fn a_waypoint_is_told_of_its_services_and_of_what_their_routes_need() {
    let snapshot = mesh().snapshot();
    assert_eq!(told(&snapshot, pb::GATEWAY_TYPE), ["shop/wp -> shop/wp"]);
    assert_eq!(
        told(&snapshot, pb::FRONTEND_TYPE),
        [
            "shop/cart.shop.svc.cluster.local -> shop/wp",
            "shop/web.shop.svc.cluster.local -> shop/wp",
        ]
    );
    assert_eq!(
        told(&snapshot, pb::ROUTE_TYPE),
        ["HTTPRoute/shop/cart -> shop/wp"]
    );
    // The backend in another namespace is there because the route names it.
    assert_eq!(
        told(&snapshot, pb::BACKEND_TYPE),
        [
            "other/cart-v2.other.svc.cluster.local@shop -> shop/wp",
            "shop/cart.shop.svc.cluster.local@shop -> shop/wp",
            "shop/web.shop.svc.cluster.local@shop -> shop/wp",
        ]
    );
    let frontend: pb::Frontend = body(&snapshot, pb::FRONTEND_TYPE, CART);
    assert_eq!(frontend.addresses[0].address, [10, 2, 0, 1]);
    assert_eq!(frontend.ports[0].protocol(), pb::Protocol::Http);
    let endpoints: pb::Endpoints = body(&snapshot, pb::ENDPOINTS_TYPE, CART);
    assert_eq!(endpoints.endpoints.len(), 1);
    let endpoint = &endpoints.endpoints[0];
    assert_eq!(endpoint.addresses, [vec![10, 1, 0, 1]]);
    assert_eq!(
        (endpoint.ports[0].service, endpoint.ports[0].target),
        (80, 8080)
    );
    assert_eq!(endpoint.labels[0].value, "cart");
    // The waypoint's own service doesn't get it (contract 13, 23).
    assert_eq!(
        waypoint_of(&snapshot, CART),
        "shop/wp.shop.svc.cluster.local"
    );
    let own = "shop/wp.shop.svc.cluster.local";
    assert_eq!(waypoint_of(&snapshot, own), "none");
}

#[test]
fn one_change_costs_one_resource() {
    let mut compiler = mesh();
    let route = MESH.split("---").last().unwrap();
    let delta = apply(&mut compiler, &route.replace("weight: 90", "weight: 50"));
    assert_eq!(
        changed(&delta),
        ["+Route HTTPRoute/shop/cart".to_owned()].into()
    );
    let delta = apply(&mut compiler, &route.replace("weight: 90", "weight: 50"));
    assert!(delta.is_empty());
    // A pod: its workload, and the endpoints that it is one of.
    let pod = MESH.split("---").nth(7).unwrap();
    let delta = apply(&mut compiler, &pod.replace("'True'", "'False'"));
    assert_eq!(changed(&delta), [format!("+Endpoints {CART}")].into());
    let delta = apply(
        &mut compiler,
        &pod.replace("app: cart", "app: cart, version: v1"),
    );
    assert_eq!(changed(&delta), [format!("+Endpoints {CART}")].into());
    // Without the route, nobody needs the other backend.
    let key = ObjectKey::new(Kind::HttpRoute, "shop", "cart");
    let delta = compiler.apply([Change::Delete(key)]);
    let other = "other/cart-v2.other.svc.cluster.local";
    assert_eq!(
        changed(&delta),
        [
            format!("-Backend {other}@shop"),
            format!("-Endpoints {other}"),
            "-Route HTTPRoute/shop/cart".to_owned(),
        ]
        .into()
    );
}

#[test]
fn with_an_accounts_waypoint_a_pods_address_stands_for_its_services() {
    let mut compiler = Compiler::new(Settings::default());
    let text = MESH
        .replace("{istio.io/use-waypoint: wp}", "{}")
        .replace("metadata: {name: wp, namespace: shop}, spec: {gatewayClassName", "metadata: {name: wp, namespace: shop, annotations: {istio.io/for-service-account: cart}}, spec: {gatewayClassName");
    apply(&mut compiler, &text);
    let snapshot = compiler.snapshot();
    let pod: pb::Workload = body(&snapshot, pb::POD_TYPE, "Kubernetes//Pod/shop/cart");
    let port = &pod.ports[0];
    assert_eq!(
        (port.port, &*port.frontend, port.service_port),
        (8080, CART, 80)
    );
    assert_eq!(
        waypoint_of(&snapshot, CART),
        "shop/wp.shop.svc.cluster.local"
    );
    // Another account's service isn't bound, but what the route needs is there.
    assert_eq!(
        waypoint_of(&snapshot, "shop/web.shop.svc.cluster.local"),
        "none"
    );
    assert_eq!(
        told(&snapshot, pb::FRONTEND_TYPE),
        [format!("{CART} -> shop/wp")]
    );
}

#[test]
fn what_runs_for_a_gateway() {
    let mut compiler = mesh();
    let rendered = compiler.rendered()["shop/wp"].clone();
    assert_eq!(rendered.service.metadata.name.as_deref(), Some("wp"));
    let labels = rendered.deployment.metadata.labels.as_ref().unwrap();
    assert_eq!(
        labels["gateway.istio.io/managed"],
        "istio.io-mesh-controller"
    );
    let template = &rendered.deployment.spec.as_ref().unwrap().template;
    let pod = template.metadata.as_ref().unwrap().labels.as_ref().unwrap();
    for (key, value) in [
        ("gateway.networking.k8s.io/gateway-name", "wp"),
        (
            "gateway.networking.k8s.io/gateway-class-name",
            "ambit-waypoint",
        ),
        ("istio.io/dataplane-mode", "none"),
        ("sidecar.istio.io/inject", "false"),
        ("service.istio.io/canonical-name", "wp"),
    ] {
        assert_eq!(pod[key], value, "{key}");
    }
    let spec = rendered.service.spec.as_ref().unwrap();
    let ports = spec.ports.as_ref().unwrap();
    let ports: Vec<_> = ports
        .iter()
        .map(|port| {
            (
                port.name.as_deref().unwrap(),
                port.port,
                port.app_protocol.as_deref().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        ports,
        [("status-port", 15021, "tcp"), ("mesh", 15008, "hbone")]
    );
    // Its pods are known for whose they are, by label or by account.
    assert_eq!(
        compiler.waypoint_of_pod("shop", "wp-1").as_deref(),
        Some("shop/wp")
    );
    assert_eq!(compiler.waypoint_of_pod("shop", "cart"), None);
    assert_eq!(
        compiler.waypoint_of_account("shop", "wp").as_deref(),
        Some("shop/wp")
    );
    let gone = compiler.apply([Change::Delete(ObjectKey::new(Kind::Gateway, "shop", "wp"))]);
    assert_eq!(gone.rendered["shop/wp"], None);
    let snapshot = compiler.snapshot();
    assert!(snapshot.waypoint.iter().all(Vec::is_empty));
    assert_eq!(
        waypoint_of(&snapshot, CART),
        "shop/wp.shop.missing.waypoint.invalid"
    );
}

#[test]
fn routes_have_a_status_for_each_parent() {
    let compiler = mesh();
    let key = ObjectKey::new(Kind::HttpRoute, "shop", "cart");
    let status = serde_json::to_value(&compiler.statuses()[&key]).unwrap();
    let parent = &status["parents"][0];
    assert_eq!(parent["parentRef"]["name"], "cart");
    assert_eq!(parent["controllerName"], "istio.io/gateway-controller");
    let conditions = parent["conditions"].as_array().unwrap();
    let accepted = conditions
        .iter()
        .find(|of| of["type"] == "Accepted")
        .unwrap();
    assert_eq!(accepted["status"], "True");
}

/// 5,000 routes, each for a service of its own, with all kinds of what else there may be in the namespace.
#[test]
fn among_thousands_of_routes_a_change_of_one_costs_one() {
    const ROUTES: usize = 5_000;
    let mut compiler = mesh();
    let route = |at: usize, weight: usize| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r{at}, namespace: shop}}, spec: {{parentRefs: [{{group: '', kind: Service, name: s{at}}}], rules: [{{matches: [{{path: {{type: PathPrefix, value: /a}}}}], backendRefs: [{{name: cart, port: 80, weight: {weight}}}, {{name: web, port: 80, weight: 1}}]}}]}}}}"
        )
    };
    let service = |at: usize| {
        let (high, low) = (at / 250, at % 250);
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s{at}, namespace: shop}}, spec: {{clusterIP: 10.3.{high}.{low}, ports: [{{name: http, port: 80}}]}}}}"
        )
    };
    let documents: Vec<_> = (0..ROUTES)
        .flat_map(|at| [service(at), route(at, 1)])
        .collect();
    let loaded = read_manifest("routes.yaml", &documents.join("\n---\n"));
    assert_eq!(loaded.problems, []);
    compiler.apply(loaded.objects.into_iter().map(Change::Apply));
    let snapshot = compiler.snapshot();
    assert_eq!(told(&snapshot, pb::ROUTE_TYPE).len(), ROUTES + 1);

    let before = compiler.derivations();
    let delta = apply(&mut compiler, &route(4_321, 9));
    assert_eq!(
        changed(&delta),
        ["+Route HTTPRoute/shop/r4321".to_owned()].into()
    );
    assert_eq!(compiler.derivations() - before, 1);

    // A pod of a service that all routes send to: itself, its endpoints, and what is said of its service.
    let before = compiler.derivations();
    let pod = MESH.split("---").nth(7).unwrap();
    let delta = apply(&mut compiler, &pod.replace("'True'", "'False'"));
    assert_eq!(changed(&delta), [format!("+Endpoints {CART}")].into());
    assert!(compiler.derivations() - before <= 3);

    // A policy on one service guards that one.
    let before = compiler.derivations();
    let policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {targetRefs: [{group: '', kind: Service, name: cart}], action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}}";
    let delta = apply(&mut compiler, policy);
    assert_eq!(
        changed(&delta),
        ["+Authorization AuthorizationPolicy/shop/p".to_owned()].into()
    );
    let cost = compiler.derivations() - before;
    assert!(cost < 20, "{cost}");
}

/// 5,000 routes on one service: neither a change of one, nor a route of a kind that goes before on another port, looks
/// at the others.
#[test]
fn among_thousands_of_routes_on_one_service_a_change_of_one_costs_one() {
    const ROUTES: usize = 5_000;
    let mut compiler = mesh();
    let service = "{apiVersion: v1, kind: Service, metadata: {name: api, namespace: shop}, spec: {clusterIP: 10.2.0.8, ports: [{name: http, port: 80}, {name: grpc, port: 90}, {name: tcp, port: 100}]}}";
    let route = |kind: &str, name: &str, port: u16, weight: usize| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: shop}}, spec: {{parentRefs: [{{group: '', kind: Service, name: api, port: {port}}}], rules: [{{backendRefs: [{{name: cart, port: 80, weight: {weight}}}, {{name: web, port: 80, weight: 1}}]}}]}}}}"
        )
    };
    let tcp = route("TCPRoute", "t", 100, 1).replace("/v1,", "/v1alpha2,");
    let mut documents = vec![service.to_owned(), tcp];
    documents.extend((0..ROUTES).map(|at| route("HTTPRoute", &format!("r{at:04}"), 80, 1)));
    let loaded = read_manifest("routes.yaml", &documents.join("\n---\n"));
    assert_eq!(loaded.problems, []);
    compiler.apply(loaded.objects.into_iter().map(Change::Apply));

    let mut cost = |text: &str| {
        let before = compiler.derivations();
        let delta = apply(&mut compiler, text);
        (compiler.derivations() - before, changed(&delta))
    };
    let only = |name: &str| BTreeSet::from([format!("+Route {name}")]);
    let (derived, told) = cost(&route("HTTPRoute", "r4321", 80, 9));
    assert_eq!((derived, told), (1, only("HTTPRoute/shop/r4321")));
    // One more: itself, and the two services that one more route uses.
    let (derived, told) = cost(&route("HTTPRoute", "r9999", 80, 1));
    assert_eq!(told, only("HTTPRoute/shop/r9999"));
    assert!(derived <= 5, "{derived}");
    // The first of a kind that goes before may take the port from all: each is looked at, and none differs.
    let (_, told) = cost(&route("GRPCRoute", "g1", 90, 1));
    assert_eq!(told, only("GRPCRoute/shop/g1"));
    // After that, nobody but itself.
    for (name, weight) in [("g1", 2), ("g2", 1)] {
        let (derived, told) = cost(&route("GRPCRoute", name, 90, weight));
        assert_eq!(told, only(&format!("GRPCRoute/shop/{name}")));
        assert!(derived <= 5, "{derived}");
    }
}
