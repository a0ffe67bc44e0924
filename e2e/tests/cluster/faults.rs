//! The mesh while its API server is away, and after etcd was restored from an older snapshot: what was in force stays
//! in force, and what the API says afterwards comes into force.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ambit_netns::NetNs;
use ambit_testkit::{client, eventually_within};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::inside::pods;
use crate::world::{World, needs_a_box};

/// A pod of the mesh that calls a service, without any help of the API server.
struct Caller {
    ns: NetNs,
    service: SocketAddr,
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
        eventually_within(MINUTE, &what, async || {
            let called = self.call().await;
            ensure!(called.is_ok() == passes, "{called:?}");
            Ok(())
        })
        .await
        .unwrap();
    }
}

async fn meshed() -> (World, Caller) {
    let world = World::meshed().await.unwrap();
    for name in ["shop", "legacy"] {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let enrolled = world
            .api
            .label(&namespace, "istio.io/dataplane-mode", Some("ambient"));
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

    // An older snapshot of etcd: what was refused since is allowed again.
    let control = world.own().unwrap().control_mut();
    let snapshot = control.dir().join("snapshot");
    stop(control);
    copy(&control.etcd_dir(), &snapshot).unwrap();
    start(control).await;
    api.apply_object(&deny_batch()).await.unwrap();
    caller.until(false, "a policy after the snapshot").await;
    stop(control);
    fs::remove_dir_all(control.etcd_dir()).unwrap();
    copy(&snapshot, &control.etcd_dir()).unwrap();
    start(control).await;
    caller.until(true, "the snapshot restored").await;
    // And it is a mesh as before: the next change comes through as well.
    api.apply_object(&deny_batch()).await.unwrap();
    caller.until(false, "a policy after the restore").await;
}

fn stop(control: &mut ambit_e2e::kube::ControlPlane) {
    control.stop("kube-apiserver").unwrap();
    control.stop("etcd").unwrap();
}

async fn start(control: &mut ambit_e2e::kube::ControlPlane) {
    control.start_etcd().unwrap();
    control.start_api_server().unwrap();
    control.wait_ready().await.unwrap();
}

/// A directory and what is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => {
                fs::copy(entry.path(), target)?;
            }
        }
    }
    Ok(())
}

const MINUTE: Duration = Duration::from_secs(60);
