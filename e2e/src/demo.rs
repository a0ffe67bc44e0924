//! The demo: a shop on two nodes, and what a platform engineer wants to see of
//! its mesh. Each step is a function; each claim is checked, not told.

mod egress;
mod enrolment;
mod hold;
mod policy;
mod report;
mod store;
mod traffic;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{Cluster, Options};

pub use hold::wait_for_interrupt;
pub use report::Report;

/// Runs every step; true if every claim held.
///
/// # Errors
/// If the mesh couldn't be brought up, or a step couldn't be run at all.
pub async fn run(hold: bool) -> Result<bool> {
    let mut report = Report::new();
    report.section("A mesh from manifests");
    let mut options = Options::shop();
    options.drain_bound = Duration::from_secs(600);
    let mut cluster = Cluster::bare(options).await?;
    if let Err(error) = steps(&mut cluster, &mut report).await {
        report.claim(format!("the demo ran to its end: {error:#}"), false);
        cluster.sandbox().keep_files();
        report.fact(format!("logs are kept in {}", cluster.dir().display()));
    }
    let good = report.finish();
    if hold {
        wait_for_interrupt(&cluster).await?;
    }
    Ok(good)
}

async fn steps(cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    cluster
        .start_programs()
        .await
        .context("start the programs")?;
    cluster.start_scenario().await.context("start the shop")?;
    traffic::show_inventory(cluster, report).await?;
    traffic::who_talks_to_whom(cluster, report).await?;
    traffic::what_the_wire_shows(cluster, report).await?;
    policy::strict_refuses_plaintext(cluster, report).await?;
    policy::allow_and_deny(cluster, report).await?;
    policy::an_edit_closes_a_live_connection(cluster, report).await?;
    enrolment::join_and_leave(cluster, report).await?;
    store::a_waypoint(cluster, report).await?;
    traffic::the_metrics_of_it_all(cluster, report).await
}
