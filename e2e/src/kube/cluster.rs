//! A whole cluster: control plane, nodes, DNS.

use std::path::PathBuf;
use std::time::Duration;

use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};

use super::api::Api;
use super::control::ControlPlane;
use super::images;
use super::node::{Node, NodeOptions};
use super::options::ControlPlaneOptions;
use super::run::Run;

/// How a cluster is made.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Its control plane.
    pub control: ControlPlaneOptions,
    /// How many nodes, 1 to 9: `node-1`, `node-2`, …
    pub nodes: u8,
    /// Image archives besides Kubernetes' own.
    pub images: Vec<PathBuf>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            control: ControlPlaneOptions::whole(),
            nodes: 2,
            images: Vec::new(),
        }
    }
}

/// A running cluster in a box of its own. Dropping it removes the box and
/// every trace of it, unless it was left to itself.
pub struct Cluster {
    // First: nodes are part of the control plane's box.
    nodes: Vec<Node>,
    control: ControlPlane,
}

impl Cluster {
    /// Starts one, and waits until its nodes are ready and DNS answers.
    ///
    /// # Errors
    /// What couldn't be started, with the program's own words.
    pub async fn start(options: ClusterOptions) -> Result<Self> {
        Self::start_in(Run::create_numbered("cluster")?, options).await
    }

    /// [`start`](Self::start) in a run that the caller made.
    ///
    /// # Errors
    /// What couldn't be started, with the program's own words.
    pub async fn start_in(run: Run, options: ClusterOptions) -> Result<Self> {
        ensure!((1..10).contains(&options.nodes), "1 to 9 nodes");
        let mut images = images::of_kubernetes()?;
        images.extend(options.images);
        let control = ControlPlane::start_in(run, options.control).await?;
        let mut made = Self {
            nodes: Vec::new(),
            control,
        };
        for index in 1..=options.nodes {
            let options = NodeOptions {
                name: format!("node-{index}"),
                index,
                of: options.nodes,
                images: images.clone(),
            };
            made.nodes.push(Node::start(&made.control, options).await?);
        }
        made.api().apply(&made.dns()).await?;
        for index in 1..=options.nodes {
            made.wait_ready(&format!("node-{index}")).await?;
        }
        made.api()
            .wait_rolled_out("Deployment", "kube-system", "coredns", MINUTE)
            .await?;
        Ok(made)
    }

    /// The control plane.
    pub fn control(&self) -> &ControlPlane {
        &self.control
    }

    /// The control plane, to stop parts of it.
    pub fn control_mut(&mut self) -> &mut ControlPlane {
        &mut self.control
    }

    /// The administrator's client.
    pub fn api(&self) -> &Api {
        self.control.api()
    }

    /// Its nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by its name.
    ///
    /// # Errors
    /// If there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.with_context(|| format!("no node {name}"))
    }

    /// Kills a node.
    ///
    /// # Errors
    /// If it is down.
    pub fn kill_node(&mut self, name: &str) -> Result<()> {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.with_context(|| format!("no node {name}"))?.kill()
    }

    /// Boots a node that was killed.
    ///
    /// # Errors
    /// If it is up, or doesn't start.
    pub async fn boot_node(&mut self, name: &str) -> Result<()> {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        let node = found.with_context(|| format!("no node {name}"))?;
        node.boot(&self.control).await
    }

    /// Restarts the Kubernetes components of its nodes; their pods go on.
    pub(super) fn restart_components(&mut self) -> Result<()> {
        let mut nodes = self.nodes.iter_mut();
        nodes.try_for_each(|node| node.restart_components(&self.control))
    }

    /// Imports an image on every node.
    ///
    /// # Errors
    /// If a node refuses it.
    pub fn import(&self, archive: &std::path::Path) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.import(archive))
    }

    /// Waits until a node is ready.
    ///
    /// # Errors
    /// Why it isn't, with the kubelet's last words.
    pub async fn wait_ready(&self, name: &str) -> Result<()> {
        let node = self.node(name)?;
        let path = format!("/api/v1/nodes/{name}");
        eventually_within(MINUTE, &format!("{name} is ready"), async || {
            let object = self.api().get(&path).await?;
            let conditions = object["status"]["conditions"].as_array();
            let mut conditions = conditions.into_iter().flatten();
            let ready = conditions.find(|c| c["type"] == "Ready");
            let ready = ready.context("it has no condition yet")?;
            ensure!(ready["status"] == "True", "{ready}");
            Ok(())
        })
        .await
        .with_context(|| last_lines(&node.log("kubelet")))
    }

    /// Leaves the cluster to itself: it stays up when this process ends.
    /// Returns the administrator's kubeconfig.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn leave(self) -> Result<PathBuf> {
        for node in self.nodes {
            node.leave()?;
        }
        self.control.leave()
    }

    fn dns(&self) -> String {
        let options = self.control.options();
        DNS.replace("IMAGE", images::COREDNS)
            .replace("ADDRESS", &options.dns().to_string())
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    let from = lines.len().saturating_sub(15);
    lines.get(from..).unwrap_or_default().join("\n")
}

const DNS: &str = include_str!("../../kube/dns.yaml");
const MINUTE: Duration = Duration::from_secs(60);
