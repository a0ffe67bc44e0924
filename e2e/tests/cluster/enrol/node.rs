//! A node reboots; Ambit is uninstalled.

use ambit_e2e::kube::install;
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    ENROL, KEY, SYSTEM, echo, join, leave, meshed, outsider, peer_authentication, plain, servers,
};
use crate::inside::{BOUND, Pod, pods};
use crate::world::World;

/// The power of a node fails; its disks have the plugin, its pods come back.
pub(super) async fn reboot(world: &mut World) -> Result<()> {
    let api = world.api.clone();
    let api = &api;
    join(api, KEY).await?;
    api.apply_object(&peer_authentication("STRICT")).await?;
    meshed(api).await?;
    let (_, there) = servers(api).await?;
    let node = there.node().to_owned();
    let own = world.own()?;
    own.kill_node(&node)?;
    own.boot_node(&node).await?;
    own.wait_ready(&node).await?;
    eventually_within(BOUND, "its pod runs again", async || {
        let pod = there.again(api).await?;
        ensure!(
            pod.is_ready() && pod.restarts() > there.restarts(),
            "{}",
            pod.object["status"]
        );
        Ok(())
    })
    .await?;
    meshed(api).await?;
    outsider(api, false).await?;
    api.delete(&peer_authentication("STRICT")).await?;
    leave(api).await
}

/// Configuration of the network is what it was, and nothing is left in pods.
pub(super) async fn uninstall(world: &World) -> Result<()> {
    let api = &world.api;
    join(api, KEY).await?;
    let during = world.conflists()?;
    ensure!(during != world.conflists, "the plugin was never installed");
    leave(api).await?;
    // They have only begun to leave: the agent's end is theirs.
    let helm = install::helm(api)?;
    helm.run(&["uninstall", "ambit", "-n", SYSTEM, "--wait", "--timeout=2m"])?;
    eventually_within(BOUND, "configurations are as they were", async || {
        let now = world.conflists()?;
        ensure!(
            now == world.conflists,
            "{:?}",
            now.values()
                .map(|text| String::from_utf8_lossy(text))
                .collect::<Vec<_>>()
        );
        Ok(())
    })
    .await?;
    let own = world.own.as_ref().context("no box")?;
    for node in own.nodes() {
        // After the configuration that names it.
        let plugin = node.file("/opt/cni/bin/ambit-cni")?;
        eventually_within(BOUND, "the plugin is gone", async || {
            ensure!(!plugin.exists(), "it stays on {}", node.name());
            Ok(())
        })
        .await?;
    }
    plain(api).await?;
    for pod in pods(api, ENROL, "app=server").await? {
        left_alone(&pod).await?;
    }
    let new = echo(ENROL, "after", &[], &json!({}));
    api.apply_object(&new).await?;
    let path = api.path_of(&new).await?;
    eventually_within(BOUND, "pods start without it", async || {
        let pod = Pod::of(api.get(&path).await?)?;
        ensure!(pod.is_ready(), "{}", pod.object["status"]);
        Ok(())
    })
    .await
}

/// Waits until no rule is in a pod.
async fn left_alone(pod: &Pod) -> Result<()> {
    eventually_within(BOUND, "nothing is left in the pod", async || {
        let trace = pod.trace().await?.context("a pod of the box")?;
        ensure!(
            trace.ruleset.trim().is_empty() && trace.rules.is_empty() && trace.routes.is_empty(),
            "{trace:?}"
        );
        Ok(())
    })
    .await
}
