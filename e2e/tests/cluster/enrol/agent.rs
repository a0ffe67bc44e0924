//! The node agent is away, or killed in the middle of something.

use std::fs;

use ambit_e2e::kube::Api;
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{ENROL, KEY, SYSTEM, echo, gone, join, leave, meshed, namespace, plain, settled};
use crate::inside::{BOUND, Pod, pods, processes_of};

fn agents() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "istio-cni-node", "namespace": SYSTEM}})
}

/// Nodes without the agent hold pods; those that run go on.
pub(super) async fn agent_away(api: &Api) -> Result<()> {
    join(api, KEY).await?;
    let nowhere = |value: Value| json!({"spec": {"template": {"spec": {"nodeSelector": {"ambit.test/nowhere": value}}}}});
    api.merge(&agents(), &nowhere(json!("true"))).await?;
    let held = echo(ENROL, "held", &[], &json!({}));
    let outcome = async {
        eventually_within(BOUND, "no agent runs", async || {
            let left = pods(api, SYSTEM, "k8s-app=istio-cni-node").await?;
            ensure!(left.is_empty(), "{} are there", left.len());
            Ok(())
        })
        .await?;
        api.delete(&held).await?;
        gone(api, &held).await?;
        api.apply_object(&held).await?;
        eventually_within(BOUND, "a pod waits, and says for whom", async || {
            let path = format!("/api/v1/namespaces/{ENROL}/events");
            let events = api.get(&path).await?.to_string();
            ensure!(
                events.contains("the node agent isn't there"),
                "no such event"
            );
            Ok(())
        })
        .await?;
        let path = api.path_of(&held).await?;
        let phase = api.get(&path).await?["status"]["phase"].take();
        ensure!(phase == "Pending", "it is {phase}");
        meshed(api).await.context("those that run")
    }
    .await;
    api.merge(&agents(), &nowhere(Value::Null)).await?;
    outcome?;
    api.wait_rolled_out("DaemonSet", SYSTEM, "istio-cni-node", BOUND)
        .await?;
    let path = api.path_of(&held).await?;
    eventually_within(BOUND, "the pod starts when it is back", async || {
        let pod = Pod::of(api.get(&path).await?)?;
        ensure!(pod.is_ready(), "{}", pod.object["status"]);
        ensure!(pod.redirection() == Some("enabled"), "not enrolled");
        Ok(())
    })
    .await?;
    api.delete(&held).await?;
    meshed(api).await?;
    leave(api).await
}

/// Killed at moments of joining and leaving: its successor ends what it began.
pub(super) async fn agent_killed(api: &Api) -> Result<()> {
    for moment in [0, 20, 60, 150] {
        for joins in [true, false] {
            api.label(&namespace(ENROL), KEY, joins.then_some("ambient"))
                .await?;
            tokio::time::sleep(std::time::Duration::from_millis(moment)).await;
            kill_agents(api).await?;
            let what = format!("{moment} ms after the label, joins: {joins}");
            let redirection = joins.then_some("enabled");
            settled(api, redirection).await.context(what.clone())?;
            match joins {
                true => meshed(api).await.context(what)?,
                false => plain(api).await.context(what)?,
            }
        }
    }
    Ok(())
}

/// By signal where they run on this machine; their pods go too, as kubelet
/// waits before it starts a container that was killed often.
async fn kill_agents(api: &Api) -> Result<()> {
    let all = pods(api, SYSTEM, "k8s-app=istio-cni-node").await?;
    for pod in &all {
        // The container's process, not the one that holds the sandbox.
        for pid in processes_of(pod.uid())? {
            if fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "node-agent")
            {
                let _ = kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL);
            }
        }
    }
    for pod in &all {
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{}", pod.name);
        let at_once = json!({"gracePeriodSeconds": 0});
        let deleted = api.request(http::Method::DELETE, &path, &at_once).await;
        deleted.map(drop)?;
    }
    Ok(())
}
