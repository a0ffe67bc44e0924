//! What users build with waypoints, on real programs: waypoints of service
//! accounts, progressive delivery, tokens and external authorization, egress,
//! ServiceEntries, what is outside of the mesh, records of requests, waypoints
//! that come and go, and operations.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

mod accounts;
mod binding;
mod delivery;
mod egress;
mod entries;
mod load;
mod operations;
mod outside;
mod records;
mod security;
mod serve;

use ambit_e2e::http::{self, Ask, Reply};
use ambit_e2e::{Cluster, Options, conformance, programs, scenario};
use ambit_testkit::eventually;
use anyhow::{Context, Result, ensure};

/// Runs a test on the mesh of the conformance scenarios.
fn on(name: &str, test: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    let mut options = Options::shop();
    options.scenario = programs::scenarios().join("conformance");
    on_with(name, options, test);
}

fn on_with(name: &str, options: Options, test: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    scenario::on(name, options, async |cluster| {
        let result = test(cluster).await;
        result.with_context(|| waypoint_logs(cluster))
    });
}

/// The last words of every waypoint.
fn waypoint_logs(cluster: &Cluster) -> String {
    let mut text = String::new();
    for (namespace, gateway) in [("mesh", "waypoint"), ("backends", "gate")] {
        for pod in cluster.waypoint_pods(namespace, gateway) {
            let log = cluster.waypoint_process(namespace, &pod);
            let log = log.map(|process| process.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            text.push_str(&format!("=== {namespace}/{pod}\n{last}\n"));
        }
    }
    text
}

/// Asks `mesh/echo` at port 80 from `mesh/client`.
async fn ask(cluster: &Cluster, ask: &Ask) -> Result<Reply> {
    let ns = cluster.pod_ns("mesh", "client")?;
    http::ask(&ns, cluster.service_addr("mesh", "echo", 80)?, ask).await
}

/// Waits until `mesh/echo` answers so.
async fn wait_status(cluster: &Cluster, what: &str, question: &Ask, status: u16) -> Result<Reply> {
    eventually(what, async || {
        let reply = ask(cluster, question).await?;
        ensure!(reply.status == status, "{} {:?}", reply.status, reply.body);
        Ok(reply)
    })
    .await
}

/// Objects and questions as of the conformance scenarios.
async fn holds(cluster: &mut Cluster, yaml: &str) -> Result<()> {
    let scenarios: Vec<conformance::Scenario> = serde_saphyr::from_str(yaml)?;
    for scenario in scenarios {
        scenario.run(cluster).await?;
    }
    Ok(())
}
