//! The benchmark's application: see `ambit_e2e::load`. Prints its outcome as
//! one line of JSON.

use std::net::SocketAddr;
use std::time::Duration;

use ambit_e2e::load;
use anyhow::Result;
use clap::Parser;

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
