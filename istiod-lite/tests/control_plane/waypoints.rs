use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_channel::TokenSource;
use ambit_proto::ADDRESS_TYPE;
use ambit_proto::waypoint::{FRONTEND_TYPE, GATEWAY_TYPE, ROUTE_TYPE, TYPES};
use ambit_runtime::Readiness;
use ambit_testkit::token::Subject;
use ambit_xds::{ClientConfig, Metadata, NoMetrics, Node, TypeSub, run_client};

use crate::harness::{Mesh, View, eventually};

/// A namespace behind a waypoint of its own, with the pod that is it.
fn behind(mesh: &Mesh, namespace: &str, gateway: &str, ip: u8) {
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{istio.io/use-waypoint: {gateway}}}}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {gateway}, namespace: {namespace}}}\n\
         spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: {gateway}, namespace: {namespace}}}\n\
         spec: {{clusterIP: 10.96.0.{ip}, selector: {{gateway.networking.k8s.io/gateway-name: {gateway}}}, ports: [{{name: mesh, port: 15008}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: app, namespace: {namespace}}}\n\
         spec: {{clusterIP: 10.96.1.{ip}, selector: {{app: app}}, ports: [{{name: http, port: 80, appProtocol: http}}]}}\n---\n\
         apiVersion: v1\nkind: Pod\n\
         metadata: {{name: {gateway}-1, namespace: {namespace}, uid: uid-{gateway}-1, labels: {{gateway.networking.k8s.io/gateway-name: {gateway}}}}}\n\
         spec: {{nodeName: n1, serviceAccountName: {gateway}, containers: [{{name: c, image: c}}]}}\n\
         status: {{phase: Running, podIP: 10.0.200.{ip}, podIPs: [{{ip: 10.0.200.{ip}}}], conditions: [{{type: Ready, status: 'True'}}]}}\n"
    );
    mesh.write(&format!("behind-{namespace}.yaml"), &text);
}

/// A route of `shop/app` that sets a header to this value.
fn route(name: &str, value: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: app, port: 80}}]\n  rules:\n  - matches: [{{path: {{value: /{name}}}}}]\n    \
         filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-v, value: {value}}}]}}}}]\n    \
         backendRefs: [{{name: app, port: 80}}]\n"
    )
}

const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\n\
     spec: {targetRefs: [{group: '', kind: Service, name: app}], rules: [{}]}\n---\n\
     apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: t, namespace: shop}\n\
     spec: {targetRefs: [{group: '', kind: Service, name: app}], jwtRules: [{issuer: 'https://i.test', jwks: '{\"keys\": []}'}]}\n";

