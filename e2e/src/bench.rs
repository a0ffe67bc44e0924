//! The benchmark: what the tunnel costs beside the plain path between the same
//! nodes, measured in turns in one run, and what idle proxies weigh.
//!
//! Prints medians and ratios. It judges nothing: machines are noisy.

mod control;
mod envoy;
mod memory;
mod routes;
mod speed;
mod waypoint;

use std::path::PathBuf;

use anyhow::Result;

use crate::{Cluster, Options, programs};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Under five minutes.
    Quick,
    /// Under forty.
    Whole,
}

impl Length {
    fn rounds(self) -> usize {
        match self {
            Self::Quick => 3,
            Self::Whole => 11,
        }
    }

    fn seconds(self) -> u64 {
        match self {
            Self::Quick => 2,
            Self::Whole => 5,
        }
    }
}

/// What is measured.
#[derive(Debug)]
pub struct Plan {
    /// How much.
    pub length: Length,
    /// Another node proxy, measured in a second mesh in the same run.
    pub peer: Option<PathBuf>,
    /// An Envoy, measured as a waypoint in the same mesh as ours.
    pub envoy: Option<PathBuf>,
    /// Leave out the other part.
    pub only: Option<Part>,
    /// Kept connections to ask a waypoint on, one measurement for each number;
    /// without, the ones of the targets.
    pub loads: Option<Vec<usize>>,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The tunnel between node proxies.
    Tunnel,
    /// The waypoint.
    Waypoint,
    /// Thousands of routes.
    Routes,
    /// The control plane at scale, from a directory.
    Control,
    /// The same from a real API server; only where it is asked for, since
    /// Kubernetes' programs have to be built.
    Kubernetes,
}

/// Measures, and prints tables.
///
/// # Errors
/// If a mesh can't be brought up or a load fails.
pub async fn run(plan: Plan) -> Result<()> {
    let wanted = |part| plan.only.is_none_or(|only| only == part);
    if wanted(Part::Tunnel) {
        tunnel(plan.length, plan.peer.clone()).await?;
    }
    if wanted(Part::Waypoint) {
        waypoint::compare(plan.envoy.clone(), plan.length, plan.loads.clone()).await?;
    }
    if wanted(Part::Routes) {
        routes::measure(plan.length).await?;
    }
    if wanted(Part::Control) {
        control::measure(control::Kind::Directory, plan.length).await?;
    }
    if plan.only == Some(Part::Kubernetes) {
        control::measure(control::Kind::Kubernetes, plan.length).await?;
    }
    Ok(())
}

async fn tunnel(length: Length, peer: Option<PathBuf>) -> Result<()> {
    let ours = start(None).await?;
    let theirs = match &peer {
        Some(program) => Some(start(Some(program.clone())).await?),
        None => None,
    };
    memory::idle(&ours, "ambit")?;
    if let Some(theirs) = &theirs {
        memory::idle(theirs, "peer")?;
    }
    speed::compare(&ours, theirs.as_ref(), length).await?;
    drop(ours);
    drop(theirs);
    memory::slope(start(None).await?, "ambit").await?;
    if let Some(program) = peer {
        memory::slope(start(Some(program)).await?, "peer").await?;
    }
    Ok(())
}

async fn start(ztunnel: Option<PathBuf>) -> Result<Cluster> {
    let mut options = Options::shop();
    options.scenario = programs::scenarios().join("bench");
    options.ztunnel = ztunnel;
    let cluster = Cluster::start(options).await?;
    cluster
        .wait_protocol("node-1", "mesh", "server", "HBONE")
        .await?;
    cluster
        .wait_protocol("node-2", "mesh", "client", "HBONE")
        .await?;
    Ok(cluster)
}
