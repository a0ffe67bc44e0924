use ambit_cluster::connect;
use ambit_compile::{Compiler, Settings};
use ambit_kube::Object;
use ambit_telemetry::Metrics;
use ambit_testkit::apiserver::{ApiServer, Trouble, is_write};

use super::*;

const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: wp}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: istio-waypoint, generation: 1}
spec: {controllerName: istio.io/mesh-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop, uid: uid-gw, generation: 1}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop, generation: 1}
spec: {clusterIP: 10.2.0.1, ports: [{port: 80}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop, generation: 1}
spec: {rules: [{}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop, generation: 1}
spec:
  parentRefs: [{kind: Service, group: '', name: cart, port: 80}]
  rules: [{backendRefs: [{name: cart, port: 80}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e, namespace: shop, generation: 1, creationTimestamp: 2026-01-01T00:00:00Z}
spec: {hosts: [a.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
";
const SHOP: &str = "/namespaces/shop";

fn changes(text: &str) -> Vec<Change> {
    let loaded = ambit_kube::read_manifest("w.yaml", text);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    loaded.objects.into_iter().map(Change::Apply).collect()
}

/// The objects as the API server has them.
fn fill(api: &ApiServer, text: &str) {
    for change in changes(text) {
        let Change::Apply(located) = change else {
            continue;
        };
        let key = located.object.key();
        let (group, version) = match key.kind.group() {
            "" => ("/api".to_owned(), "v1"),
            group => (format!("/apis/{group}"), "v1"),
        };
        let plural = match key.kind {
            Kind::GatewayClass => "gatewayclasses".to_owned(),
            Kind::AuthorizationPolicy => "authorizationpolicies".to_owned(),
            Kind::ServiceEntry => "serviceentries".to_owned(),
            kind => format!("{}s", kind.as_str().to_lowercase()),
        };
        let place = match &*key.namespace {
            "" => String::new(),
            namespace => format!("/namespaces/{namespace}"),
        };
        let mut object = json!({
            "kind": key.kind.as_str(),
            "apiVersion": located.object.kind().group().to_owned() + "/v1",
            "metadata": {"name": &*key.name, "namespace": &*key.namespace},
        });
        if let Object::Gateway(gateway) = &located.object {
            object["spec"] = serde_json::to_value(&gateway.spec).unwrap();
        }
        api.put(
            &format!("{group}/{version}{place}/{plural}/{}", key.name),
            object,
        );
    }
}

struct Replica {
    scope: Scope,
    stop: CancellationToken,
    writers: Writers,
}

impl Replica {
    async fn new(api: &ApiServer, identity: &str, revision: &str, text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("config");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": api.url()}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let client = connect(Some(&kubeconfig)).await.unwrap().client;
        let (scope, stop) = (Scope::new("replica"), CancellationToken::new());
        let waypoints = Waypoints::default();
        let writers = Writers::new(Setting {
            client,
            namespace: "istio-system".to_owned(),
            identity: identity.to_owned(),
            revision: revision.to_owned(),
            elections: true,
            timing: Timing {
                term: Duration::from_secs(1),
                renew_deadline: Duration::from_millis(700),
                retry: Duration::from_millis(200),
            },
            statuses: true,
            ranges: Some((
                "240.240.0.0/16".parse().unwrap(),
                "2001:2::/48".parse().unwrap(),
            )),
            waypoints: waypoints.clone(),
            metrics: Arc::new(WriteMetrics::register(&mut Metrics::new())),
            scope: scope.clone(),
            stop: stop.clone(),
        });
        let mut compiler = Compiler::new(Settings {
            revision: revision.into(),
            ..Settings::default()
        });
        let changes = changes(text);
        writers.learn(&changes);
        let delta = compiler.apply(changes);
        waypoints.learn(&delta.rendered);
        writers.compiled(&delta.statuses, &delta.rendered);
        writers.start();
        Self {
            scope,
            stop,
            writers,
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.scope.finish(Duration::from_secs(5)).await;
    }
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let holds = async || {
        is().then_some(())
            .ok_or_else(|| anyhow::Error::msg("not yet"))
    };
    ambit_testkit::eventually(what, holds).await.unwrap();
}

fn has(api: &ApiServer, path: &str, pointer: &str, value: &Value) -> bool {
    let object = api.get(path);
    object.is_some_and(|object| object.pointer(pointer) == Some(value))
}

fn path(group: &str, rest: &str) -> String {
    format!("{group}{SHOP}/{rest}")
}

/// Everything that follows from the mesh is written.
async fn all_is_written(api: &ApiServer) {
    let (core, gateways) = ("/api/v1", "/apis/gateway.networking.k8s.io/v1");
    for (at, pointer, value) in [
        (
            path("/apis/apps/v1", "deployments/wp"),
            "/metadata/ownerReferences/0/uid",
            json!("uid-gw"),
        ),
        (path(core, "services/wp"), "/spec/type", json!("ClusterIP")),
        (
            path(core, "serviceaccounts/wp"),
            "/metadata/name",
            json!("wp"),
        ),
        (
            path(core, "services/cart"),
            "/status/conditions/0/reason",
            json!("WaypointIsNotReady"),
        ),
        (
            path(gateways, "gateways/wp"),
            "/status/listeners/0/name",
            json!("mesh"),
        ),
        (
            path(gateways, "httproutes/r"),
            "/status/parents/0/controllerName",
            json!("istio.io/gateway-controller"),
        ),
        (
            path("/apis/security.istio.io/v1", "authorizationpolicies/p"),
            "/status/conditions/0/type",
            json!("ZtunnelAccepted"),
        ),
        (
            path("/apis/networking.istio.io/v1", "serviceentries/e"),
            "/status/addresses/1/value",
            json!("2001:2::1"),
        ),
        (
            format!("{gateways}/gatewayclasses/ambit-waypoint"),
            "/spec/controllerName",
            json!("istio.io/mesh-controller"),
        ),
        (
            format!("{gateways}/gatewayclasses/istio-waypoint"),
            "/status/conditions/0/type",
            json!("Accepted"),
        ),
    ] {
        until(&format!("{at} has {value} at {pointer}"), || {
            has(api, &at, pointer, &value)
        })
        .await;
    }
}

#[tokio::test]
async fn everything_is_written_and_nothing_twice() {
    let api = ApiServer::start().await.unwrap();
    fill(&api, MESH);
    let one = Replica::new(&api, "one", "default", MESH).await;
    all_is_written(&api).await;
    let version = |api: &ApiServer| {
        let paths = api.paths().into_iter();
        let other = paths.filter(|path| !path.contains("/leases/"));
        let versions =
            other.map(|path| api.get(&path).unwrap()["metadata"]["resourceVersion"].clone());
        versions.collect::<Vec<_>>()
    };
    // The last writes come to an end.
    let mut before = version(&api);
    until("it is quiet", || {
        let now = version(&api);
        std::mem::replace(&mut before, now.clone()) == now
    })
    .await;
    one.end().await;
    // A second one finds everything as it should be.
    api.take_served();
    let two = Replica::new(&api, "two", "default", MESH).await;
    until("it has looked at all", || {
        let served = api.served();
        let seen = |what: &str| served.iter().any(|one| one.path.ends_with(what));
        seen("deployments/wp") && seen("xbackendtrafficpolicies") && seen("requestauthentications")
    })
    .await;
    two.end().await;
    let served = api.served().into_iter();
    let wrote = served.filter(|one| one.verb == "PATCH" || one.path.ends_with("/status"));
    assert_eq!(
        wrote.map(|one| one.path).collect::<Vec<_>>(),
        Vec::<String>::new()
    );
    assert_eq!(version(&api), before);
}

#[tokio::test]
async fn who_takes_over_does_what_the_other_could_not() {
    let api = ApiServer::start().await.unwrap();
    fill(&api, MESH);
    api.trouble(|verb, path| {
        let of_leases = path.contains("/leases");
        (!of_leases && is_write(verb)).then_some(Trouble::Refuse(500))
    });
    let one = Replica::new(&api, "one", "default", MESH).await;
    let two = Replica::new(&api, "two", "default", MESH).await;
    let tried = || {
        api.served()
            .iter()
            .any(|one| one.verb == "APPLY" && one.code == 500)
    };
    until("somebody tries", tried).await;
    // The one that leads dies without a word, whichever it is.
    let leases = "/apis/coordination.k8s.io/v1/namespaces/istio-system/leases/";
    let lease = api
        .get(&format!("{leases}istio-gateway-deployment-default"))
        .unwrap();
    let (dead, alive) = match lease["spec"]["holderIdentity"].as_str().unwrap() {
        "one" => (one, two),
        _ => (two, one),
    };
    dead.scope.cancel();
    api.calm();
    all_is_written(&api).await;
    alive.end().await;
}

#[tokio::test]
async fn side_by_side_each_touches_only_its_own() {
    let api = ApiServer::start().await.unwrap();
    let marked = MESH.replace(
        "name: wp, namespace: shop,",
        "name: wp, namespace: shop, labels: {istio.io/rev: canary},",
    );
    fill(&api, &marked);
    // Upstream, or another of ours: the default.
    let default = Replica::new(&api, "default", "default", &marked).await;
    let at = path("/apis/gateway.networking.k8s.io/v1", "httproutes/r");
    let written = json!("istio.io/gateway-controller");
    until("routes are the default's", || {
        has(&api, &at, "/status/parents/0/controllerName", &written)
    })
    .await;
    let policy = path("/apis/security.istio.io/v1", "authorizationpolicies/p");
    until("policies are anybody's", || {
        has(&api, &policy, "/status/conditions/0/status", &json!("True"))
    })
    .await;
    let of_gateway = || {
        let served = api.served();
        let touched = served
            .iter()
            .filter(|one| is_write(&one.verb) && one.path.contains("/wp"));
        touched.count()
    };
    assert_eq!(of_gateway(), 0);
    let canary = Replica::new(&api, "canary", "canary", &marked).await;
    let deployment = path("/apis/apps/v1", "deployments/wp");
    until("it is the canary's", || api.get(&deployment).is_some()).await;
    // The label goes: now it is the default's to say.
    let unmarked = changes(MESH);
    canary.writers.learn(&unmarked);
    default.writers.learn(&unmarked);
    let gateway = path("/apis/gateway.networking.k8s.io/v1", "gateways/wp");
    until("it has a status", || {
        has(&api, &gateway, "/status/listeners/0/name", &json!("mesh"))
    })
    .await;
    default.end().await;
    canary.end().await;
}
