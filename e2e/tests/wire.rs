//! What goes over the link between the nodes.
#![allow(clippy::unwrap_used, reason = "only tests are here")]

use std::net::SocketAddr;

use ambit_e2e::Cluster;
use ambit_e2e::scenario::on_shop;
use ambit_netns::NetNs;
use ambit_testkit::capture::{Capture, Traffic};
use ambit_testkit::client;
use anyhow::{Result, ensure};

const SECRET: &str = "/card-4111-1111-1111-1111";

/// Requests that carry the secret, and what a node's link to the others showed.
async fn captured(
    cluster: &Cluster,
    from: &NetNs,
    to: &[SocketAddr],
    count: usize,
) -> Result<Traffic> {
    let node = cluster.underlay.host("node-1")?;
    let capture = Capture::start(node.ns(), cluster.uplink("node-1").await?)?;
    for _ in 0..count {
        for to in to {
            let answer = client::get(from, *to, SECRET).await?;
            ensure!(
                answer.status == 200 && answer.body.contains(SECRET),
                "{answer:?}"
            );
        }
    }
    capture.stop()
}

#[test]
fn between_enrolled_pods_there_is_tls_only() {
    on_shop("between enrolled pods there is TLS only", async |cluster| {
        cluster.wait_shop().await?;
        let web = cluster.pod_ns("shop", "web-0")?;
        // By service and by pod; and back from the other node.
        let there = [
            cluster.service_addr("shop", "catalog", 80)?,
            cluster.pod_addr("shop", "catalog-0", 8080)?,
        ];
        let seen = captured(cluster, &web, &there, 5).await?;
        ensure!(seen.frames > 0, "nothing was captured");
        ensure!(
            seen.bytes_with_port(15008) > 10 * SECRET.len(),
            "nothing went by HBONE"
        );
        ensure!(seen.not_tls().is_empty(), "not TLS: {:?}", seen.not_tls());
        ensure!(!seen.contains(SECRET.as_bytes()), "the secret is readable");
        let worker = cluster.pod_ns("shop", "worker-0")?;
        let back = [cluster.service_addr("shop", "payments", 80)?];
        let seen = captured(cluster, &worker, &back, 5).await?;
        ensure!(seen.bytes_with_port(15008) > 0, "nothing went by HBONE");
        ensure!(seen.not_tls().is_empty(), "not TLS: {:?}", seen.not_tls());
        ensure!(!seen.contains(SECRET.as_bytes()), "the secret is readable");
        Ok(())
    });
}

#[test]
fn plaintext_would_be_seen() {
    on_shop("plaintext would be seen", async |cluster| {
        cluster.wait_shop().await?;
        // In from outside of the mesh, and out of the mesh: both PERMISSIVE.
        let batch = cluster.pod_ns("legacy", "batch-0")?;
        let catalog = [cluster.pod_addr("shop", "catalog-0", 8080)?];
        let seen = captured(cluster, &batch, &catalog, 1).await?;
        ensure!(seen.contains(SECRET.as_bytes()), "nothing in from outside");
        ensure!(!seen.not_tls().is_empty(), "taken for TLS");
        let web = cluster.pod_ns("shop", "web-0")?;
        let invoices = [cluster.service_addr("billing", "invoices", 80)?];
        let seen = captured(cluster, &web, &invoices, 1).await?;
        ensure!(seen.contains(SECRET.as_bytes()), "nothing out of the mesh");
        Ok(())
    });
}
