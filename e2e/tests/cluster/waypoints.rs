//! Waypoints on a cluster: deployed, in force, told about, never gone round
//! (`control-plane-contract` 5, `docs/waypoint.md`).

mod account;
mod bad;
mod changes;
mod life;
mod revisions;
mod states;

use std::fs;

use ambit_e2e::kube::Api;
use ambit_e2e::programs;
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::inside::{BOUND, Pod, ready};
use crate::world::{Steps, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waypoints_are_run_and_hold() {
    let world = World::ambit().await.unwrap();
    let api = &world.api;
    set_up(api).await.unwrap();
    let mut steps = Steps::new();
    steps
        .run("a waypoint, its routes and policies", life::life(api))
        .await;
    steps
        .run("a service account's waypoint", account::account(api))
        .await;
    steps.run("states of a waypoint", states::all(api)).await;
    steps.run("two revisions", revisions::revisions(api)).await;
    steps
        .run("objects that are bad or big", bad::bad_objects(api))
        .await;
    steps
        .run("how soon a route holds", changes::measured(api))
        .await;
    steps.finish();
    for name in [WAYS, CALLERS] {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        api.delete(&namespace).await.unwrap();
    }
}

async fn set_up(api: &Api) -> Result<()> {
    let yaml = fs::read_to_string(programs::scenarios().join("cluster/waypoints.yaml"))?;
    api.apply(&yaml).await?;
    for (namespace, app, count) in [
        (WAYS, "app=app", 2),
        (WAYS, "app=other", 1),
        (CALLERS, "app=meshed", 1),
        (CALLERS, "app=plain", 1),
    ] {
        ready(api, namespace, app, count).await?;
    }
    Ok(())
}

async fn caller(api: &Api, app: &str) -> Result<Pod> {
    let mut all = ready(api, CALLERS, &format!("app={app}"), 1).await?;
    Ok(all.remove(0))
}

fn object(version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": WAYS}})
}

fn service(name: &str) -> Value {
    object("v1", "Service", name)
}

/// A Gateway that is a waypoint.
fn gateway(name: &str, class: &str, metadata: &Value) -> Value {
    let mut gateway = object("gateway.networking.k8s.io/v1", "Gateway", name);
    for (key, value) in metadata.as_object().into_iter().flatten() {
        gateway["metadata"][key] = value.clone();
    }
    gateway["spec"] = json!({"gatewayClassName": class,
        "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]});
    gateway
}

/// Reads an object again.
async fn now(api: &Api, object: &Value) -> Result<Value> {
    let path = api.path_of(object).await?;
    api.get(&path).await
}

/// The condition of a type in a list of them.
fn condition<'a>(conditions: &'a Value, kind: &str) -> Option<&'a Value> {
    let mut conditions = conditions.as_array()?.iter();
    conditions.find(|condition| condition["type"] == kind)
}

/// Fails unless a condition has this status and reason.
fn says(conditions: &Value, kind: &str, status: &str, reason: &str) -> Result<()> {
    let said = condition(conditions, kind).with_context(|| format!("no {kind} in {conditions}"))?;
    ensure!(
        said["status"] == status && said["reason"] == reason,
        "{said}"
    );
    Ok(())
}

/// Waits until a Gateway is programmed, and returns its waypoint's pod.
async fn programmed(api: &Api, gateway: &Value) -> Result<Pod> {
    eventually_within(BOUND, "the Gateway is programmed", async || {
        let gateway = now(api, gateway).await?;
        says(
            &gateway["status"]["conditions"],
            "Programmed",
            "True",
            "Programmed",
        )
    })
    .await?;
    let name = gateway["metadata"]["name"].as_str().unwrap_or_default();
    let label = format!("gateway.networking.k8s.io/gateway-name={name}");
    Ok(ready(api, WAYS, &label, 1).await?.remove(0))
}

/// Waits until a service's binding is told so; without a reason until nothing
/// is.
async fn bound(api: &Api, name: &str, expected: Option<(&str, &str)>) -> Result<Value> {
    let what = format!("{name} is bound: {expected:?}");
    eventually_within(BOUND, &what, async || {
        let service = now(api, &service(name)).await?;
        let conditions = &service["status"]["conditions"];
        match expected {
            Some((status, reason)) => says(conditions, "istio.io/WaypointBound", status, reason)?,
            None => ensure!(
                condition(conditions, "istio.io/WaypointBound").is_none(),
                "{conditions}"
            ),
        }
        Ok(conditions.clone())
    })
    .await
}

/// Fails unless an answer came by way of a waypoint's pod.
fn passed(answer: &Value, waypoint: &Pod) -> Result<()> {
    ensure!(answer["status"] == 200, "{answer}");
    ensure!(
        answer["body"]["client"] == waypoint.ip()?.to_string(),
        "round {}: {answer}",
        waypoint.name
    );
    Ok(())
}

const WAYS: &str = "ways";
const CALLERS: &str = "callers";
const USE_WAYPOINT: &str = "istio.io/use-waypoint";
