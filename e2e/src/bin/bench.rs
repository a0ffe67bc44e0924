//! `make bench`: measures the mesh. `QUICK=1` is short; `BENCH_PEER=PROGRAM`
//! also measures another ztunnel in the same run.

use std::path::PathBuf;

use ambit_e2e::bench::{self, Length};
use ambit_e2e::privilege;
use anyhow::Result;

fn main() -> Result<()> {
    privilege::acquire()?;
    #[allow(clippy::disallowed_methods, reason = "a benchmark's own switches")]
    let variable = |name: &str| std::env::var(name).ok();
    let length = if variable("QUICK").is_some_and(|v| v == "1") {
        Length::Quick
    } else {
        Length::Whole
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(bench::run(
        length,
        variable("BENCH_PEER").map(PathBuf::from),
    ))
}
