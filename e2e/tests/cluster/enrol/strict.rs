//! STRICT pods: kubelet still reaches them, and they are in the mesh from their
//! first packet on.

use ambit_e2e::kube::Api;
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{ENROL, KEY, echo, gone, join, leave, meshed, outsider, peer_authentication, servers};
use crate::inside::{BOUND, Pod};

/// Probes of a kind that kubelet has sent to a pod.
fn probes(api: &Api, pod: &Pod, port: u16, id: &str) -> Result<u64> {
    let url = format!("http://127.0.0.1:{port}/__seen?id={id}");
    let seen = pod.gets(api, &url)?;
    seen["count"].as_u64().context("a count")
}

pub(super) async fn strict(api: &Api) -> Result<()> {
    join(api, KEY).await?;
    outsider(api, true).await?;
    api.apply_object(&peer_authentication("STRICT")).await?;
    outsider(api, false).await?;
    meshed(api).await?;
    // Kubelet goes on: a few more probes of each kind, and none has failed.
    let before = servers(api).await?;
    for pod in [&before.0, &before.1] {
        for (port, id) in [(8080, "readiness"), (8081, "liveness")] {
            let first = probes(api, pod, port, id)?;
            eventually_within(BOUND, "kubelet probes", async || {
                let now = probes(api, pod, port, id)?;
                ensure!(now > first + 3, "{now} after {first}");
                let pod = pod.again(api).await?;
                ensure!(pod.is_ready(), "{}", pod.object["status"]);
                Ok(())
            })
            .await?;
        }
        let now = pod.again(api).await?;
        ensure!(
            now.is_ready() && now.restarts() == pod.restarts(),
            "{}",
            now.object["status"]
        );
        let transition = |pod: &Pod| pod.object["status"]["conditions"].clone();
        ensure!(transition(pod) == transition(&now), "{}", transition(&now));
    }
    api.delete(&peer_authentication("STRICT")).await?;
    outsider(api, true).await?;
    leave(api).await
}

/// Pods whose first act is a connection to a strict one: it is in the mesh.
pub(super) async fn first_packet(api: &Api) -> Result<()> {
    join(api, KEY).await?;
    api.apply_object(&peer_authentication("STRICT")).await?;
    outsider(api, false).await?;
    let (one, other) = servers(api).await?;
    let mut starters = Vec::new();
    for (n, to) in [&one, &other, &one, &other].into_iter().enumerate() {
        let hello = format!("--hello={}:9000", to.ip()?);
        let pod = |namespace, name: String| echo(namespace, &name, &[&hello], &json!({}));
        starters.push((pod(ENROL, format!("first-{n}")), true));
        if n == 0 {
            starters.push((pod("outside", "first".to_owned()), false));
        }
    }
    for (pod, _) in &starters {
        api.delete(pod).await?;
        gone(api, pod).await?;
        api.apply_object(pod).await?;
    }
    for (pod, served) in &starters {
        let path = api.path_of(pod).await?;
        eventually_within(BOUND, &format!("{path}, served: {served}"), async || {
            let pod = Pod::of(api.get(&path).await?)?;
            let phase = pod.object["status"]["phase"].as_str().unwrap_or_default();
            let as_wished = match served {
                true => pod.is_ready(),
                false => phase == "Failed",
            };
            ensure!(as_wished, "{}", pod.object["status"]);
            Ok(())
        })
        .await?;
        api.delete(pod).await?;
    }
    api.delete(&peer_authentication("STRICT")).await?;
    leave(api).await
}
