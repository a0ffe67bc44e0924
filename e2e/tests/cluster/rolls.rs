//! Whatever of the mesh is replaced, joined or left under load, no request fails
//! (`docs/rolls.md`). One cluster for all of it: what comes later stands on what
//! came before.

mod load;

use std::time::Duration;

use ambit_e2e::kube::Api;
use ambit_e2e::programs;
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use self::load::Rolls;
use crate::world::World;

const CLIENT: &str = "rolls-client";
const BACKEND: &str = "rolls";
const SYSTEM: &str = "istio-system";

#[tokio::test]
async fn no_request_fails_whatever_is_rolled() {
    let world = World::ambit().await.unwrap();
    let api = &world.api;
    let file = programs::scenarios().join("cluster/rolls.yaml");
    api.apply(&std::fs::read_to_string(file).unwrap())
        .await
        .unwrap();
    for (namespace, name) in [(BACKEND, "backend"), (CLIENT, "load")] {
        api.wait_rolled_out("Deployment", namespace, name, BOUND)
            .await
            .unwrap();
    }
    let mut rolls = Rolls::start(api).await.unwrap();
    let ran = all(&world, &mut rolls).await;
    rolls.print();
    ran.unwrap();
    if world.own.is_none() {
        for namespace in [CLIENT, BACKEND] {
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            api.delete(&object).await.unwrap();
        }
    }
    rolls.assert_none_failed(&["ztunnel rolls"]);
}

async fn all(world: &World, rolls: &mut Rolls) -> Result<()> {
    let api = &world.api;
    let backend = || roll(api, "Deployment", BACKEND, "backend", "app=backend");
    // What the measuring itself would count.
    rolls.during("plain: the backend rolls", backend()).await?;

    rolls.during("the client joins", joins(api, CLIENT)).await?;
    rolls
        .during("the backend joins", joins(api, BACKEND))
        .await?;
    // Connections that were kept have been going on in plaintext until here.
    rolls.during("the backend rolls", backend()).await?;
    rolls.during("the node agent rolls", agent(api)).await?;
    if world.may_break("the end of node agents") {
        rolls
            .during("the node agent is killed", agent_killed(api))
            .await?;
    }
    let istiod = roll(api, "Deployment", SYSTEM, "istiod", "app=istiod");
    rolls.during("istiod-lite rolls", istiod).await?;
    let ztunnel = roll(api, "DaemonSet", SYSTEM, "ztunnel", "app=ztunnel");
    rolls.during("ztunnel rolls", ztunnel).await?;

    // The kept connections are the mesh's now, and stay there to their end.
    let of_client = [("reporter", "source"), ("source_workload", "load")];
    let of_backend = [
        ("reporter", "destination"),
        ("destination_workload", "backend"),
    ];
    for (what, back, namespace, carried) in [
        (
            "the client leaves",
            "the client joins again",
            CLIENT,
            of_client,
        ),
        (
            "the backend leaves",
            "the backend joins again",
            BACKEND,
            of_backend,
        ),
    ] {
        let before = rolls.tally().await?;
        rolls.during(what, leaves(api, namespace)).await?;
        goes_direct(api, rolls, &carried).await?;
        let after = rolls.tally().await?;
        ensure!(
            before.kept.connections == after.kept.connections,
            "{what}: connections that were carried ended"
        );
        rolls.during(back, joins(api, namespace)).await?;
    }

    rolls
        .during("a waypoint comes", waypoint_comes(api))
        .await?;
    rolls
        .during("the backend rolls behind the waypoint", backend())
        .await?;
    let before = rolls.tally().await?;
    let selector = "gateway.networking.k8s.io/gateway-name=waypoint";
    let waypoint = roll(api, "Deployment", BACKEND, "waypoint", selector);
    rolls.during("the waypoint rolls", waypoint).await?;
    let after = rolls.tally().await?;
    ensure!(
        after.kept.connections >= before.kept.connections + 8,
        "kept connections didn't go through the waypoint: {before:?}, {after:?}"
    );
    rolls.during("the waypoint goes", waypoint_goes(api)).await
}

/// `kubectl rollout restart`, until the last pod of before is gone.
async fn roll(api: &Api, kind: &str, namespace: &str, name: &str, selector: &str) -> Result<()> {
    let object = api.object("apps/v1", kind, namespace, name).await?;
    let generation = object["metadata"]["generation"].to_string();
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {
        "kubectl.kubernetes.io/restartedAt": generation}}}}});
    let object = json!({"apiVersion": "apps/v1", "kind": kind,
        "metadata": {"namespace": namespace, "name": name}});
    api.merge(&object, &patch).await?;
    api.wait_rolled_out(kind, namespace, name, BOUND).await?;
    nothing_ends(api, namespace, selector).await
}

async fn nothing_ends(api: &Api, namespace: &str, selector: &str) -> Result<()> {
    eventually_within(BOUND, "the pods of before are gone", async || {
        for pod in pods(api, namespace, selector).await? {
            let metadata = &pod["metadata"];
            ensure!(
                metadata["deletionTimestamp"].is_null(),
                "{} still ends",
                metadata["name"]
            );
        }
        Ok(())
    })
    .await
}

