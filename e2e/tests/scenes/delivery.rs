//! What Flagger and Argo Rollouts write, and rely on: entries 1 to 7 of
//! `cli-install-observability-contract` 6.3, and two of the rest.

use std::time::{Duration, Instant};

use ambit_e2e::Cluster;
use ambit_e2e::http::Ask;
use ambit_e2e::manifests::Key;
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::load::Load;
use super::{ask, holds, on, wait_status};

/// The HTTPRoute that Flagger writes (6.1), with weights.
fn route(generation: u64, stable: u64, canary: u64) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "echo", "namespace": "mesh", "generation": generation,
            "annotations": {"helm.toolkit.fluxcd.io/driftDetection": "disabled"}},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "echo", "namespace": "mesh", "port": 80}],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [
                    {"group": "", "kind": "Service", "name": "echo-v1", "port": 80, "weight": stable},
                    {"group": "", "kind": "Service", "name": "echo-v2", "port": 80, "weight": canary},
                ],
            }],
        },
    })
}

/// Entry 1: the same parentRef, deep equal, and the generation, within seconds.
#[test]
fn a_status_echoes_the_parent_ref_and_the_generation_within_seconds() {
    on("parentRef echo", async |cluster| {
        for generation in [7, 8, 9] {
            let route = route(generation, 100 - generation, generation);
            let written = route["spec"]["parentRefs"][0].clone();
            cluster.manifests.put(route)?;
            let seconds = Duration::from_secs(5);
            eventually_within(seconds, "status", async || {
                let parent = parent(&cluster.statusz().await?)?;
                ensure!(parent["parentRef"] == written, "{}", parent["parentRef"]);
                let conditions = parent["conditions"].as_array().context("conditions")?;
                for condition in ["Accepted", "ResolvedRefs"] {
                    let found = conditions.iter().find(|c| c["type"] == condition);
                    let found = found.with_context(|| format!("no {condition}"))?;
                    ensure!(found["status"] == "True", "{found}");
                    ensure!(found["observedGeneration"] == generation, "{found}");
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}

/// The first parent of `HTTPRoute mesh/echo` on the page.
fn parent(page: &Value) -> Result<Value> {
    let all = page["statuses"].as_array().into_iter().flatten();
    let is_it = |entry: &&Value| {
        let object = &entry["object"];
        object["kind"] == "HTTPRoute" && object["name"] == "echo"
    };
    let found = all.clone().find(is_it);
    let parents = found.and_then(|entry| entry.pointer("/status/parents/0"));
    Ok(parents.context("the route has no status")?.clone())
}

/// Entries 2, 3, 4, 7 and 9 as requests.
#[test]
fn weights_apex_services_virtual_services_and_cookies_are_honoured() {
    on("what controllers write", async |cluster| {
        holds(cluster, WRITTEN).await
    });
}

const WRITTEN: &str = r#"
- name: weight 0 gets nothing
  clause: cli-install-observability-contract 6.3 (2)
  apply: |
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    metadata: {name: echo, namespace: mesh}
    spec:
      parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
      rules: [{backendRefs: [{name: echo-v1, port: 80, weight: 100}, {name: echo-v2, port: 80, weight: 0}]}]
  ask: [{to: echo, expect: {backend: echo-v1}}]
  share: [{of: {to: echo, expect: {}}, count: 100, shares: {echo-v1: 1.0}, within: 0.0}]
- name: all weights zero is 500
  clause: cli-install-observability-contract 6.3 (2); waypoint-contract 2.4
  apply: |
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    metadata: {name: echo, namespace: mesh}
    spec:
      parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
      rules: [{backendRefs: [{name: echo-v1, port: 80, weight: 0}, {name: echo-v2, port: 80, weight: 0}]}]
  ask: [{to: echo, expect: {status: 500}}]
- name: a route of the apex isn't routed again by the routes of its backends
  clause: cli-install-observability-contract 6.3 (3)
  apply: |
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    metadata: {name: echo, namespace: mesh}
    spec:
      parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
      rules: [{backendRefs: [{name: echo-v1, port: 80}]}]
    ---
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    metadata: {name: primary, namespace: mesh}
    spec:
      parentRefs: [{group: "", kind: Service, name: echo-v1, port: 80}]
      rules:
        - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-again, value: "yes"}]}}]
          backendRefs: [{name: echo-v2, port: 80}]
  ask:
    - {to: echo-v1, expect: {backend: echo-v2, headers: {x-again: "yes"}}}
    - {to: echo, expect: {backend: echo-v1, absent: [x-again]}}
- name: VirtualService and DestinationRule of the producer's namespace, for every consumer
  clause: cli-install-observability-contract 6.3 (4)
  apply: |
    apiVersion: networking.istio.io/v1beta1
    kind: DestinationRule
    metadata: {name: echo, namespace: mesh}
    spec:
      host: echo
      subsets: [{name: stable, labels: {version: v1}}, {name: canary, labels: {version: v2}}]
    ---
    apiVersion: networking.istio.io/v1beta1
    kind: VirtualService
    metadata: {name: echo, namespace: mesh}
    spec:
      gateways: [mesh]
      hosts: [echo]
      http:
        - name: canary-header
          match: [{headers: {x-canary: {exact: insider}}}]
          route: [{destination: {host: echo, subset: stable}, weight: 0}, {destination: {host: echo, subset: canary}, weight: 100}]
        - name: primary
          route: [{destination: {host: echo, subset: stable}, weight: 100}, {destination: {host: echo, subset: canary}, weight: 0}]
  ask:
    - {to: echo, expect: {backend: echo-v1}}
    - {to: echo, headers: [{X-Canary: insider}], expect: {backend: echo-v2}}
    - {from: consumer/client, to: echo, expect: {backend: echo-v1}}
    - {from: consumer/client, to: echo, headers: [{X-Canary: insider}], expect: {backend: echo-v2}}
- name: session affinity by cookie, a header filter for each backend
  clause: cli-install-observability-contract 6.3 (7)
  apply: |
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    metadata: {name: echo, namespace: mesh}
    spec:
      parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
      rules:
        - matches: [{headers: [{type: RegularExpression, name: Cookie, value: ".*flagger-cookie=abc.*"}]}]
          backendRefs:
            - {name: echo-v1, port: 80, weight: 0}
            - {name: echo-v2, port: 80, weight: 100}
        - backendRefs:
            - name: echo-v1
              port: 80
              weight: 100
              filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-track, value: stable}]}}]
            - name: echo-v2
              port: 80
              weight: 0
              filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: Set-Cookie, value: "flagger-cookie=abc; Max-Age=3600"}]}}]
  ask:
    - {to: echo, expect: {backend: echo-v1, headers: {x-track: stable}, response_absent: [set-cookie]}}
    - {to: echo, headers: [{Cookie: "a=b; flagger-cookie=abc"}], expect: {backend: echo-v2, absent: [x-track]}}
