//! Pods that go, and pods that come back as others.

use std::time::Duration;

use ambit_e2e::observe::{Trace, echoes, still_echoes, wait_echo};
use ambit_e2e::scenario::on_shop;
use ambit_testkit::{client, eventually};
use anyhow::{Context, ensure};
use tokio::io::AsyncReadExt;

#[test]
fn a_deleted_pod_leaves_nothing_behind() {
    on_shop("a deleted pod leaves nothing behind", async |cluster| {
        cluster.wait_shop().await?;
        let web = cluster.pod_ns("shop", "web-0")?;
        let service = cluster.service_addr("shop", "catalog", 9000)?;
        let mut live = client::connect(&web, service).await?;
        still_echoes(&mut live).await?;
        let uid = cluster.uid("shop", "catalog-0")?;
        let state = cluster.config_dump("node-2").await?["workloadState"].clone();
        ensure!(!state[&uid].is_null(), "{state}");
        cluster.delete_pod("shop", "catalog-0").await?;
        eventually("both proxies forgot it", async || {
            for node in ["node-1", "node-2"] {
                let known = cluster.protocol(node, "shop", "catalog-0").await;
                ensure!(known.is_err(), "{node} knows it");
            }
            let state = cluster.config_dump("node-2").await?["workloadState"].clone();
            ensure!(state[&uid].is_null(), "{state}");
            let ids = cluster.config_dump("node-2").await?["certificates"].clone();
            let ids = ids.as_array().context("no certificates")?.clone();
            let left = ids.iter().any(|c| {
                c["identity"]
                    .as_str()
                    .is_some_and(|i| i.ends_with("/sa/catalog"))
            });
            ensure!(!left, "its certificate is still there");
            Ok(())
        })
        .await?;
        ensure!(echoes(&web, service).await.is_err(), "somebody answers");
        cluster
            .wait_refusal(
                "node-1",
                &[("direction", "outbound")],
                "no healthy upstream",
            )
            .await?;
        let reason = [("reporter", "source"), ("reason", "no_healthy_upstream")];
        ensure!(
            cluster
                .metrics("node-1")
                .await?
                .sum("ambit_refusals_total", &reason)
                > 0.0
        );
        // Its link is gone, so nobody could say goodbye: the pings find out,
        // 20 s after one that had to come within 10 s.
        let mut rest = [0; 1];
        let bound = Duration::from_secs(45);
        let ended = tokio::time::timeout(bound, live.read(&mut rest)).await;
        let ended = ended.context("the connection to a dead pod is still open")?;
        ensure!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        echoes(&web, cluster.service_addr("shop", "cart", 9000)?).await
    });
}

#[test]
fn a_recreated_sandbox_gets_a_new_proxy() {
    on_shop("a recreated sandbox gets a new proxy", async |cluster| {
        cluster.wait_shop().await?;
        let worker = cluster.pod_ns("shop", "worker-0")?;
        let web = cluster.pod_ns("shop", "web-0")?;
        let service = cluster.service_addr("shop", "cart", 9000)?;
        echoes(&web, service).await?;
        let old = cluster.pod_addr("shop", "cart-0", 9000)?;
        cluster.recreate_sandbox("shop", "cart-0").await?;
        let new = cluster.pod_addr("shop", "cart-0", 9000)?;
        ensure!(old != new, "the same address");
        wait_echo("web → cart's service", &web, service).await?;
        wait_echo("worker → cart's new address", &worker, new).await?;
        let ns = cluster.pod_ns("shop", "cart-0")?;
        let trace = Trace::of(&ns).await?;
        for port in [15001, 15006, 15008] {
            ensure!(trace.listening.contains(&port), "{port}: {trace:?}");
        }
        cluster
            .wait_protocol("node-1", "shop", "cart-0", "HBONE")
            .await?;
        // One proxy, of the new namespace; it dials out as well.
        echoes(&ns, cluster.service_addr("shop", "web", 9000)?).await?;
        let state = cluster.config_dump("node-2").await?["workloadState"].clone();
        ensure!(
            state[cluster.uid("shop", "cart-0")?]["state"] == "Up",
            "{state}"
        );
        // By an Add with another namespace, or by a Del that came before it.
        let metrics = cluster.metrics("node-2").await?;
        let started = metrics.sum("workload_manager_proxies_started_total", &[]);
        let stopped = metrics.sum("workload_manager_proxies_stopped_total", &[]);
        ensure!((started, stopped) == (4.0, 1.0), "{started} {stopped}");
        Ok(())
    });
}
