//! Pods run and answer, on the box as on any cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use ambit_e2e::kube::install;
use ambit_testkit::eventually_within;
use anyhow::{Context, ensure};
use serde_json::Value;

use crate::inside::pods;
use crate::world::World;

#[tokio::test]
async fn the_shop_runs_on_two_nodes_and_answers_over_its_services() {
    let world = World::any().await.unwrap();
    let api = &world.api;
    let nodes = api.get("/api/v1/nodes").await.unwrap();
    let ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let ready = nodes["items"].as_array().unwrap().iter().filter(ready);
    assert!(ready.count() >= 2, "{nodes}");

    install::shop(api).await.unwrap();
    let batch = pods(api, "legacy", "app=batch").await.unwrap();
    let batch = &batch.first().unwrap().name;
    let call = format!("/api/v1/namespaces/legacy/pods/{batch}:8080/proxy/call");
    // By name, from another namespace, through a service to both pods of cart;
    // and services call services.
    let mut seen = BTreeSet::new();
    eventually_within(HALF_A_MINUTE, "both pods of cart answer", async || {
        let calls = api.get(&call).await?["calls"].take();
        let text = calls.to_string();
        ensure!(
            !text.contains("error") && text.contains("payments"),
            "{text}"
        );
        let pod = calls["cart.shop:80"]["pod"].as_str();
        seen.insert(pod.context("it names its pod")?.to_owned());
        ensure!(seen.len() == 2, "only {seen:?}");
        Ok(())
    })
    .await
    .unwrap();
}

const HALF_A_MINUTE: Duration = Duration::from_secs(30);
