//! A pod that attacks its own node's proxy, from inside of the mesh.

use std::net::SocketAddr;
use std::time::Duration;

use ambit_e2e::Cluster;
use ambit_e2e::observe::echoes;
use ambit_e2e::scenario::on_shop;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn a_pod_gets_nothing_out_of_its_proxys_ports() {
    on_shop(
        "a pod gets nothing out of its proxy's ports",
        async |cluster| {
            cluster.wait_shop().await?;
            let web = cluster.pod_ns("shop", "web-0")?;
            let (me, cart) = (
                cluster.pod_addr("shop", "web-0", 0)?.ip(),
                cluster.pod_addr("shop", "cart-0", 0)?.ip(),
            );
            let before = refused(cluster).await?;
            let mut tried = 0.0;
            for ip in [[127, 0, 0, 1].into(), me, cart] {
                for port in [15001, 15006, 15008] {
                    nothing_comes(cluster, SocketAddr::new(ip, port)).await?;
                    tried += 1.0;
                }
            }
            // 127.0.0.2 is captured: only 127.0.0.1 is exempt.
            nothing_comes(cluster, ([127, 0, 0, 2], 15001).into()).await?;
            eventually("each was counted", async || {
                let now = refused(cluster).await?;
                ensure!(now >= before + tried, "{before} → {now}, {tried} tried");
                Ok(())
            })
            .await?;
            cluster
                .wait_refusal("node-1", &[("direction", "outbound")], "recursive call")
                .await?;
            eventually("no socket stays open", async || {
                let open = cluster
                    .metrics("node-1")
                    .await?
                    .sum("istio_tcp_sockets_open", &[("reporter", "source")]);
                ensure!(open == 0.0, "{open}");
                Ok(())
            })
            .await?;
            echoes(&web, cluster.service_addr("shop", "cart", 9000)?).await
        },
    );
}

/// What both nodes refused, for any reason.
async fn refused(cluster: &Cluster) -> Result<f64> {
    let mut sum = 0.0;
    for node in ["node-1", "node-2"] {
        sum += cluster
            .metrics(node)
            .await?
            .sum("ambit_refusals_total", &[]);
    }
    Ok(sum)
}

/// Refused, closed or answered with an alert of TLS: never data.
async fn nothing_comes(cluster: &Cluster, to: SocketAddr) -> Result<()> {
    let web = cluster.pod_ns("shop", "web-0")?;
    let Ok(mut stream) = client::connect(&web, to).await else {
        return Ok(());
    };
    // It may be closed already.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(12), stream.read_to_end(&mut rest)).await;
    // Ended by FIN or by RST.
    let _ = ended.with_context(|| format!("{to} is still open"))?;
    ensure!(rest.is_empty() || rest[0] == 21, "{to}: {rest:?}");
    Ok(())
}
