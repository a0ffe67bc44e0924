//! What is installed on a cluster, whichever it is: the CRDs of Gateway API,
//! Ambit by its charts, the shop.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};

use super::api::Api;
use super::paths;
use crate::programs;

/// Applies the CRDs of Gateway API, its experimental channel, and waits until
/// they are served.
///
/// # Errors
/// If they weren't collected (`make cluster-build`) or are refused.
pub async fn gateway_api(api: &Api) -> Result<()> {
    crds(api, &paths::base()?.join("crds/gateway-api")).await
}

/// Applies every CRD in a directory, and waits until each is served.
///
/// # Errors
/// If the directory can't be read, or one is refused.
pub async fn crds(api: &Api, dir: &Path) -> Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    let mut names = Vec::new();
    for file in files {
        for object in crate::manifests::parse(&fs::read_to_string(&file)?)? {
            if let ("CustomResourceDefinition", Some(name)) = (
                object["kind"].as_str().unwrap_or_default(),
                object["metadata"]["name"].as_str(),
            ) {
                names.push(name.to_owned());
            }
            api.apply_object(&object)
                .await
                .with_context(|| format!("apply {}", file.display()))?;
        }
    }
    for name in names {
        eventually_within(MINUTE, &format!("{name} is served"), async || {
            let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
            let crd = api.get(&path).await?;
            let established = crd["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "Established" && c["status"] == "True");
            ensure!(established, "not yet established");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Installs the umbrella chart with helm, and waits until everything runs.
///
/// # Errors
/// If helm fails, with its words.
pub async fn ambit(api: &Api) -> Result<()> {
    let chart = charts().join("ambit");
    helm(api)?
        .run(&[
            "upgrade",
            "--install",
            "ambit",
            &chart.display().to_string(),
            "--namespace=istio-system",
            "--create-namespace",
            "--wait",
            "--timeout=3m",
        ])
        .context("install Ambit")?;
    Ok(())
}

/// Applies the shop, and waits until it runs.
///
/// # Errors
/// What is refused or doesn't run.
pub async fn shop(api: &Api) -> Result<()> {
    let file = programs::scenarios().join("cluster/shop.yaml");
    let yaml = fs::read_to_string(&file).context("read the shop")?;
    let objects = crate::manifests::parse(&yaml)?;
    for object in &objects {
        api.apply_object(object).await?;
    }
    for object in objects.iter().filter(|o| o["kind"] == "Deployment") {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        api.wait_rolled_out("Deployment", text("namespace"), text("name"), MINUTE)
            .await?;
    }
    Ok(())
}

/// `helm`, for a cluster.
///
/// # Errors
/// If it isn't built.
pub fn helm(api: &Api) -> Result<Helm> {
    Ok(Helm {
        program: paths::kube_program("helm")?,
        kubeconfig: api.kubeconfig().to_owned(),
    })
}

/// See [`helm`].
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Helm {
    /// What it printed.
    ///
    /// # Errors
    /// If it failed, with what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let files = tempfile::tempdir()?;
        let output = Command::new(&self.program)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            // It keeps caches in the home directory, which is not ours.
            .env("HOME", files.path())
            .output()
            .context("start helm")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            "helm {arguments:?}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }
}

/// The charts of this repository.
pub fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts")
}

const MINUTE: Duration = Duration::from_secs(60);