- name: the canary sets the cookie that keeps a user with it
  clause: cli-install-observability-contract 6.3 (7)
  apply: |
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    metadata: {name: echo, namespace: mesh}
    spec:
      parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
      rules:
        - backendRefs:
            - {name: echo-v1, port: 80, weight: 0}
            - name: echo-v2
              port: 80
              weight: 100
              filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: Set-Cookie, value: "flagger-cookie=abc; Max-Age=3600"}]}}]
  ask: [{to: echo, expect: {backend: echo-v2, response_headers: {set-cookie: "flagger-cookie=abc; Max-Age=3600"}}}]
- name: a mirror to the canary
  clause: cli-install-observability-contract 6.3 (9)
  apply: |
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    metadata: {name: echo, namespace: mesh}
    spec:
      parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
      rules:
        - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 80}}}]
          backendRefs: [{name: echo-v1, port: 80, weight: 100}, {name: echo-v2, port: 80, weight: 0}]
  ask: [{to: echo, expect: {backend: echo-v1}}]
  mirror: [{of: {to: echo, path: "/?id=ID", expect: {backend: echo-v1}}, seen: {mesh/echo-v2-0: [1, 1]}}]
"#;

/// Entries 5 and 6: weights change under load without a reset, each within a
/// second, and nobody writes into the objects.
#[test]
fn weights_change_under_load_without_a_failure_and_objects_stay_as_written() {
    on("weights under load", async |cluster| {
        cluster.manifests.put(route(1, 100, 0))?;
        wait_backend(cluster, "echo-v1").await?;
        let ns = cluster.pod_ns("mesh", "client")?;
        let load = Load::start(&ns, cluster.service_addr("mesh", "echo", 80)?, 8, false);
        load.more(50).await?;
        let mut slowest = Duration::ZERO;
        for step in 2..12_u64 {
            let (stable, canary) = if step % 2 == 0 { (0, 100) } else { (100, 0) };
            let object = route(step, stable, canary);
            let key = Key::new("HTTPRoute", "mesh", "echo");
            let started = Instant::now();
            cluster.manifests.put(object.clone())?;
            let file = cluster.manifests.file(&key);
            let written = std::fs::read(&file)?;
            let backend = if canary > 0 { "echo-v2" } else { "echo-v1" };
            wait_backend(cluster, backend).await?;
            slowest = slowest.max(started.elapsed());
            load.more(40).await?;
            ensure!(
                std::fs::read(&file)? == written,
                "the object was written to"
            );
        }
        let outcome = load.stop().await?;
        ensure!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        ensure!(
            outcome.opened == 8,
            "{} connections for 8 clients",
            outcome.opened
        );
        ensure!(
            slowest < Duration::from_secs(1),
            "a change took {slowest:?}"
        );
        Ok(())
    });
}

