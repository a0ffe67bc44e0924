//! A proxy is replaced by another one while traffic flows.

use std::time::Duration;

use ambit_e2e::Options;
use ambit_e2e::observe::{still_echoes, wait_cut};
use ambit_e2e::scenario::on;
use ambit_testkit::{client, eventually, eventually_within};
use anyhow::{Context, ensure};
use nix::sys::signal::Signal;

use crate::steady::Steady;

/// How long the old proxy may drain.
const BUDGET: Duration = Duration::from_secs(4);

#[test]
fn an_upgrade_refuses_no_new_connection() {
    let mut options = Options::shop();
    let budget = format!("{}s", BUDGET.as_secs());
    options
        .proxy_environment
        .insert("CONNECTION_TERMINATION_DEADLINE".to_owned(), budget);
    on(
        "an upgrade refuses no new connection",
        options,
        async |cluster| {
            cluster.wait_shop().await?;
            let (web, worker) = (
                cluster.pod_ns("shop", "web-0")?,
                cluster.pod_ns("shop", "worker-0")?,
            );
            let (cart, to_web) = (
                cluster.service_addr("shop", "cart", 9000)?,
                cluster.service_addr("shop", "web", 9000)?,
            );
            let mut out = client::connect(&web, cart).await?;
            let mut into = client::connect(&worker, to_web).await?;
            for stream in [&mut out, &mut into] {
                still_echoes(stream).await?;
            }
            let targets = vec![
                ("web → cart".to_owned(), web.clone(), cart),
                ("worker → web".to_owned(), worker.clone(), to_web),
                (
                    "web → payments".to_owned(),
                    web,
                    cluster.service_addr("shop", "payments", 9000)?,
                ),
                (
                    "batch → web".to_owned(),
                    cluster.pod_ns("legacy", "batch-0")?,
                    cluster.pod_addr("shop", "web-0", 9000)?,
                ),
            ];
            let (next, seen) = Steady::new(targets)
                .during(async {
                    let next = cluster.start_next_ztunnel("node-1").await?;
                    let old = cluster.ztunnel("node-1")?;
                    old.signal(Signal::SIGTERM)?;
                    eventually("it drains", async || {
                        ensure!(old.log().contains("draining"), "{}", old.log());
                        Ok(())
                    })
                    .await?;
                    // What was open goes on within the budget.
                    still_echoes(&mut out).await?;
                    still_echoes(&mut into).await?;
                    let bound = BUDGET + Duration::from_secs(5);
                    let status = eventually_within(bound, "it ends", async || {
                        old.exited()?.context("it still runs")
                    })
                    .await?;
                    ensure!(status.success(), "{status}");
                    Ok(next)
                })
                .await?;
            seen.all_answered(8)?;
            // And is cut at its end.
            wait_cut(&mut out).await?;
            wait_cut(&mut into).await?;
            let line = cluster
                .wait_refusal(
                    "node-1",
                    &[("direction", "outbound"), ("src.workload", "web-0")],
                    "closed due to connection drain",
                )
                .await?;
            ensure!(line["message"] == "connection complete", "{line:?}");
            let (process, ns) = next;
            let admin = client::get(&ns, ([127, 0, 0, 1], 15000).into(), "/config_dump").await?;
            let dump: serde_json::Value = serde_json::from_str(&admin.body)?;
            ensure!(
                dump["workloadState"][cluster.uid("shop", "web-0")?]["state"] == "Up",
                "{}",
                process.log()
            );
            Ok(())
        },
    );
}
