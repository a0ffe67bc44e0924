//! Waypoints that come, go, drain and die, and a control plane that is away
//! (`waypoint-contract` 1.9 drain; issue 4 item 2 and 3).

use std::time::{Duration, Instant};

use ambit_e2e::Cluster;
use ambit_e2e::http::Ask;
use ambit_e2e::manifests::Key;
use ambit_testkit::{eventually, eventually_within};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::load::Load;
use super::{ask, on, wait_status};

async fn replicas(cluster: &mut Cluster, count: usize) -> Result<Vec<String>> {
    cluster.scale_waypoint("mesh", "waypoint", count);
    cluster.sync_waypoints().await?;
    let pods = cluster.waypoint_pods("mesh", "waypoint");
    ensure!(pods.len() == count, "{pods:?}");
    Ok(pods)
}

async fn requests_of(cluster: &Cluster, pod: &str) -> Result<f64> {
    let page = cluster
        .waypoint_page("mesh", pod, 15020, "/metrics")
        .await?;
    let samples = ambit_e2e::scrape::Samples::parse(&page.body);
    Ok(samples.sum("istio_requests_total", &[("reporter", "waypoint")]))
}

fn load(cluster: &Cluster, clients: usize) -> Result<Load> {
    let ns = cluster.pod_ns("mesh", "client")?;
    let to = cluster.service_addr("mesh", "echo", 80)?;
    Ok(Load::start(&ns, to, clients, false))
}

/// A rolling restart under load: SIGTERM to one of two, as a kubelet does.
#[test]
fn a_replica_drains_on_sigterm_and_no_request_fails() {
    on("drain", async |cluster| {
        let pods = replicas(cluster, 2).await?;
        wait_status(cluster, "an answer", &Ask::get("/"), 200).await?;
        let ns = cluster.pod_ns("mesh", "client")?;
        let upgrade = cluster.service_addr("mesh", "echo", 8081)?;
        let loads = [load(cluster, 12)?, Load::start(&ns, upgrade, 6, true)];
        eventually("both replicas serve", async || {
            for pod in &pods {
                let requests = requests_of(cluster, pod).await?;
                ensure!(requests > 10.0, "{pod} has {requests}");
            }
            Ok(())
        })
        .await?;
        // The endpoint goes and the signal comes at the same time.
        cluster.mark_waypoint("mesh", &pods[0], false)?;
        let process = cluster.waypoint("mesh", &pods[0])?;
        process.signal(Signal::SIGTERM)?;
        let started = Instant::now();
        eventually_within(Duration::from_secs(20), "it ends", async || {
            ensure!(process.exited()?.is_some(), "still there");
            Ok(())
        })
        .await?;
        let took = started.elapsed();
        ensure!(
            process.exited()?.context("ended")?.success(),
            "{}",
            process.log()
        );
        for (load, what) in loads.into_iter().zip(["HTTP/1.1", "HTTP/2"]) {
            load.more(50).await.context(what)?;
            let outcome = load.stop().await?;
            let failures = &outcome.failures;
            ensure!(
                failures.is_empty(),
                "{what}, ended after {took:?}: {failures:?}"
            );
            ensure!(
                outcome.answered > 50,
                "{what}: {} answered",
                outcome.answered
            );
        }
        Ok(())
    });
}

/// What was in flight on it fails, and nothing after that.
#[test]
fn a_replica_that_is_killed_costs_what_was_in_flight() {
    on("kill", async |cluster| {
        let pods = replicas(cluster, 2).await?;
        wait_status(cluster, "an answer", &Ask::get("/"), 200).await?;
        let running = load(cluster, 8)?;
        running.more(200).await?;
        cluster.waypoint("mesh", &pods[0])?.kill()?;
        cluster.mark_waypoint("mesh", &pods[0], false)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let outcome = running.stop().await?;
        let log = outcome.failures.join("; ");
        ensure!(
            outcome.failures.len() <= 24,
            "{}: {log}",
            outcome.failures.len()
        );
        let after = load(cluster, 8)?;
        after.more(200).await?;
        let outcome = after.stop().await?;
        ensure!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        // The kubelet starts it again.
        let pods = replicas(cluster, 2).await?;
        wait_status(cluster, "an answer", &Ask::get("/"), 200).await?;
        ensure!(pods.len() == 2, "{pods:?}");
        Ok(())
    });
}

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo, namespace: mesh}
spec:
  parentRefs: [{group: '', kind: Service, name: echo, port: 80}]
  rules: [{backendRefs: [{name: echo-v1, port: 80}]}]
";

async fn wait_pod(cluster: &Cluster, backend: &str) -> Result<()> {
    eventually(backend, async || {
        for _ in 0..4 {
            let pod = ask(cluster, &Ask::get("/")).await?.echo()?.pod;
            ensure!(pod.starts_with(backend), "answered by {pod}");
        }
        Ok(())
    })
    .await
}

#[test]
fn requests_go_on_without_a_control_plane_and_over_restarts_of_both() {
    on("control plane away", async |cluster| {
        cluster.apply(ROUTE)?;
        wait_pod(cluster, "echo-v1").await?;
        let running = load(cluster, 4)?;
        running.more(50).await?;
        cluster.control_plane()?.kill()?;
        running.more(200).await?;
        cluster.start_control_plane().await?;
        running.more(50).await?;
        // The next change arrives at the waypoint that stayed.
        cluster.apply(&ROUTE.replace("echo-v1", "echo-v2"))?;
        wait_pod(cluster, "echo-v2").await?;
        let outcome = running.stop().await?;
        ensure!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        // A waypoint that starts anew has the same.
        for pod in cluster.waypoint_pods("mesh", "waypoint") {
            cluster.waypoint("mesh", &pod)?.kill()?;
        }
        cluster.sync_waypoints().await?;
        wait_pod(cluster, "echo-v2").await
    });
}

/// A file that can't be read, and an object that can't be used, change nothing.
#[test]
fn a_bad_push_keeps_the_last_good_configuration() {
    on("bad push", async |cluster| {
        cluster.apply(ROUTE)?;
        wait_pod(cluster, "echo-v1").await?;
        let file = cluster
            .manifests
            .file(&Key::new("HTTPRoute", "mesh", "echo"));
        let good = std::fs::read_to_string(&file)?;
        for bad in ["{\"kind\": \"HTTPRoute\", ", "kind: [", ""] {
            std::fs::write(&file, bad)?;
            tokio::time::sleep(Duration::from_millis(700)).await;
            if !bad.is_empty() {
                wait_pod(cluster, "echo-v1")
                    .await
                    .with_context(|| format!("{bad:?}"))?;
            }
        }
        std::fs::write(&file, good.replace("echo-v1", "echo-v2"))?;
        wait_pod(cluster, "echo-v2").await
    });
}
