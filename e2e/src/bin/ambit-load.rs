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
#[allow(clippy::print_stdout, reason = "the driver reads the outcome there")]
async fn main() -> Result<()> {
    let outcome = match Arguments::parse() {
        Arguments::Serve { port } => return load::serve(port).await,
        Arguments::Idle(t) => {
            return load::idle(t.to, t.connections, || println!("open")).await;
        }
        Arguments::Bulk(t) => load::bulk(t.to, t.connections, time(&t)).await?,
        Arguments::Requests(t) => load::requests(t.to, t.connections, time(&t)).await?,
        Arguments::Connects(t) => load::connects(t.to, t.connections, time(&t)).await?,
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn time(target: &Target) -> Duration {
    Duration::from_secs(target.seconds)
}
