//! Where the programs under test are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The directory with the built programs: `AMBIT_BIN_DIR`, or the one that
/// this program itself was built into.
///
/// # Errors
/// If a program is missing, with the command that builds it.
pub fn bin_dir() -> Result<PathBuf> {
    #[allow(clippy::disallowed_methods, reason = "test support")]
    let dir = match std::env::var("AMBIT_BIN_DIR") {
        Ok(dir) => PathBuf::from(dir),
        Err(_) => beside_this_program()?,
    };
    for name in [
        "ztunnel",
        "waypoint",
        "istiod-lite",
        "node-agent",
        "ambit",
        "ambit-echo",
    ] {
        let path = dir.join(name);
        ensure!(
            path.exists(),
            "{} is missing: run `cargo build --workspace`",
            path.display()
        );
    }
    Ok(dir)
}

/// The directory of the profile that this program was built in, `target/debug`.
pub(crate) fn beside_this_program() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let dir = program.parent().context("a program is in a directory")?;
    // Test programs are one level deeper, in `deps`.
    let dir = if dir.ends_with("deps") {
        dir.parent().unwrap_or(dir)
    } else {
        dir
    };
    Ok(dir.to_owned())
}

/// The directory of scenarios in this repository.
pub fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}
