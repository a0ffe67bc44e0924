//! Who talks to whom, over what, and what it cost.

use std::collections::BTreeSet;
use std::process::Command;

use ambit_testkit::capture::Capture;
use ambit_testkit::client;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Report;
use crate::Cluster;

/// What runs where.
pub(super) async fn show_inventory(cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    for pod in ["web-0", "payments-0"] {
        cluster
            .wait_protocol("node-2", "shop", pod, "HBONE")
            .await?;
    }
    for pod in ["cart-0", "catalog-0", "worker-0"] {
        cluster
            .wait_protocol("node-1", "shop", pod, "HBONE")
            .await?;
    }
    report.claim(
        "five pods of the enrolled namespace `shop` are carried by HBONE",
        true,
    );
    let dump = cluster.config_dump("node-1").await?;
    let file = cluster.dir().join("node-1-dump.json");
    std::fs::write(&file, dump.to_string())?;
    let output = Command::new(cluster.bin_dir().join("ambit"))
        .args(["ztunnel-config", "workload", "--file"])
        .arg(&file)
        .output()
        .context("run ambit")?;
    report.claim(
        "`ambit ztunnel-config workload` reads node-1's proxy",
        output.status.success(),
    );
    report.fact(String::from_utf8_lossy(&output.stdout));
    Ok(())
}

/// A chain of calls, and the identities that the proxies saw.
pub(super) async fn who_talks_to_whom(cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    report.section("Who talks to whom, with which identity");
    let worker = cluster.pod_ns("shop", "worker-0")?;
    let web = cluster.service_addr("shop", "web", 80)?;
    let answer = client::get(&worker, web, "/call").await?;
    let body: Value = serde_json::from_str(&answer.body).context(answer.body.clone())?;
    let deepest = &body["calls"]["cart:80"]["calls"]["payments:80"]["pod"];
    report.claim(
        "worker → web → cart → payments answers",
        deepest == "payments-0",
    );
    let worker_ip = cluster.pod_addr("shop", "worker-0", 0)?.ip().to_string();
    report.claim(
        format!("web sees its client's own address, {worker_ip}"),
        body["client"] == worker_ip.as_str(),
    );
    let mut edges = BTreeSet::new();
    for node in cluster.node_names().to_vec() {
        let metrics = cluster.metrics(&node).await?;
        for (labels, _) in metrics.of("istio_tcp_connections_opened_total") {
            let get = |name: &str| labels.get(name).map_or("", String::as_str);
            if get("reporter") == "destination" {
                edges.insert(format!(
                    "{} → {}  {}",
                    get("source_principal"),
                    get("destination_principal"),
                    get("connection_security_policy")
                ));
            }
        }
    }
    for edge in &edges {
        report.fact(edge);
    }
    let id = |name: &str| format!("spiffe://cluster.local/ns/shop/sa/{name}");
    for (from, to) in [
        ("worker", "web"),
        ("web", "cart"),
        ("web", "catalog"),
        ("cart", "payments"),
    ] {
        let edge = format!("{} → {}  mutual_tls", id(from), id(to));
        report.claim(
            format!("{from} → {to} is mutual TLS with both identities"),
            edges.contains(&edge),
        );
    }
    Ok(())
}

/// A capture on the link between the nodes.
pub(super) async fn what_the_wire_shows(cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    report.section("What the wire between the nodes shows");
    let node = cluster.underlay.host("node-1")?;
    let links = node.netlink().links().await?;
    let link = links
        .iter()
        .find(|l| l.name == "eth0")
        .context("no eth0")?
        .index;
    let secret = "/a-secret-that-must-not-be-seen";
    let catalog = cluster.service_addr("shop", "catalog", 80)?;

    let capture = Capture::start(node.ns(), link)?;
    let web = cluster.pod_ns("shop", "web-0")?;
    for _ in 0..5 {
        let answer = client::get(&web, catalog, secret).await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    let seen = capture.stop()?;
    let plain: Vec<_> = seen.not_tls();
    // The control plane's and the agents' channels are TLS too.
    report.claim(
        format!("{} frames captured; every flow is TLS", seen.frames),
        seen.frames > 0 && plain.is_empty(),
    );
    for (from, to) in &plain {
        report.fact(format!("not TLS: {from} → {to}"));
    }
    let bytes = seen.bytes_with_port(15008);
    report.claim(
        format!("{bytes} bytes of HBONE, none of them readable"),
        bytes > 0 && !seen.contains(secret.as_bytes()),
    );

    let capture = Capture::start(node.ns(), link)?;
    let batch = cluster.pod_ns("legacy", "batch-0")?;
    client::get(&batch, cluster.pod_addr("shop", "catalog-0", 8080)?, secret).await?;
    let seen = capture.stop()?;
    report.claim(
        "the same request from outside of the mesh is readable (so the capture works)",
        seen.contains(secret.as_bytes()),
    );
    Ok(())
}

/// Counters, and what the programs weigh.
pub(super) async fn the_metrics_of_it_all(
    cluster: &mut Cluster,
    report: &mut Report,
) -> Result<()> {
    report.section("The metrics of it all");
    let nodes = cluster.node_names().to_vec();
    for node in &nodes {
        let metrics = cluster.metrics(node).await?;
        let mut line = format!("{node}:");
        for reporter in ["source", "destination"] {
            let sum = |name: &str| metrics.sum(name, &[("reporter", reporter)]);
            line.push_str(&format!(
                " {reporter} opened {} closed {} failed {} bytes in {} out {};",
                sum("istio_tcp_connections_opened_total"),
                sum("istio_tcp_connections_closed_total"),
                sum("istio_tcp_connections_failed_total"),
                sum("istio_tcp_received_bytes_total"),
                sum("istio_tcp_sent_bytes_total"),
            ));
        }
        report.fact(line);
        let denied = metrics.sum(
            "istio_tcp_connections_closed_total",
            &[("response_flags", "DENY")],
        );
        report.claim(
            format!("{node} counted connections and refusals by policy ({denied} denied)"),
            denied > 0.0,
        );
    }
    for node in &nodes {
        let (proxy, agent) = (
            cluster.ztunnel(node)?.resident_bytes()?,
            cluster.agent(node)?.resident_bytes()?,
        );
        report.fact(format!(
            "{node}: ztunnel {} resident, node-agent {}",
            mib(proxy),
            mib(agent)
        ));
    }
    let control = cluster.control_plane()?.resident_bytes()?;
    report.fact(format!("istiod-lite {} resident", mib(control)));
    Ok(())
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
