//! A waypoint that comes, changes and goes while requests go on, and one that
//! allows nothing (`ztunnel-contract` 11.5: TestRemoveAddWaypoint,
//! TestWaypointChanges, TestAuthorizationWaypointDefaultDeny).

use ambit_e2e::Cluster;
use ambit_e2e::http::Ask;
use ambit_e2e::manifests::{Key, set_meta};
use ambit_testkit::eventually;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::load::Load;
use super::{ask, holds, on, wait_status};

const USE_WAYPOINT: &str = "istio.io/use-waypoint";

/// Both versions of HTTP, over kept connections.
fn loads(cluster: &Cluster) -> Result<Vec<(&'static str, Load)>> {
    let ns = cluster.pod_ns("mesh", "client")?;
    let start = |port, h2| -> Result<Load> {
        let to = cluster.service_addr("mesh", "echo", port)?;
        Ok(Load::start(&ns, to, 6, h2))
    };
    Ok(vec![
        ("HTTP/1.1", start(80, false)?),
        ("HTTP/2", start(8081, true)?),
    ])
}

async fn more(loads: &[(&'static str, Load)]) -> Result<()> {
    for (what, load) in loads {
        load.more(40).await.context(*what)?;
    }
    Ok(())
}

async fn none_failed(loads: Vec<(&'static str, Load)>) -> Result<()> {
    for (what, load) in loads {
        let outcome = load.stop().await?;
        let failures = &outcome.failures;
        ensure!(failures.is_empty(), "{what}: {failures:?}");
    }
    Ok(())
}

/// Waits until new connections pass a waypoint, or don't.
async fn wait_passes(cluster: &Cluster, what: &str, passes: bool) -> Result<()> {
    eventually(&format!("{what}, by a waypoint: {passes}"), async || {
        let reply = ask(cluster, &Ask::get("/")).await?;
        ensure!(reply.status == 200, "{}", reply.status);
        let has_id = reply.echo()?.header("x-request-id").is_some();
        ensure!(has_id == passes, "not yet");
        Ok(())
    })
    .await
}

#[test]
fn no_request_fails_while_the_label_comes_and_goes() {
    on("use-waypoint comes and goes", async |cluster| {
        wait_passes(cluster, "at first", true).await?;
        let loads = loads(cluster)?;
        more(&loads).await?;
        for round in 0..3 {
            for label in [None, Some("waypoint")] {
                cluster.label_namespace("mesh", USE_WAYPOINT, label)?;
                let what = format!("round {round}, the namespace's label is {label:?}");
                wait_passes(cluster, &what, label.is_some()).await?;
                more(&loads).await?;
            }
        }
        // The service's own label, over its namespace's.
        for (label, passes) in [(Some("none"), false), (None, true)] {
            let key = Key::new("Service", "mesh", "echo");
            cluster.manifests.edit(&key, |service| {
                set_meta(service, "labels", USE_WAYPOINT, label);
            })?;
            let what = format!("the service's label is {label:?}");
            wait_passes(cluster, &what, passes).await?;
            more(&loads).await?;
        }
        none_failed(loads).await
    });
}

#[test]
fn a_waypoint_runs_as_its_gateway_says_and_no_request_fails_when_that_changes() {
    on("a waypoint changes", async |cluster| {
        overlay(cluster, 41)?;
        let key = Key::new("Gateway", "mesh", "waypoint");
        cluster.manifests.edit(&key, |gateway| {
            let parameters = json!({"group": "", "kind": "ConfigMap", "name": "waypoint"});
            gateway["spec"]["infrastructure"] = json!({"parametersRef": parameters});
        })?;
        cluster.scale_waypoint("mesh", "waypoint", 2);
        wait_runs(cluster, 41).await?;
        let loads = loads(cluster)?;
        more(&loads).await?;
        overlay(cluster, 42)?;
        wait_runs(cluster, 42).await?;
        more(&loads).await?;
        none_failed(loads).await
    });
}

/// Parameters of the waypoint: how long its pods have to end.
fn overlay(cluster: &mut Cluster, seconds: u64) -> Result<()> {
    let spec = json!({"template": {"spec": {"terminationGracePeriodSeconds": seconds}}});
    cluster.manifests.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "waypoint", "namespace": "mesh"},
        "data": {"deployment": json!({"spec": spec}).to_string()},
    }))
}

