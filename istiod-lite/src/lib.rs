//! The control plane: objects to configuration, certificates, delta xDS.
//!
//! ```text
//! cluster or files ───┐                                  ┌─ xDS ──────────── ztunnel
//!                     ├─ configuration ─ compile ─ publish┤
//! node agents ─ enrolment ─ redirection (kept on disk)   └─ /debug/statusz
//!                     └─ directory ── may this node's proxy have this certificate?
//! ```
//! One task, `configuration`, writes everything that follows from objects;
//! services read. Beside it: `authority` keeps the signing key, `webhook` judges
//! objects before they are stored, and `duties` is what the leader does in its
//! cluster. Left out on purpose: sidecars, state-of-the-world xDS, plaintext 15010.
//!
//! What differs from upstream, each the safer way round: only node proxies'
//! accounts may read the configuration, and a waypoint what is for that waypoint
//! (`--open-discovery` restores upstream's way), policies go out before the workloads that they bind, the trust domain
//! of an impersonated identity is compared, and pods that have ended don't
//! count for impersonation.

mod allocation;
mod args;
mod audience;
mod authority;
mod callers;
mod certificates;
mod configuration;
mod deployer;
mod directory;
mod duties;
mod enrolment;
mod files;
mod http;
mod listener;
mod metrics;
mod names;
mod node_caller;
mod pace;
mod page;
mod redirection;
mod revisions;
mod roots;
mod server;
mod source;
mod statuses;
mod watching;
mod waypoints;
mod webhook;
mod write_metrics;
mod writer_args;
mod writers;

pub use args::Args;
pub use server::ControlPlane;
pub use writer_args::WriterArgs;

use std::time::Duration;

use ambit_runtime::{Env, ProcessEnv, Signals};
use ambit_telemetry::logging::{self, Format};
use anyhow::Context;
use tracing::{error, info};

/// Runs the program until a signal ends it.
///
/// # Errors
/// It can't start.
pub fn run(args: Args) -> anyhow::Result<()> {
    let env = ProcessEnv;
    let filter = env.get("RUST_LOG").unwrap_or_else(|| "info".to_owned());
    let format = match env.get("LOG_FORMAT").as_deref() {
        Some("json") => Format::Json,
        _ => Format::Plain,
    };
    let (_levels, _flush) = logging::install(&filter, format)?;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.clamp(1, MAX_WORKERS))
        .thread_name("istiod-lite")
        .enable_all()
        .build()
        .context("start the runtime")?;
    let outcome = runtime.block_on(serve(args));
    if let Err(error) = &outcome {
        error!(error = format!("{error:#}"), "istiod-lite can't start");
    }
    // Nothing that blocks, a write to a dead disk for instance, holds us up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("signal handlers")?;
    let control_plane = ControlPlane::start(args).await?;
    let signal = signals.next().await;
    info!(?signal, "going away");
    tokio::select! {
        () = control_plane.finish(DRAIN) => {}
        _ = signals.next() => info!("second signal, ending now"),
    }
    Ok(())
}

/// How long connections have to go elsewhere.
const DRAIN: Duration = Duration::from_secs(10);
/// More would only cost memory: compiling is one task.
const MAX_WORKERS: usize = 4;
