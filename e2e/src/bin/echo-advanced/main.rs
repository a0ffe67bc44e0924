//! The application that Gateway API's conformance suite deploys and asks
//! through: an echo service, and the client that the suite runs in its pods. It
//! stands in where the suite's own image can't be pulled, and speaks as that one
//! does (`docs/cluster.md`). It knows nothing of the mesh.
//!
//! `echo-advanced --port=8080 --grpc=7070 --tcp=9090 --port=8443 --tls=8443 --crt=FILE --key=FILE`,
//! and under the name `client`: `client URL [--method=M] [-H Name:Value] [--count=N]`

mod asked;
mod client;
mod grpc;
mod server;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let name = std::env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|n| n == "client") {
        return client::run(&client::Wanted::parse(), &mut std::io::stdout()).await;
    }
    // The first process of a container has no handler that ends it.
    let mut end = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tokio::select! {
        served = server::run(server::Ports::parse()) => served,
        _ = end.recv() => Ok(()),
    }
}
