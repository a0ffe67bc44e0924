//! What a test sees of a running mesh: dumps, metrics, statuses, files, logs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ambit_testkit::sandbox::Sandbox;
use ambit_testkit::token::TokenIssuer;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{CONTROL, Cluster};
use crate::manifests::Key;
use crate::scrape::Samples;

impl Cluster {
    /// A proxy's configuration dump.
    ///
    /// # Errors
    /// If it doesn't answer.
    pub async fn config_dump(&self, node: &str) -> Result<Value> {
        let admin = SocketAddr::from(([127, 0, 0, 1], 15000));
        let answer = client::get(self.underlay.host(node)?.ns(), admin, "/config_dump").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(serde_json::from_str(&answer.body)?)
    }

    /// A proxy's metrics.
    ///
    /// # Errors
    /// If it doesn't answer.
    pub async fn metrics(&self, node: &str) -> Result<Samples> {
        let host = self.underlay.host(node)?;
        let answer = client::get(host.ns(), SocketAddr::new(host.ip(), 15020), "/metrics").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(Samples::parse(&answer.body))
    }

    /// The control plane's statuses and diagnostics.
    ///
    /// # Errors
    /// If it doesn't answer.
    pub async fn statusz(&self) -> Result<Value> {
        let host = self.underlay.host(CONTROL)?;
        let to = SocketAddr::new(host.ip(), 15014);
        Ok(serde_json::from_str(
            &client::get(host.ns(), to, "/debug/statusz").await?.body,
        )?)
    }

    /// How each of these pods is carried, as a node's proxy knows it: waits
    /// until it is as wanted.
    ///
    /// # Errors
    /// What it is instead.
    pub async fn wait_protocol(
        &self,
        on: &str,
        namespace: &str,
        pod: &str,
        want: &str,
    ) -> Result<()> {
        eventually(
            &format!("{on} knows {namespace}/{pod} as {want}"),
            async || {
                let dump = self.config_dump(on).await?;
                let workloads = dump["workloads"].as_array().context("no workloads")?;
                let found = workloads
                    .iter()
                    .find(|w| w["name"] == pod && w["namespace"] == namespace);
                let protocol = &found.with_context(|| format!("no {namespace}/{pod}"))?["protocol"];
                ensure!(protocol == want, "it is {protocol}");
                Ok(())
            },
        )
        .await
    }

    /// Waits until a proxy holds a policy, or holds it no more.
    ///
    /// # Errors
    /// If it doesn't happen.
    pub async fn wait_policy(&self, on: &str, name: &str, present: bool) -> Result<()> {
        eventually(&format!("{on} has policy {name}: {present}"), async || {
            let dump = self.config_dump(on).await?;
            let policies = dump["policies"].as_array().context("no policies")?;
            ensure!(
                policies.iter().any(|p| p["name"] == name) == present,
                "not yet"
            );
            Ok(())
        })
        .await
    }

    /// A pod's uid.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn uid(&self, namespace: &str, name: &str) -> Result<String> {
        let pod = self.manifests.get(&Key::new("Pod", namespace, name))?;
        let uid = pod["metadata"]["uid"].as_str();
        Ok(uid.context("a pod without a uid")?.to_owned())
    }

    /// The directory of the run.
    pub fn dir(&self) -> &Path {
        self.sandbox.dir()
    }

    /// The run's files, namespaces and processes.
    pub fn sandbox(&mut self) -> &mut Sandbox {
        &mut self.sandbox
    }

    /// Files of a node's programs.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.sandbox.dir().join(node)
    }

    /// Names of the nodes.
    pub fn node_names(&self) -> &[String] {
        &self.options.nodes
    }

    /// The programs under test.
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    /// The token issuer that the control plane trusts.
    pub fn issuer(&self) -> &TokenIssuer {
        &self.issuer
    }

    /// The published root bundle.
    pub fn root_ca(&self) -> PathBuf {
        self.sandbox.dir().join("root-cert.pem")
    }

    /// Where xDS and certificates are served.
    ///
    /// # Errors
    /// If there is no control host.
    pub fn control_plane_url(&self) -> Result<String> {
        Ok(format!(
            "https://{}:15012",
            self.underlay.host(CONTROL)?.ip()
        ))
    }

    /// Every program's log, for the report of a failure.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let programs = self
            .nodes
            .values()
            .flat_map(|n| [n.ztunnel.as_ref(), n.agent.as_ref()]);
        for process in programs.chain([self.control_plane.as_ref()]).flatten() {
            text.push_str(&format!(
                "=== {}\n{}\n",
                process.log_path().display(),
                process.log()
            ));
        }
        text
    }
}