/// Entry 10: Argo Rollouts flips the selectors of Services.
#[test]
fn selectors_flip_under_load_without_a_failure() {
    on("selectors under load", async |cluster| {
        cluster.manifests.put(route(1, 100, 0))?;
        wait_backend(cluster, "echo-v1").await?;
        let ns = cluster.pod_ns("mesh", "client")?;
        let load = Load::start(&ns, cluster.service_addr("mesh", "echo", 80)?, 4, false);
        load.more(20).await?;
        let key = Key::new("Service", "mesh", "echo-v1");
        for version in ["v2", "v1", "v2"] {
            cluster.manifests.edit(&key, |service| {
                service["spec"]["selector"] = json!({"version": version});
            })?;
            wait_backend(cluster, &format!("echo-{version}")).await?;
            load.more(20).await?;
        }
        let outcome = load.stop().await?;
        ensure!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        Ok(())
    });
}

async fn wait_backend(cluster: &Cluster, backend: &str) -> Result<()> {
    eventually_within(Duration::from_secs(10), backend, async || {
        let pod = ask(cluster, &Ask::get("/")).await?.echo()?.pod;
        ensure!(pod.starts_with(backend), "answered by {pod}");
        Ok(())
    })
    .await
}

/// Entry 8: series as sidecars wrote them, for Flagger's own queries.
#[test]
fn destination_series_are_written_where_the_mesh_asks_for_them() {
    on("destination series", async |cluster| {
        cluster.apply(
            "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    defaultConfig: {proxyMetadata: {AMBIT_DESTINATION_REPORTER: 'true'}}
",
        )?;
        cluster.sync_waypoints().await?;
        eventually_within(Duration::from_secs(15), "both series", async || {
            wait_status(cluster, "an answer", &Ask::get("/"), 200).await?;
            let mut counted = Vec::new();
            for pod in cluster.waypoint_pods("mesh", "waypoint") {
                let page = cluster
                    .waypoint_page("mesh", &pod, 15020, "/stats/prometheus")
                    .await?;
                let samples = ambit_e2e::scrape::Samples::parse(&page.body);
                for reporter in ["waypoint", "destination"] {
                    let labels = [
                        ("reporter", reporter),
                        ("destination_workload_namespace", "mesh"),
                        ("response_code", "200"),
                    ];
                    let requests = samples.sum("istio_requests_total", &labels);
                    let durations =
                        samples.sum("istio_request_duration_milliseconds_count", &labels);
                    counted.push((reporter, requests, durations));
                }
            }
            let all = counted.iter().all(|(_, a, b)| *a > 0.0 && *b > 0.0);
            ensure!(all && !counted.is_empty(), "{counted:?}");
            Ok(())
        })
        .await
    });
}
