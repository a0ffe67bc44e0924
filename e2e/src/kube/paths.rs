//! Where the box's programs and files are: all of it under `target/kube`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::programs::beside_this_program;

/// The directory that everything of the box is below: `AMBIT_KUBE_DIR`, or
/// `kube` in the build directory that this program is in.
///
/// # Errors
/// If this program isn't in a build directory.
pub fn base() -> Result<PathBuf> {
    #[allow(clippy::disallowed_methods, reason = "test support")]
    if let Ok(dir) = std::env::var("AMBIT_KUBE_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let profile = beside_this_program()?;
    let target = profile.parent().context("a profile is in a directory")?;
    Ok(target.join("kube"))
}

/// Kubernetes' programs: `AMBIT_KUBE_BIN`, or `bin` of the [`base`].
///
/// # Errors
/// See [`base`].
pub fn kube_bin() -> Result<PathBuf> {
    #[allow(clippy::disallowed_methods, reason = "test support")]
    if let Ok(dir) = std::env::var("AMBIT_KUBE_BIN") {
        return Ok(PathBuf::from(dir));
    }
    Ok(base()?.join("bin"))
}

/// One of Kubernetes' programs.
///
/// # Errors
/// If it is missing, with the command that builds it.
pub fn kube_program(name: &str) -> Result<PathBuf> {
    let path = kube_bin()?.join(name);
    ensure!(
        path.exists(),
        "{} is missing: run `make cluster-build`",
        path.display()
    );
    Ok(path)
}

/// One of this crate's own programs.
///
/// # Errors
/// If it is missing, with the command that builds it.
pub fn own_program(name: &str) -> Result<PathBuf> {
    let path = beside_this_program()?.join(name);
    ensure!(
        path.exists(),
        "{} is missing: run `cargo build -p ambit-e2e --bins`",
        path.display()
    );
    Ok(path)
}

/// Where images are: those of a release build aside from those of a debug one.
///
/// # Errors
/// See [`base`].
pub fn images() -> Result<PathBuf> {
    let profile = beside_this_program()?;
    let profile = profile.file_name().context("a profile has a name")?;
    Ok(base()?.join("images").join(profile))
}

/// The manifests that the conformance suite deploys, collected from its module.
///
/// # Errors
/// See [`base`].
pub fn suite() -> Result<PathBuf> {
    Ok(base()?.join("conformance/mesh/manifests.yaml"))
}

/// The Go modules and manifests of this repository.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kube")
}
