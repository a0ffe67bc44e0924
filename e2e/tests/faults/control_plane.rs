//! The control plane stops, and comes back.

use std::time::Duration;

use ambit_e2e::Cluster;
use ambit_e2e::observe::{echoes, pod, still_echoes, wait_echo};
use ambit_e2e::peer::{self, Credential};
use ambit_e2e::scenario::on_shop;
use ambit_testkit::capture::Capture;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};

use crate::steady::Steady;

const SECRET: &str = "/while-the-control-plane-is-away";
const SHOP: [&str; 5] = ["web-0", "payments-0", "cart-0", "catalog-0", "worker-0"];

#[test]
fn a_control_plane_stops_and_comes_back() {
    on_shop("a control plane stops and comes back", async |cluster| {
        cluster.wait_shop().await?;
        let (web, cart) = (
            cluster.pod_ns("shop", "web-0")?,
            cluster.pod_addr("shop", "cart-0", 9000)?,
        );
        let mut live = client::connect(&web, cart).await?;
        still_echoes(&mut live).await?;
        let batch = cluster.pod_ns("legacy", "batch-0")?;
        let mut plain = client::connect(&batch, cart).await?;
        still_echoes(&mut plain).await?;

        cluster.control_plane()?.kill()?;
        let targets = vec![
            (
                "web → cart".to_owned(),
                web.clone(),
                cluster.service_addr("shop", "cart", 9000)?,
            ),
            (
                "worker → web".to_owned(),
                cluster.pod_ns("shop", "worker-0")?,
                // Not by its service, which gets a new pod meanwhile.
                cluster.pod_addr("shop", "web-0", 9000)?,
            ),
            ("batch → cart".to_owned(), batch, cart),
        ];
        let wire = Capture::start(
            cluster.underlay.host("node-1")?.ns(),
            cluster.uplink("node-1").await?,
        )?;
        let (_, seen) = Steady::new(targets)
            .during(async {
                a_new_pod_dials_out_and_takes_nothing_in(cluster).await?;
                still_echoes(&mut live).await?;
                still_echoes(&mut plain).await?;
                comes_back_without_a_flip(cluster).await
            })
            .await?;
        seen.all_answered(3)?;
        still_echoes(&mut live).await?;
        still_echoes(&mut plain).await?;
        let wire = wire.stop()?;
        ensure!(wire.bytes_with_port(15008) > 0, "nothing captured");
        ensure!(
            !wire.contains(SECRET.as_bytes()),
            "plaintext between pods of the mesh"
        );
        Ok(())
    });
}

/// `web-1`: the service account of `web-0`, on the same node.
async fn a_new_pod_dials_out_and_takes_nothing_in(cluster: &mut Cluster) -> Result<()> {
    cluster.run_pod(pod("shop", "web-1", "node-1", &[])).await?;
    let new = cluster.pod_ns("shop", "web-1")?;
    let cart = cluster.pod_addr("shop", "cart-0", 8080)?;
    let answer = client::get(&new, cart, SECRET).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let ip = cluster.pod_addr("shop", "web-1", 0)?.ip();
    ensure!(answer.body.contains(&ip.to_string()), "{}", answer.body);
    let identity = [
        ("src.identity", "spiffe://cluster.local/ns/shop/sa/web"),
        ("direction", "inbound"),
    ];
    eventually("cart's proxy saw its identity", async || {
        let lines = cluster.access("node-2", &identity)?;
        let from = format!("{ip}:");
        ensure!(
            lines.iter().any(|l| l["src.addr"].starts_with(&from)),
            "no line from {from}"
        );
        Ok(())
    })
    .await?;
    // Plaintext, since node-2 can't know yet that it is in the mesh; and HBONE
    // from somebody who claims to know.
    let to = cluster.pod_addr("shop", "web-1", 9000)?;
    for from in ["worker-0", "web-0"] {
        let ns = cluster.pod_ns("shop", from)?;
        ensure!(
            echoes(&ns, to).await.is_err(),
            "{from} reached a pod without policies"
        );
    }
    let ca = peer::authority(&cluster.dir().join("istiod-state"), "cluster.local")?;
    let id = "spiffe://cluster.local/ns/shop/sa/worker";
    let credential = Credential::signed(&ca, id, Duration::from_secs(60))?;
    let batch = cluster.pod_ns("legacy", "batch-0")?;
    let hbone = cluster.pod_addr("shop", "web-1", 15008)?;
    let answer = peer::connect_status(&batch, hbone, &credential, &to.to_string()).await;
    ensure!(answer.is_err(), "{answer:?}");
    let line = cluster
        .wait_refusal(
            "node-1",
            &[("direction", "inbound")],
            "unknown local workload: web.shop (web-1)",
        )
        .await?;
    ensure!(
        line["error"].contains("the control plane is away"),
        "{line:?}"
    );
    let reason = [
        ("reporter", "destination"),
        ("reason", "unknown_local_workload"),
    ];
    let refused = cluster
        .metrics("node-1")
        .await?
        .sum("ambit_refusals_total", &reason);
    ensure!(refused == 3.0, "{refused}");
    Ok(())
}

/// From its first answer on, no pod that was carried by HBONE is anything else.
async fn comes_back_without_a_flip(cluster: &mut Cluster) -> Result<()> {
    cluster.start_control_plane().await?;
    let (web, cart) = (
        cluster.pod_ns("shop", "web-0")?,
        cluster.pod_addr("shop", "cart-0", 8080)?,
    );
    eventually("the new pod is known on both nodes", async || {
        for node in ["node-1", "node-2"] {
            for pod in SHOP {
                let protocol = cluster.protocol(node, "shop", pod).await;
                // Not eventually: ever.
                assert_eq!(protocol.unwrap(), "HBONE", "{node} on {pod}");
            }
        }
        let answer = client::get(&web, cart, SECRET).await.unwrap();
        assert_eq!(answer.status, 200);
        for node in ["node-1", "node-2"] {
            let protocol = cluster.protocol(node, "shop", "web-1").await?;
            ensure!(protocol == "HBONE", "{node}: {protocol}");
        }
        Ok(())
    })
    .await?;
    let to = cluster.pod_addr("shop", "web-1", 9000)?;
    for from in ["worker-0", "web-0"] {
        let ns = cluster.pod_ns("shop", from)?;
        wait_echo("the new pod is reached", &ns, to).await?;
    }
    let me = [
        ("src.workload", "worker-0"),
        ("dst.workload", "web-1"),
        ("direction", "inbound"),
    ];
    let line = eventually("and by mutual TLS", async || {
        let lines = cluster.access("node-1", &me)?;
        let line = lines.into_iter().find(|l| l.contains_key("src.identity"));
        line.context("no line with an identity")
    })
    .await?;
    ensure!(line["src.identity"].ends_with("/sa/worker"), "{line:?}");
    Ok(())
}
