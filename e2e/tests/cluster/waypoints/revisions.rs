//! Two control planes in one cluster.

use ambit_e2e::kube::{Api, install};
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{USE_WAYPOINT, caller, gateway, now, object, passed, programmed, service};
use crate::inside::{BOUND, pods};

/// Two control planes: each runs and reports its own Gateways only.
pub(super) async fn revisions(api: &Api) -> Result<()> {
    let helm = install::helm(api)?;
    let chart = install::charts().join("istiod-lite").display().to_string();
    helm.run(&[
        "upgrade",
        "--install",
        "istiod-canary",
        &chart,
        "-n",
        "istio-system",
        "--wait",
        "--set=revision=canary",
        "--set=replicaCount=1",
        "--timeout=2m",
    ])?;
    let outcome = side_by_side(api).await;
    for name in ["mine", "theirs"] {
        api.delete(&gateway(name, "", &json!({}))).await?;
    }
    api.label(&service("app"), USE_WAYPOINT, None).await?;
    helm.run(&["uninstall", "istiod-canary", "-n", "istio-system", "--wait"])?;
    outcome
}

async fn side_by_side(api: &Api) -> Result<()> {
    let mine = gateway("mine", "istio-waypoint", &json!({}));
    let theirs = json!({"labels": {"istio.io/rev": "canary"}});
    let theirs = gateway("theirs", "istio-waypoint", &theirs);
    for (gateway, istiod) in [(&mine, "istiod."), (&theirs, "istiod-canary.")] {
        api.apply_object(gateway).await?;
        let waypoint = programmed(api, gateway).await?;
        let address = format!("https://{istiod}istio-system.svc:15012");
        let told = waypoint.object["spec"].to_string().contains(&address);
        ensure!(told, "{} isn't {istiod}'s", waypoint.name);
    }
    // The waypoint of one is served by it, and used by everybody.
    let waypoint = programmed(api, &theirs).await?;
    api.label(&service("app"), USE_WAYPOINT, Some("theirs"))
        .await?;
    let meshed = caller(api, "meshed").await?;
    eventually_within(BOUND, "requests pass the canary's waypoint", async || {
        passed(&meshed.asks(api, &["http://app.ways/"])?[0], &waypoint)
    })
    .await?;
    // What the one who is away would do, nobody does.
    let canary = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "istiod-canary", "namespace": "istio-system"}});
    api.merge(&canary, &json!({"spec": {"replicas": 0}}))
        .await?;
    eventually_within(BOUND, "the canary is away", async || {
        let left = pods(api, "istio-system", "istio.io/rev=canary").await?;
        ensure!(left.is_empty(), "{} are there", left.len());
        Ok(())
    })
    .await?;
    let made = object("apps/v1", "Deployment", "theirs");
    let before = now(api, &made).await?["metadata"]["generation"].take();
    let two = json!({"metadata": {"annotations": {"ambit.mesh/replicas": "2"}}});
    api.merge(&theirs, &two).await?;
    api.merge(&mine, &two).await?;
    let replicas = async |name: &str| -> Result<Value> {
        let made = now(api, &object("apps/v1", "Deployment", name)).await?;
        Ok(made["spec"]["replicas"].clone())
    };
    eventually_within(BOUND, "mine is changed", async || {
        ensure!(replicas("mine").await? == 2, "not yet");
        Ok(())
    })
    .await?;
    let after = now(api, &made).await?["metadata"]["generation"].take();
    ensure!(before == after, "somebody else changed the canary's");
    passed(&meshed.asks(api, &["http://app.ways/"])?[0], &waypoint)
        .context("without its istiod")?;
    api.merge(&canary, &json!({"spec": {"replicas": 1}}))
        .await?;
    eventually_within(BOUND, "theirs is changed by its own", async || {
        ensure!(replicas("theirs").await? == 2, "not yet");
        Ok(())
    })
    .await
}
