//! A node that loses its power, and gets it back.

use std::time::Duration;

use ambit_e2e::kube::{Cluster, ClusterOptions, images};
use ambit_testkit::eventually_within;
use anyhow::ensure;
use serde_json::{Value, json};

use crate::world::needs_a_box;

#[tokio::test]
async fn a_node_that_was_killed_boots_with_its_pods() {
    if needs_a_box("the death of a node") {
        return;
    }
    let options = ClusterOptions {
        images: images::of_echo().unwrap(),
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(options).await.unwrap();
    let api = cluster.api().clone();
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "stays", "namespace": "default"},
        "spec": {"nodeName": "node-2", "containers": [{
            "name": "app", "image": images::ECHO, "args": ["serve", "--http=8080"]}]}});
    api.apply_object(&pod).await.unwrap();
    let path = "/api/v1/namespaces/default/pods/stays";
    let answers = async || {
        api.get(&path.replace("stays", "stays:8080/proxy/")).await?;
        api.get(path).await
    };
    let before = eventually_within(MINUTE, "the pod answers", answers)
        .await
        .unwrap();

    cluster.kill_node("node-2").unwrap();
    assert!(cluster.node("node-2").unwrap().ns().is_err());
    eventually_within(MINUTE, "the node is known to be dead", async || {
        let node = api.get("/api/v1/nodes/node-2").await?;
        ensure!(condition(&node, "Ready") == Some("Unknown"), "{node}");
        Ok(())
    })
    .await
    .unwrap();

    cluster.boot_node("node-2").await.unwrap();
    cluster.wait_ready("node-2").await.unwrap();
    let after = eventually_within(MINUTE, "the pod answers again", async || {
        let after = answers().await?;
        let restarts = after["status"]["containerStatuses"][0]["restartCount"].as_i64();
        ensure!(restarts >= Some(1), "not restarted yet");
        Ok(after)
    })
    .await
    .unwrap();
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|c| c["type"] == kind)?;
    found["status"].as_str()
}

const MINUTE: Duration = Duration::from_secs(60);
