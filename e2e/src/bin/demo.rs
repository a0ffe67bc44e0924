//! `make demo`: brings up a mesh, shows what it does, cleans up. Exits with 1
//! if any claim failed. `HOLD=1` leaves it up until it is interrupted.

use std::process::ExitCode;

use ambit_e2e::{demo, privilege};
use anyhow::Result;

fn main() -> Result<ExitCode> {
    privilege::acquire()?;
    #[allow(clippy::disallowed_methods, reason = "a test program's own switch")]
    let hold = std::env::var("HOLD").is_ok_and(|value| value == "1");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let good = runtime.block_on(demo::run(hold))?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