/// Follows types as a pod of a waypoint does.
fn follow(mesh: &Mesh, namespace: &str, gateway: &str, types: &[&str]) -> (View, Readiness) {
    let pod = format!("{gateway}-1");
    let uid = format!("uid-{pod}");
    let token = mesh.issuer.token(&Subject {
        namespace,
        service_account: gateway,
        pod: &pod,
        pod_uid: &uid,
        node: "n1",
    });
    let view = View::default();
    let readiness = Readiness::new();
    let cfg = ClientConfig {
        node: Node {
            id: format!("waypoint~10.0.0.1~{pod}.{namespace}~{namespace}.svc.cluster.local"),
            metadata: Some(Metadata::new().string("NAMESPACE", namespace).into_struct()),
            ..Node::default()
        },
        types: types.iter().map(|t| TypeSub::wildcard(*t)).collect(),
        demand: None,
    };
    let scope = mesh.scope.child("waypoint");
    let client = run_client(
        mesh.channel(TokenSource::Literal(token.unwrap())),
        cfg,
        Box::new(view.clone()),
        readiness.register("xds"),
        Arc::new(NoMetrics),
        scope.token(),
    );
    scope.spawn("client", client);
    (view, readiness)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waypoint_reads_its_own_and_one_change_is_one_resource() {
    let mesh = Mesh::prepare(&[]);
    behind(&mesh, "shop", "wp", 1);
    behind(&mesh, "bank", "gate", 2);
    mesh.write("route.yaml", &route("r", "one"));
    let mesh = mesh.started().await;
    let (shop, ready) = follow(&mesh, "shop", "wp", &TYPES);
    let (bank, bank_ready) = follow(&mesh, "bank", "gate", &TYPES);
    let (nosy, nosy_ready) = follow(&mesh, "shop", "wp", &[ADDRESS_TYPE]);
    eventually("both have theirs", || {
        ready.is_ready() && bank_ready.is_ready()
    })
    .await;
    assert_eq!(shop.names(GATEWAY_TYPE).len(), 1);
    assert_eq!(bank.names(GATEWAY_TYPE).len(), 1);
    assert_ne!(shop.names(GATEWAY_TYPE), bank.names(GATEWAY_TYPE));
    let frontends = shop.names(FRONTEND_TYPE);
    assert!(
        frontends.iter().any(|n| n.contains("app.shop")),
        "{frontends:?}"
    );
    assert!(
        !frontends.iter().any(|n| n.contains("bank")),
        "{frontends:?}"
    );
    assert_eq!(shop.names(ROUTE_TYPE).len(), 1);
    assert!(bank.names(ROUTE_TYPE).is_empty());

    for view in [&shop, &bank] {
        view.take_log();
    }
    mesh.write("route.yaml", &route("r", "two"));
    let mut log = Vec::new();
    eventually("the edit", || {
        log.extend(shop.take_log());
        !log.is_empty()
    })
    .await;
    assert_eq!(log, shop.names(ROUTE_TYPE));
    std::fs::remove_file(mesh.manifest("route.yaml")).unwrap();
    eventually("the route is gone", || shop.names(ROUTE_TYPE).is_empty()).await;
    assert!(bank.take_log().is_empty(), "nothing of shop's");
    assert!(nosy.names(ADDRESS_TYPE).is_empty() && !nosy_ready.is_ready());
    let (_, streams) = mesh.get("/debug/syncz").await;
    assert!(streams.contains(r#""waypoint": "shop/wp""#), "{streams}");
    let (_, waypoints) = mesh.get("/debug/waypoints").await;
    for told in ["\"gateway\": \"shop/wp\"", "\"gateway\": \"bank/gate\""] {
        assert!(waypoints.contains(told), "{waypoints}");
    }
}

/// Every type has versions, so that a new control plane sends what it has otherwise, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_sends_a_waypoint_nothing_that_it_holds() {
    let mesh = Mesh::prepare(&[]);
    behind(&mesh, "shop", "wp", 1);
    mesh.write("policy.yaml", POLICY);
    mesh.write("same.yaml", &route("same", "one"));
    mesh.write("other.yaml", &route("other", "one"));
    let mut mesh = mesh.started().await;
    let port = mesh.secure().port();
    let (shop, ready) = follow(&mesh, "shop", "wp", &TYPES);
    eventually("the waypoint has everything", || ready.is_ready()).await;
    let empty: Vec<_> = TYPES
        .iter()
        .filter(|of| shop.names(of).is_empty())
        .collect();
    assert!(
        empty.len() <= 2,
        "a mesh of few types proves little: {empty:?}"
    );
    let names = shop.names(ROUTE_TYPE);
    let named = names.iter().find(|name| name.contains("/other")).unwrap();
    shop.take_log();
    mesh.stop().await;
    mesh.write("other.yaml", &route("other", "two"));
    let before = shop.version(ROUTE_TYPE, named);
    mesh.relaunch_at(port).await;
    eventually("what changed meanwhile", || {
        shop.version(ROUTE_TYPE, named) != before
    })
    .await;
    assert_eq!(shop.take_log(), std::slice::from_ref(named));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nack_is_counted_by_the_object_that_it_names_and_the_rest_goes_on() {
    let mesh = Mesh::prepare(&[]);
    behind(&mesh, "shop", "wp", 1);
    mesh.write("bad.yaml", &route("bad", "one"));
    mesh.write("good.yaml", &route("good", "one"));
    let mesh = mesh.started().await;
    let (shop, ready) = follow(&mesh, "shop", "wp", &TYPES);
    eventually("the waypoint has everything", || ready.is_ready()).await;
    let names = shop.names(ROUTE_TYPE);
    let named = |part: &str| names.iter().find(|name| name.contains(part)).unwrap();
    let (bad, good) = (named("/bad"), named("/good"));
    assert!(bad.contains("HTTPRoute/shop/bad"), "{bad}");
    let held = shop.version(ROUTE_TYPE, bad);

    shop.refuse("/bad");
    shop.take_log();
    mesh.write("bad.yaml", &route("bad", "two"));
    let mut seen = 0.0;
    for _ in 0..500 {
        seen = mesh.metric("ambit_xds_rejected_resources", bad).await;
        if seen > 0.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(seen >= 1.0, "no rejection of {bad} is counted");
    assert!(mesh.metric("pilot_total_xds_rejects", "").await >= 1.0);
    assert_eq!(shop.version(ROUTE_TYPE, bad), held, "the last good stays");
    let (_, streams) = mesh.get("/debug/syncz").await;
    assert!(
        streams.contains(&format!("{bad}: rules[0]: not for this test")),
        "{streams}"
    );
    // The stream lives on: what is good still comes.
    mesh.write("good.yaml", &route("good", "two"));
    eventually("the other's edit", || shop.take_log().contains(good)).await;
}

/// From the file to the client of a waypoint, among 5,000 routes; by hand, in
/// release: `cargo test --release -p istiod-lite -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr, reason = "a measurement")]
async fn from_a_file_to_a_waypoint() {
    let mesh = Mesh::prepare(&[]);
    behind(&mesh, "shop", "wp", 1);
    for n in 0..5000 {
        mesh.write(&format!("route-{n}.yaml"), &route(&format!("r{n}"), "0"));
    }
    let mesh = mesh.started().await;
    let (view, ready) = follow(&mesh, "shop", "wp", &TYPES);
    eventually("everything", || ready.is_ready()).await;
    let mut times = Vec::new();
    for round in 1..=200 {
        let n = round * 23 % 5000;
        tokio::time::sleep(Duration::from_millis(100)).await;
        view.take_log();
        let text = route(&format!("r{n}"), &round.to_string());
        let began = Instant::now();
        mesh.write(&format!("route-{n}.yaml"), &text);
        while view.take_log().is_empty() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100];
    eprintln!(
        "p50 {:?} p90 {:?} p99 {:?} max {:?}",
        at(50),
        at(90),
        at(99),
        times.last()
    );
}
