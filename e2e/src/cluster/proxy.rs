//! A node's proxy, its replacement, and pods that change under it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use ambit_netns::NetNs;
use ambit_testkit::process::Process;
use ambit_testkit::{client, eventually};
use anyhow::{Result, ensure};

use super::{Cluster, SYSTEM, alive, pod_name};
use crate::manifests::Key;

impl Cluster {
    /// Starts a node's proxy.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_ztunnel(&mut self, node: &str) -> Result<()> {
        let command = self.ztunnel_command(node)?;
        let name = format!("ztunnel-{node}");
        let ns = self.underlay.host(node)?.ns();
        let process = Process::start(self.sandbox.dir(), ns, &name, command)?;
        self.programs(node)?.ztunnel = Some(process);
        Ok(())
    }

    /// Starts a second proxy for a node's pods and waits until it is ready, as
    /// a rolling upgrade does. It lives in a network namespace of its own,
    /// since the ports of its admin server are taken on the node.
    ///
    /// # Errors
    /// If it doesn't become ready.
    pub async fn start_next_ztunnel(&mut self, node: &str) -> Result<(Process, NetNs)> {
        let beside = format!("{node}-next");
        let host = self.underlay.add_host(&self.sandbox, &beside).await?;
        let (ns, to) = (host.ns().clone(), SocketAddr::new(host.ip(), 15021));
        let command = self.ztunnel_command(node)?;
        let name = format!("ztunnel-{beside}");
        let mut process = Process::start(self.sandbox.dir(), &ns, &name, command)?;
        eventually("the next proxy is ready", async || {
            alive(&mut process)?;
            let answer = client::get(&ns, to, "/healthz/ready").await?;
            ensure!(answer.status == 200, "{}", answer.body);
            Ok(())
        })
        .await?;
        Ok((process, ns))
    }

    fn ztunnel_command(&self, node: &str) -> Result<Command> {
        let host = self.underlay.host(node)?;
        let dir = self.node_dir(node);
        let url = self.control_plane_url()?;
        let mut command = Command::new(self.ztunnel_program());
        command
            .args(["proxy", "ztunnel"])
            .env("NODE_NAME", node)
            .env("POD_NAME", format!("ztunnel-{node}"))
            .env("POD_NAMESPACE", SYSTEM)
            .env("SERVICE_ACCOUNT", "ztunnel")
            .env("INSTANCE_IP", host.ip().to_string())
            .env("XDS_ADDRESS", &url)
            .env("CA_ADDRESS", &url)
            .env("XDS_ROOT_CA", self.root_ca())
            .env("CA_ROOT_CA", self.root_ca())
            .env("AUTH_TOKEN", dir.join("ztunnel-token"))
            .env("INPOD_UDS", dir.join("zds.sock"))
            .env("ISTIO_META_DNS_CAPTURE", "false")
            .envs(&self.options.proxy_environment);
        Ok(command)
    }

    fn ztunnel_program(&self) -> PathBuf {
        self.options
            .ztunnel
            .clone()
            .unwrap_or_else(|| self.bin.join("ztunnel"))
    }

    /// A pod's sandbox fails and is made again: the same object and uid, a new
    /// network namespace.
    ///
    /// # Errors
    /// If something can't be made.
    pub async fn recreate_sandbox(&mut self, namespace: &str, name: &str) -> Result<()> {
        let key = Key::new("Pod", namespace, name);
        self.apps.remove(&key);
        self.underlay.remove_pod(&pod_name(&key)).await?;
        let pod = self.manifests.get(&key)?.clone();
        self.run_pod(pod).await
    }
}
