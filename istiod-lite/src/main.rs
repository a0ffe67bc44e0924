//! Entry point of `istiod-lite`.

use clap::Parser;
use istiod_lite::Args;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ambit_identity::install()?;
    istiod_lite::run(args)
}
