//! The benchmark's application, and the load of scenarios on a cluster: see
//! `ambit_e2e::load`. Prints its outcome as one line of JSON, `steady` a line
//! each second and one for each failure.

use std::net::SocketAddr;
use std::time::Duration;

use ambit_e2e::load;
use anyhow::{Context, Result};
use clap::Parser;
use tokio::net::lookup_host;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
enum Arguments {
    /// Answers the others.
    Serve {
        /// Port to listen on.
        #[arg(long)]
        port: u16,
    },
    /// Answers `http` and `download`.
    ServeHttp {
        /// Port to listen on.
        #[arg(long)]
        port: u16,
    },
    /// HTTP/1.1 requests on kept connections.
    Http(Target),
    /// HTTP/1.1 bodies, one a connection.
    Download {
        /// Server.
        #[arg(long)]
        to: SocketAddr,
        /// Connections at a time.
        #[arg(long)]
        connections: usize,
        /// Bytes of each body.
        #[arg(long)]
        bytes: u64,
    },
    /// Bytes in one direction.
    Bulk(Target),
    /// Requests on kept connections.
    Requests(Target),
    /// New connections.
    Connects(Target),
    /// Idle connections, held until standard input ends.
    Idle(Target),
    /// Requests to an `ambit-echo` until it is ended; every failure is counted
    /// as what it was.
    Steady(Steady),
}

#[derive(clap::Args)]
struct Steady {
    /// Server, as HOST:PORT.
    #[arg(long)]
    to: String,
    /// Workers that open a connection for every request.
    #[arg(long, default_value_t = 8)]
    fresh: usize,
    /// Workers that keep their connection.
    #[arg(long, default_value_t = 8)]
    kept: usize,
    /// Between two requests of a worker.
    #[arg(long, default_value = "20ms")]
    pause: humantime::Duration,
    /// How long a connection, or an answer, may take.
    #[arg(long, default_value = "5s")]
    patience: humantime::Duration,
}

#[derive(clap::Args)]
struct Target {
    /// Server.
    #[arg(long)]
    to: SocketAddr,
    /// Connections at a time.
    #[arg(long)]
    connections: usize,
    /// How long.
    #[arg(long, default_value_t = 1)]
    seconds: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let outcome = match Arguments::parse() {
        Arguments::Serve { port } => return load::serve(port).await,
        Arguments::Idle(t) => {
            return load::idle(t.to, t.connections, opened).await;
        }
        Arguments::Steady(load) => return steady(load).await,
        Arguments::ServeHttp { port } => return load::http::serve(port).await,
        Arguments::Http(t) => {
            return print(&load::http::requests(t.to, t.connections, time(&t)).await?);
        }
        Arguments::Download {
            to,
            connections,
            bytes,
        } => return print(&load::http::download(to, connections, bytes).await?),
        Arguments::Bulk(t) => load::bulk(t.to, t.connections, time(&t)).await?,
        Arguments::Requests(t) => load::requests(t.to, t.connections, time(&t)).await?,
        Arguments::Connects(t) => load::connects(t.to, t.connections, time(&t)).await?,
    };
    print(&outcome)
}

/// Its pod is ended like any other: at once, since nobody waits for it.
async fn steady(load: Steady) -> Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let found = lookup_host(&load.to).await;
    let to = found
        .with_context(|| format!("look {} up", load.to))?
        .next();
    let running = load::steady::Steady {
        to: to.with_context(|| format!("{} has no address", load.to))?,
        host: load.to,
        fresh: load.fresh,
        kept: load.kept,
        pause: load.pause.into(),
        patience: load.patience.into(),
    }
    .start(failed);
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = end.recv() => return Ok(()),
            _ = tick.tick() => print(&running.tally())?,
        }
    }
}

#[allow(clippy::print_stdout, reason = "the driver reads it there")]
fn failed(failure: &str) {
    println!("FAILED {failure}");
}

#[allow(clippy::print_stdout, reason = "the driver reads it there")]
fn opened() {
    println!("open");
}

#[allow(clippy::print_stdout, reason = "the driver reads the outcome there")]
fn print(outcome: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(outcome)?);
    Ok(())
}

fn time(target: &Target) -> Duration {
    Duration::from_secs(target.seconds)
}

/// How often `steady` says how it stands.
const EVERY: Duration = Duration::from_millis(500);
