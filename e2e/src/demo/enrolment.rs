//! A namespace joins the mesh by a label and leaves by its removal.

use std::process::Command;

use ambit_netns::NetNs;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::net::TcpStream;

use super::Report;
use crate::Cluster;

const LABEL: &str = "dataplane-mode";

/// Joins, works, leaves; a connection from outside works all the time.
pub(super) async fn join_and_leave(cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    report.section("A namespace joins by adding a label, and leaves by removing it");
    let outside = cluster.pod_ns("legacy", "batch-0")?;
    let pod = cluster.pod_ns("billing", "invoices-0")?;
    let target = cluster.pod_addr("billing", "invoices-0", 9000)?;
    let service = cluster.service_addr("billing", "invoices", 80)?;
    let worker = cluster.pod_ns("shop", "worker-0")?;

    let mut before = client::connect(&outside, target).await?;
    still_works(report, "before", &mut before).await;
    let rules = ruleset(&pod)?;
    report.claim("billing/invoices runs without any redirection", rules == 0);

    cluster.label_namespace("billing", LABEL, Some("ambient"))?;
    cluster
        .wait_protocol("node-2", "billing", "invoices-0", "HBONE")
        .await?;
    report.claim(
        "with the label, invoices is known as HBONE; it was not restarted",
        ruleset(&pod)? > 0,
    );
    let answer = client::get(&worker, service, "/").await;
    report.claim(
        "worker → invoices answers",
        answer.is_ok_and(|a| a.status == 200),
    );
    let tls = tls_opened(cluster).await?;
    report.claim("and is mutual TLS now", tls > 0.0);
    still_works(report, "after joining", &mut before).await;
    let mut during = client::connect(&outside, target).await?;
    still_works(report, "opened by an outsider while enrolled", &mut during).await;

    cluster.label_namespace("billing", LABEL, None)?;
    cluster
        .wait_protocol("node-2", "billing", "invoices-0", "TCP")
        .await?;
    report.claim("without the label, invoices is plain TCP again", true);
    let answer = client::get(&worker, service, "/").await;
    report.claim(
        "worker → invoices answers",
        answer.is_ok_and(|a| a.status == 200),
    );
    report.claim(
        "no further connection went by mutual TLS",
        tls_opened(cluster).await? <= tls,
    );
    still_works(report, "after leaving", &mut before).await;
    still_works(report, "opened while enrolled, after leaving", &mut during).await;
    drop(during);
    let gone = eventually(
        "nothing of the mesh is left in the pod's namespace",
        async || {
            ensure!(ruleset(&pod)? == 0, "rules are still there");
            Ok(())
        },
    );
    report.check(
        "once the last proxied connection ended, no trace is left in the pod",
        gone.await,
    );
    still_works(report, "at the very end", &mut before).await;
    Ok(())
}

async fn still_works(report: &mut Report, when: &str, stream: &mut TcpStream) {
    let text = format!("outsider's connection works: {when}");
    let echoed = client::echo(stream, when.as_bytes()).await;
    let same = echoed.and_then(|back| {
        ensure!(back == when.as_bytes(), "other bytes came back");
        Ok(())
    });
    report.check(text, same);
}

/// Number of nftables objects in a namespace, the header left out.
fn ruleset(ns: &NetNs) -> Result<usize> {
    let output = ns
        .run_on_thread(|| Command::new("nft").args(["-j", "list", "ruleset"]).output())?
        .context("run nft")?;
    let listed: Value = serde_json::from_slice(&output.stdout)?;
    let objects = listed["nftables"]
        .as_array()
        .context("nft lists an array")?;
    Ok(objects
        .iter()
        .filter(|object| object.get("metainfo").is_none())
        .count())
}

async fn tls_opened(cluster: &Cluster) -> Result<f64> {
    let labels = [
        ("reporter", "destination"),
        ("destination_workload_namespace", "billing"),
        ("connection_security_policy", "mutual_tls"),
    ];
    Ok(cluster
        .metrics("node-2")
        .await?
        .sum("istio_tcp_connections_opened_total", &labels))
}
