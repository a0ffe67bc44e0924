//! The mesh while its API server is away, and after etcd was restored from an older snapshot: what was in force stays
//! in force, and what the API says afterwards comes into force.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ambit_e2e::kube::Api;
use ambit_netns::NetNs;
use ambit_testkit::{client, eventually_within};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::inside::{Pod, pods, said};
use crate::world::{World, needs_a_box};

/// A pod of the mesh that calls a service, without any help of the API server.
struct Caller {
    ns: NetNs,
    service: SocketAddr,
    api: Api,
}

impl Caller {
    /// `batch`, in the mesh, calls `cart`.
    async fn of(world: &World) -> Result<Self> {
        let batch = pods(&world.api, "legacy", "app=batch").await?;
        let ns = batch.first().context("no such pod")?.ns()?;
        let service = world.api.object("v1", "Service", "shop", "cart").await?;
        let vip: IpAddr = service["spec"]["clusterIP"]
            .as_str()
            .context("no address")?
            .parse()?;
        Ok(Self {
            ns: ns.context("it doesn't run on this machine")?,
            service: SocketAddr::new(vip, 80),
            api: world.api.clone(),
        })
    }

    /// One request over a new connection.
    async fn call(&self) -> Result<()> {
        let answer = client::get(&self.ns, self.service, "/").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    }

    /// Waits until calls pass, or until they don't.
    async fn until(&self, passes: bool, when: &str) {
        let what = format!("{when}: calls that pass: {passes}");
        let outcome = eventually_within(MINUTE, &what, async || {
            let called = self.call().await;
            ensure!(called.is_ok() == passes, "{called:?}");
            Ok(())
        });
        let outcome = outcome.await.with_context(|| said(&self.api));
        outcome.unwrap();
    }
}

/// A pod by itself in the mesh, or out of it: what its namespace's label says doesn't matter then.
async fn label(world: &World, pod: &Pod, mode: &str) {
    let metadata = json!({"name": pod.name, "namespace": pod.namespace});
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata});
    let labelled = world.api.label(&object, MODE, Some(mode));
    labelled.await.unwrap();
}

/// Waits until a pod's traffic is redirected, or until it isn't: what its own network says, whatever the API does.
async fn until_redirected(pod: &Pod, is: bool, when: &str) {
    let what = format!("{when}: {} is redirected: {is}", pod.name);
    eventually_within(MINUTE, &what, async || {
        let trace = pod.trace().await?;
        let trace = trace.context("it doesn't run on this machine")?;
        ensure!(trace.ruleset.contains("15001") == is, "{}", trace.ruleset);
        Ok(())
    })
    .await
    .unwrap();
}

/// The mesh's own pods, with how often their programs were started again.
async fn programs(world: &World) -> Result<Vec<(String, i64)>> {
    let pods = pods(&world.api, "istio-system", "").await?;
    let mut all: Vec<_> = pods
        .iter()
        .map(|pod| (pod.name.clone(), pod.restarts()))
        .collect();
    ensure!(!all.is_empty(), "no pods");
    all.sort_unstable();
    Ok(all)
}

async fn meshed() -> (World, Caller) {
    let world = World::meshed().await.unwrap();
    for name in ["shop", "legacy"] {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let enrolled = world.api.label(&namespace, MODE, Some("ambient"));
        enrolled.await.unwrap();
    }
    for namespace in ["shop", "legacy"] {
        eventually_within(MINUTE, "pods are in the mesh", async || {
            for pod in pods(&world.api, namespace, "app").await? {
                ensure!(pod.redirection() == Some("enabled"), "{} isn't", pod.name);
            }
            Ok(())
        })
        .await
        .unwrap();
    }
    let caller = Caller::of(&world).await.unwrap();
    caller.until(true, "in the mesh").await;
    (world, caller)
}

fn deny_batch() -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "no-batch", "namespace": "shop"},
        "spec": {"action": "DENY", "rules": [{"from": [{"source": {
            "principals": ["cluster.local/ns/legacy/sa/batch"]}}]}]}})
}

#[tokio::test]
async fn the_mesh_carries_on_without_its_api_server_and_takes_up_what_it_says_afterwards() {
    if needs_a_box("the API server's absence") {
        return;
    }
    let (mut world, caller) = meshed().await;
    let api = world.api.clone();
    let before = programs(&world).await.unwrap();
    let carts = pods(&api, "shop", "app=cart").await.unwrap();
    let cart = carts.first().unwrap();
    let control = world.own().unwrap().control_mut();
    control.stop("kube-apiserver").unwrap();
    // A minute, one request at a time, each over a connection of its own.
    let back = tokio::time::Instant::now() + MINUTE;
    let mut calls = 0_u32;
    while tokio::time::Instant::now() < back {
        caller.call().await.unwrap();
        calls += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(calls > 0);
    control.start_api_server().unwrap();
    control.wait_ready().await.unwrap();
    // With another history than the one that the watches would go on from.
    control.compact().await.unwrap();
    api.apply_object(&deny_batch()).await.unwrap();
    caller.until(false, "a policy after the outage").await;
    api.delete(&deny_batch()).await.unwrap();
    caller.until(true, "that policy gone").await;

    // An older snapshot of etcd: what was refused since is allowed again, and who left the mesh since is in it.
    let cluster = world.own().unwrap();
    let snapshot = cluster.control().dir().join("snapshot");
    cluster.take_snapshot(&snapshot).await.unwrap();
    api.apply_object(&deny_batch()).await.unwrap();
    caller.until(false, "a policy after the snapshot").await;
    label(&world, cart, "none").await;
    until_redirected(cart, false, "after the snapshot").await;
    let cluster = world.own().unwrap();
    cluster.restore_snapshot(&snapshot).await.unwrap();
    until_redirected(cart, true, "the snapshot restored").await;
    caller.until(true, "the snapshot restored").await;
    // And it is a mesh as before: the next change comes through as well.
    api.apply_object(&deny_batch()).await.unwrap();
    caller.until(false, "a policy after the restore").await;
    for (mode, is) in [("none", false), ("ambient", true)] {
        label(&world, cart, mode).await;
        until_redirected(cart, is, "after the restore").await;
    }
    assert_eq!(programs(&world).await.unwrap(), before, "all by themselves");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new"}});
    api.apply_object(&namespace).await.unwrap();
    eventually_within(MINUTE, "a new namespace has the roots", async || {
        let roots = api.object("v1", "ConfigMap", "new", "istio-ca-root-cert");
        let roots = roots.await?;
        let text = roots["data"]["root-cert.pem"].as_str();
        ensure!(text.is_some_and(|pem| pem.contains("BEGIN")), "{roots}");
        Ok(())
    })
    .await
    .unwrap();
}

const MODE: &str = "istio.io/dataplane-mode";
const MINUTE: Duration = Duration::from_secs(60);
