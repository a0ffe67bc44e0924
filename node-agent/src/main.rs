//! Entry point of `node-agent`.

use anyhow::Context;
use clap::Parser;
use node_agent::Args;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let format = ambit_telemetry::logging::Format::Plain;
    let (_levels, _flush) = ambit_telemetry::logging::install(&args.log, format)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(node_agent::run(args))
}
