//! The certificate authority is away for longer than certificates live.

use std::time::{Duration, SystemTime};

use ambit_e2e::observe::{echoes, still_echoes, wait_echo};
use ambit_e2e::scenario::on;
use ambit_e2e::{Cluster, Options};
use ambit_testkit::{client, eventually_within};
use anyhow::{Context, Result, ensure};

#[test]
fn certificates_are_used_to_their_end_then_refused_clearly() {
    let mut options = Options::shop();
    let mut set = |key: &str, value: &str| {
        options
            .proxy_environment
            .insert(key.to_owned(), value.to_owned());
    };
    set("SECRET_TTL", "12s");
    // Every connection dials: what is pooled needs no certificate.
    set("POOL_MAX_STREAMS_PER_CONNECTION", "1");
    on(
        "certificates are used to their end",
        options,
        async |cluster| {
            cluster.wait_shop().await?;
            let (web, cart) = (
                cluster.pod_ns("shop", "web-0")?,
                cluster.pod_addr("shop", "cart-0", 9000)?,
            );
            let mut live = client::connect(&web, cart).await?;
            still_echoes(&mut live).await?;
            cluster.control_plane()?.kill()?;
            let end = end_of(cluster, "node-1", "web")
                .await?
                .min(end_of(cluster, "node-2", "cart").await?);

            let mut answered_until = SystemTime::now();
            let refused = eventually_within(Duration::from_secs(30), "refused", async || {
                let asked = SystemTime::now();
                ensure!(echoes(&web, cart).await.is_err(), "still answered");
                answered_until = asked;
                Ok(asked)
            })
            .await?;
            ensure!(
                refused + Duration::from_secs(1) >= end,
                "refused {:?} early",
                end.duration_since(refused)
            );
            refused_clearly(cluster).await?;
            // What was open stays: certificates matter when a tunnel is made.
            still_echoes(&mut live).await?;

            cluster.start_control_plane().await?;
            wait_echo("web → cart with new certificates", &web, cart).await?;
            still_echoes(&mut live).await?;
            ensure!(
                end_of(cluster, "node-1", "web").await? > end,
                "the same certificate"
            );
            Ok(())
        },
    );
}

async fn refused_clearly(cluster: &Cluster) -> Result<()> {
    let outbound = [("direction", "outbound"), ("src.workload", "web-0")];
    let ours = "certificate of spiffe://cluster.local/ns/shop/sa/web";
    // Whose certificate ended first says who refuses; in the end it is ours.
    let web = cluster.pod_ns("shop", "web-0")?;
    let cart = cluster.pod_addr("shop", "cart-0", 9000)?;
    eventually_within(
        Duration::from_secs(20),
        "refused for want of a certificate",
        async || {
            ensure!(echoes(&web, cart).await.is_err(), "answered");
            let lines = cluster.access("node-1", &outbound)?;
            let last = lines
                .iter()
                .rev()
                .find_map(|l| l.get("error"))
                .context("no error")?;
            ensure!(last.contains(ours), "{last}");
            let metrics = cluster.metrics("node-1").await?;
            let flag = [("reporter", "source"), ("response_flags", "IDENTITY_ERROR")];
            ensure!(
                metrics.sum("istio_tcp_connections_failed_total", &flag) > 0.0,
                "no flag"
            );
            let by = |reason| {
                metrics.sum(
                    "ambit_refusals_total",
                    &[("reporter", "source"), ("reason", reason)],
                )
            };
            ensure!(
                by("certificate_unavailable") + by("certificate_timeout") > 0.0,
                "no reason"
            );
            Ok(())
        },
    )
    .await?;
    let dump = cluster.config_dump("node-1").await?;
    let all = dump["certificates"].as_array().context("no certificates")?;
    let ours = all.iter().find(|c| {
        c["identity"]
            .as_str()
            .is_some_and(|i| i.ends_with("/sa/web"))
    });
    let state = ours.context("no entry of web")?["state"].clone();
    ensure!(
        state.as_str().is_some_and(|s| s.starts_with("Unavailable")),
        "{state}"
    );
    Ok(())
}

/// When a proxy's certificate of an account of the shop ends.
async fn end_of(cluster: &Cluster, node: &str, account: &str) -> Result<SystemTime> {
    let dump = cluster.config_dump(node).await?;
    let id = format!("spiffe://cluster.local/ns/shop/sa/{account}");
    let all = dump["certificates"].as_array().context("no certificates")?;
    let entry = all.iter().find(|c| c["identity"] == id.as_str());
    let end =
        &entry.with_context(|| format!("none of {id}: {all:?}"))?["certChain"][0]["expirationTime"];
    Ok(humantime::parse_rfc3339_weak(
        end.as_str().context("no end")?,
    )?)
}