async fn pods(api: &Api, namespace: &str, selector: &str) -> Result<Vec<Value>> {
    let selector = selector.replace('=', "%3D").replace('/', "%2F");
    let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={selector}");
    let mut pods = api.get(&path).await?;
    match pods["items"].take() {
        Value::Array(items) => Ok(items),
        _ => Ok(Vec::new()),
    }
}

async fn agent(api: &Api) -> Result<()> {
    let selector = "k8s-app=istio-cni-node";
    roll(api, "DaemonSet", SYSTEM, "istio-cni-node", selector).await
}

/// As a crash: without a word to it.
async fn agent_killed(api: &Api) -> Result<()> {
    let selector = "k8s-app=istio-cni-node";
    for pod in pods(api, SYSTEM, selector).await? {
        let name = pod["metadata"]["name"].as_str().context("it has a name")?;
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}?gracePeriodSeconds=0");
        api.request(http::Method::DELETE, &path, &Value::Null)
            .await?;
    }
    // Its successors, on every node.
    api.wait_rolled_out("DaemonSet", SYSTEM, "istio-cni-node", BOUND)
        .await
}

async fn joins(api: &Api, namespace: &str) -> Result<()> {
    label(api, namespace, MODE, Some("ambient")).await?;
    redirected(api, namespace, true).await
}

async fn leaves(api: &Api, namespace: &str) -> Result<()> {
    label(api, namespace, MODE, None).await?;
    redirected(api, namespace, false).await
}

async fn label(api: &Api, namespace: &str, key: &str, value: Option<&str>) -> Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    api.label(&object, key, value).await
}

/// Waits until the agents have said so of every pod.
async fn redirected(api: &Api, namespace: &str, wanted: bool) -> Result<()> {
    eventually_within(BOUND, "the pods have joined or left", async || {
        for pod in pods(api, namespace, "app").await? {
            let metadata = &pod["metadata"];
            let is = metadata["annotations"]["ambient.istio.io/redirection"] == "enabled";
            ensure!(is == wanted, "{}: {}", metadata["name"], is);
        }
        Ok(())
    })
    .await
}

/// Nothing new is carried, while new connections are answered.
async fn goes_direct(api: &Api, rolls: &mut Rolls, labels: &[(&str, &str)]) -> Result<()> {
    let mut carried = opened(api, labels).await?;
    ensure!(carried > 0.0, "nothing was carried before");
    // What had begun may be counted late.
    for _ in 0..10 {
        rolls.rounds(5).await?;
        let now = opened(api, labels).await?;
        if now == carried {
            return Ok(());
        }
        carried = now;
    }
    bail!("new connections are still carried")
}

/// Connections that the node proxies have opened.
async fn opened(api: &Api, labels: &[(&str, &str)]) -> Result<f64> {
    let mut sum = 0.0;
    for pod in pods(api, SYSTEM, "app=ztunnel").await? {
        let name = pod["metadata"]["name"].as_str().context("it has a name")?;
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}:15020/proxy/metrics");
        let samples = ambit_e2e::scrape::Samples::parse(&api.text(&path).await?);
        sum += samples.sum("istio_tcp_connections_opened_total", labels);
    }
    Ok(sum)
}

async fn waypoint_comes(api: &Api) -> Result<()> {
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "waypoint", "namespace": BACKEND},
        "spec": {"gatewayClassName": "istio-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]}});
    api.apply_object(&gateway).await?;
    let (version, kind) = ("gateway.networking.k8s.io/v1", "Gateway");
    is_true(api, (version, kind, "waypoint"), "Programmed", true).await?;
    label(api, BACKEND, USE_WAYPOINT, Some("waypoint")).await?;
    is_true(api, ("v1", "Service", "backend"), BOUND_TO, true).await
}

/// Waits for a condition of an object of the backend's namespace.
async fn is_true(
    api: &Api,
    object: (&str, &str, &str),
    condition: &str,
    wanted: bool,
) -> Result<()> {
    let (version, kind, name) = object;
    eventually_within(BOUND, &format!("{name}: {condition}"), async || {
        let object = api.object(version, kind, BACKEND, name).await?;
        let conditions = object["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let is = conditions.any(|c| c["type"] == condition && c["status"] == "True");
        ensure!(is == wanted, "{}", object["status"]);
        Ok(())
    })
    .await
}

/// First nobody is sent there any more, then it is deleted.
async fn waypoint_goes(api: &Api) -> Result<()> {
    label(api, BACKEND, USE_WAYPOINT, None).await?;
    // In no order, namespaces and gateways would be heard of in none either, and
    // a waypoint that is named but isn't there is refused (ADR 0011).
    is_true(api, ("v1", "Service", "backend"), BOUND_TO, false).await?;
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "waypoint", "namespace": BACKEND}});
    api.delete(&gateway).await?;
    eventually_within(BOUND, "its pods are gone", async || {
        let selector = "gateway.networking.k8s.io/gateway-name=waypoint";
        let left = pods(api, BACKEND, selector).await?.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await
}

const MODE: &str = "istio.io/dataplane-mode";
const BOUND_TO: &str = "istio.io/WaypointBound";
const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// A roll of two nodes with a drain of half a minute each, on a busy machine.
const BOUND: Duration = Duration::from_secs(240);
