//! Snapshots of a cluster's etcd, and their restoration as Kubernetes documents it. Owns the order of what is stopped
//! and started for that, not the programs themselves.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::cluster::Cluster;
use super::control::ControlPlane;

impl Cluster {
    /// Takes a snapshot of etcd: of its data directory, while it is stopped.
    ///
    /// # Errors
    /// If a part of the control plane doesn't stop or start, or nothing can be copied there.
    pub async fn take_snapshot(&mut self, to: &Path) -> Result<()> {
        let control = self.control_mut();
        stop(control)?;
        copy(&control.etcd_dir(), to)?;
        start(control).await
    }

    /// Restores a snapshot, with the revisions that it had: versions of objects are given a second time. Kubernetes'
    /// own components are restarted, as its documentation asks for ("Operating etcd clusters"): a watch of theirs
    /// goes on from a version that isn't reached yet and hears nothing until then, so that a kube-proxy may know
    /// no API server. Pods, and so the mesh, go on as they are.
    ///
    /// # Errors
    /// If a component doesn't stop or start, or the snapshot can't be copied.
    pub async fn restore_snapshot(&mut self, from: &Path) -> Result<()> {
        let control = self.control_mut();
        stop(control)?;
        let data = control.etcd_dir();
        fs::remove_dir_all(&data).with_context(|| data.display().to_string())?;
        copy(from, &data)?;
        start(control).await?;
        control.restart_controllers()?;
        self.restart_components()
    }
}

fn stop(control: &mut ControlPlane) -> Result<()> {
    control.stop("kube-apiserver")?;
    control.stop("etcd")
}

async fn start(control: &mut ControlPlane) -> Result<()> {
    control.start_etcd()?;
    control.start_api_server()?;
    control.wait_ready().await
}

/// A directory and what is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => {
                fs::copy(entry.path(), target)?;
            }
        }
    }
    Ok(())
}