/// Waits until both replicas are as the parameters say, and serve.
async fn wait_runs(cluster: &mut Cluster, seconds: u64) -> Result<()> {
    let says = |pod: &Value| pod["spec"]["terminationGracePeriodSeconds"] == seconds;
    eventually("what is to run says so", async || {
        let rendered = cluster.rendered_waypoints().await?;
        let mut all = rendered.iter();
        let said = all.any(|one| says(&one["deployment"]["spec"]["template"]));
        ensure!(said, "{rendered:?}");
        Ok(())
    })
    .await?;
    cluster.sync_waypoints().await?;
    let pods = cluster.waypoint_pods("mesh", "waypoint");
    ensure!(pods.len() == 2, "{pods:?}");
    for pod in &pods {
        let pod = cluster.manifests.get(&Key::new("Pod", "mesh", pod))?;
        ensure!(says(pod), "{pod}");
    }
    wait_passes(cluster, "as its parameters say", true).await
}

const DEFAULT_DENY: &str = r#"
- name: a waypoint that allows nothing
  clause: "ztunnel-contract 11.5; waypoint-contract 4"
  apply: |
    apiVersion: security.istio.io/v1
    kind: AuthorizationPolicy
    metadata: {name: nothing, namespace: mesh}
    spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]}
  ask: &nothing
    - {to: echo, expect: {status: 403}}
    - {to: echo-v1, expect: {status: 403}}
    - {to: echo, port: 7070, grpc: /echo.Echo/Say, expect: {grpc_status: 7}}
    - {to: echo, port: 9090, tcp: hello, expect: {fails: true}}
    - {from: consumer/client, to: echo, expect: {status: 403}}
    - {from: plain/client, to: echo, expect: {fails: true}}
    - {to: "pod:mesh/echo-v1-0", port: 8080, expect: {fails: true}}
    - {to: backends/app, expect: {backend: app}}
- name: what another policy allows is all that gets through
  clause: "ztunnel-contract 11.5; waypoint-contract 4"
  apply: |
    apiVersion: security.istio.io/v1
    kind: AuthorizationPolicy
    metadata: {name: nothing, namespace: mesh}
    spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]}
    ---
    apiVersion: security.istio.io/v1
    kind: AuthorizationPolicy
    metadata: {name: echo, namespace: mesh}
    spec:
      targetRefs: [{group: "", kind: Service, name: echo}]
      rules:
        - from: [{source: {principals: [cluster.local/ns/mesh/sa/client]}}]
          to: [{operation: {methods: [GET]}}]
  ask:
    - {to: echo, expect: {backend: echo-v}}
    - {to: echo, method: POST, expect: {status: 403}}
    - {to: echo-v1, expect: {status: 403}}
    - {from: consumer/client, to: echo, expect: {status: 403}}
- name: all waypoints of a class allow nothing
  clause: "ztunnel-contract 11.5; control-plane-contract 4.6"
  apply: |
    apiVersion: security.istio.io/v1
    kind: AuthorizationPolicy
    metadata: {name: nothing, namespace: istio-system}
    spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]}
  ask: *nothing
- name: and afterwards it allows as before
  clause: "ztunnel-contract 11.5"
  ask:
    - {to: echo, expect: {backend: echo-v}}
    - {from: plain/client, to: echo, expect: {backend: echo-v}}
"#;

#[test]
fn a_waypoint_that_allows_nothing_lets_nothing_through() {
    on("default deny", async |cluster| {
        wait_status(cluster, "an answer", &Ask::get("/"), 200).await?;
        holds(cluster, DEFAULT_DENY).await
    });
}
