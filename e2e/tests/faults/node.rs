//! The proxy or the agent of a node is killed.

use std::time::Duration;

use ambit_e2e::Cluster;
use ambit_e2e::observe::{Trace, echoes, still_echoes, wait_cut, wait_echo};
use ambit_e2e::scenario::on_shop;
use ambit_testkit::capture::Capture;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};

use crate::steady::Steady;

const SECRET: &str = "/while-the-proxy-is-gone";

#[test]
fn without_its_proxy_a_nodes_traffic_fails_closed() {
    on_shop(
        "without its proxy a node's traffic fails closed",
        async |cluster| {
            cluster.wait_shop().await?;
            let web = cluster.pod_ns("shop", "web-0")?;
            let mut live =
                client::connect(&web, cluster.service_addr("shop", "cart", 9000)?).await?;
            still_echoes(&mut live).await?;
            let before = Trace::of(&web).await?;

            let wire = Capture::start(
                cluster.underlay.host("node-1")?.ns(),
                cluster.uplink("node-1").await?,
            )?;
            cluster.ztunnel("node-1")?.kill()?;
            wait_cut(&mut live).await?;
            nothing_gets_through(cluster).await?;
            let wire = wire.stop()?;
            ensure!(wire.frames > 0, "nothing captured");
            ensure!(!wire.contains(SECRET.as_bytes()), "plaintext on the wire");
            let during = Trace::of(&web).await?;
            ensure!(
                (&before.rules, &before.routes) == (&during.rules, &during.routes),
                "{during:?}"
            );
            ensure!(rules(&before) == rules(&during), "{}", during.ruleset);

            cluster.start_ztunnel("node-1")?;
            cluster.wait_ztunnel_ready("node-1").await?;
            wait_echo(
                "web → cart again",
                &web,
                cluster.service_addr("shop", "cart", 9000)?,
            )
            .await?;
            let worker = cluster.pod_ns("shop", "worker-0")?;
            wait_echo(
                "worker → web again",
                &worker,
                cluster.service_addr("shop", "web", 9000)?,
            )
            .await?;
            let state = cluster.config_dump("node-1").await?["workloadState"].clone();
            let mut pods: Vec<_> = state
                .as_object()
                .context("no workloadState")?
                .keys()
                .collect();
            pods.sort();
            ensure!(
                pods == [
                    &cluster.uid("shop", "payments-0")?,
                    &cluster.uid("shop", "web-0")?
                ],
                "{pods:?}"
            );
            Ok(())
        },
    );
}

/// Rules without their counters.
fn rules(trace: &Trace) -> String {
    let lines = trace.ruleset.lines();
    let words = lines.map(|l| {
        let words = l.split_whitespace();
        words
            .filter(|w| !w.bytes().all(|b| b.is_ascii_digit()))
            .collect::<Vec<_>>()
            .join(" ")
    });
    words.collect::<Vec<_>>().join("\n")
}

async fn nothing_gets_through(cluster: &Cluster) -> Result<()> {
    for (namespace, from, to, port) in [
        // Out of an enrolled pod, to the mesh and to the outside.
        ("shop", "web-0", ("shop", "cart-0"), 8080),
        ("shop", "web-0", ("legacy", "batch-0"), 8080),
        // Into it, from the mesh and from the outside.
        ("shop", "worker-0", ("shop", "web-0"), 8080),
        ("legacy", "batch-0", ("shop", "web-0"), 8080),
    ] {
        let ns = cluster.pod_ns(namespace, from)?;
        let answer = client::get(&ns, cluster.pod_addr(to.0, to.1, port)?, SECRET).await;
        ensure!(answer.is_err(), "{from} → {}: {answer:?}", to.1);
    }
    // The other node goes on.
    let worker = cluster.pod_ns("shop", "worker-0")?;
    echoes(&worker, cluster.service_addr("shop", "catalog", 9000)?).await
}

#[test]
fn without_its_agent_a_node_goes_on() {
    on_shop("without its agent a node goes on", async |cluster| {
        cluster.wait_shop().await?;
        let web = cluster.pod_ns("shop", "web-0")?;
        let cart = cluster.service_addr("shop", "cart", 9000)?;
        let worker = cluster.pod_ns("shop", "worker-0")?;
        let to_web = cluster.service_addr("shop", "web", 9000)?;
        let mut live = client::connect(&web, cart).await?;
        still_echoes(&mut live).await?;
        let before = Trace::of(&web).await?;
        let targets = vec![
            ("web → cart".to_owned(), web.clone(), cart),
            ("worker → web".to_owned(), worker, to_web),
            (
                "batch → web".to_owned(),
                cluster.pod_ns("legacy", "batch-0")?,
                cluster.pod_addr("shop", "web-0", 9000)?,
            ),
        ];
        let (_, seen) = Steady::new(targets)
            .during(async {
                cluster.agent("node-1")?.kill()?;
                ready(cluster, false).await?;
                cluster.start_agent("node-1")?;
                ready(cluster, true).await?;
                agent_ready(cluster).await
            })
            .await?;
        seen.all_answered(3)?;
        still_echoes(&mut live).await?;
        let after = Trace::of(&web).await?;
        ensure!(
            rules(&before) == rules(&after),
            "{}\n{}",
            before.ruleset,
            after.ruleset
        );
        ensure!(
            (before.rules, before.routes, before.listening)
                == (after.rules, after.routes, after.listening)
        );
        Ok(())
    });
}

async fn ready(cluster: &Cluster, want: bool) -> Result<()> {
    let host = cluster.underlay.host("node-1")?;
    let to = (host.ip(), 15021).into();
    eventually(&format!("the proxy's readiness is {want}"), async || {
        let answer = client::get(host.ns(), to, "/healthz/ready").await?;
        ensure!((answer.status == 200) == want, "{answer:?}");
        Ok(())
    })
    .await
}

async fn agent_ready(cluster: &Cluster) -> Result<()> {
    let host = cluster.underlay.host("node-1")?;
    let to = (host.ip(), 8000).into();
    eventually("the agent is ready", async || {
        let answer = tokio::time::timeout(
            Duration::from_secs(2),
            client::get(host.ns(), to, "/readyz"),
        )
        .await??;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .await
}
