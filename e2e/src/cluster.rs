//! A mesh of two or more nodes: its programs, its pods and its manifests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ambit_netns::NetNs;
use ambit_testkit::net::Underlay;
use ambit_testkit::process::Process;
use ambit_testkit::sandbox::Sandbox;
use ambit_testkit::token::{Subject, TokenIssuer};
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::kubelet::{self, Readiness};
use crate::manifests::{Key, Manifests, set_meta};
use crate::{kubeproxy, programs};

mod look;
mod proxy;
mod waypoints;

use waypoints::Waypoints;
pub use waypoints::{WaypointPod, WaypointProgram};

const CONTROL: &str = "control";
const SYSTEM: &str = "istio-system";

/// How a cluster is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of manifests.
    pub scenario: PathBuf,
    /// Names of its nodes.
    pub nodes: Vec<String>,
    /// How long a pod that leaves the mesh may keep live connections.
    pub drain_bound: Duration,
    /// Further environment of the proxies.
    pub proxy_environment: BTreeMap<String, String>,
    /// Another program in the place of our `ztunnel`.
    pub ztunnel: Option<PathBuf>,
    /// Another program in the place of our `waypoint`.
    pub waypoint_program: Option<WaypointProgram>,
    /// Further environment of the waypoints.
    pub waypoint_environment: BTreeMap<String, String>,
}

impl Options {
    /// The shop on two nodes.
    pub fn shop() -> Self {
        Self {
            scenario: programs::scenarios().join("shop"),
            nodes: vec!["node-1".to_owned(), "node-2".to_owned()],
            drain_bound: Duration::from_secs(3600),
            proxy_environment: BTreeMap::new(),
            ztunnel: None,
            waypoint_program: None,
            waypoint_environment: BTreeMap::new(),
        }
    }
}

/// A running mesh. Everything ends when it is dropped.
pub struct Cluster {
    /// Its objects.
    pub manifests: Manifests,
    /// Its networks.
    pub underlay: Underlay,
    options: Options,
    bin: PathBuf,
    issuer: TokenIssuer,
    control_plane: Option<Process>,
    nodes: BTreeMap<String, NodePrograms>,
    apps: BTreeMap<Key, Process>,
    waypoints: Waypoints,
    // Last: its removal comes after the processes'.
    sandbox: Sandbox,
}

#[derive(Default)]
struct NodePrograms {
    ztunnel: Option<Process>,
    agent: Option<Process>,
}

impl Cluster {
    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// What couldn't be started, with the program's own words.
    pub async fn start(options: Options) -> Result<Self> {
        let mut cluster = Self::bare(options).await?;
        cluster.start_programs().await?;
        cluster.start_scenario().await?;
        Ok(cluster)
    }

    /// Networks and manifests of the system only; no program runs.
    ///
    /// # Errors
    /// If namespaces or files can't be made.
    pub async fn bare(options: Options) -> Result<Self> {
        let bin = programs::bin_dir()?;
        let sandbox = Sandbox::create("cluster")?;
        let mut underlay = Underlay::new(&sandbox).await?;
        underlay.add_host(&sandbox, CONTROL).await?;
        for node in &options.nodes {
            underlay.add_host(&sandbox, node).await?;
            std::fs::create_dir_all(sandbox.dir().join(node))?;
        }
        let manifests = Manifests::new(sandbox.dir().join("manifests"))?;
        let issuer = TokenIssuer::new("https://kubernetes.default.svc.cluster.local")?;
        issuer.write_jwks(&sandbox.dir().join("jwks.json"))?;
        let mut cluster = Self {
            manifests,
            underlay,
            options,
            bin,
            issuer,
            control_plane: None,
            nodes: BTreeMap::new(),
            apps: BTreeMap::new(),
            waypoints: Waypoints::default(),
            sandbox,
        };
        for node in cluster.options.nodes.clone() {
            cluster.system_pods(&node)?;
            cluster.nodes.insert(node, NodePrograms::default());
        }
        Ok(cluster)
    }

    /// The pods of the DaemonSets on a node, and their tokens.
    fn system_pods(&mut self, node: &str) -> Result<()> {
        let ip = self.underlay.host(node)?.ip().to_string();
        for account in ["ztunnel", "node-agent"] {
            let name = format!("{account}-{node}");
            let mut pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": SYSTEM, "labels": {"app": account}},
                "spec": {"nodeName": node, "serviceAccountName": account, "hostNetwork": true,
                    "containers": [{"name": account, "image": account}]},
            });
            kubelet::assign(&mut pod, &ip, None, Readiness::Ready);
            let uid = pod["metadata"]["uid"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            self.manifests.put(pod)?;
            let subject = Subject {
                namespace: SYSTEM,
                service_account: account,
                pod: &name,
                pod_uid: &uid,
                node,
            };
            let token = self.issuer.token(&subject)?;
            std::fs::write(self.node_dir(node).join(format!("{account}-token")), token)?;
        }
        Ok(())
    }

    /// Control plane, proxies and agents, each ready.
    ///
    /// # Errors
    /// What doesn't become ready.
    pub async fn start_programs(&mut self) -> Result<()> {
        self.start_control_plane().await?;
        for node in self.options.nodes.clone() {
            self.start_agent(&node)?;
            self.start_ztunnel(&node)?;
        }
        for node in self.options.nodes.clone() {
            self.wait_ztunnel_ready(&node).await?;
        }
        Ok(())
    }

    /// Starts istiod-lite and waits until it is ready.
    ///
    /// # Errors
    /// If it doesn't become ready.
    pub async fn start_control_plane(&mut self) -> Result<()> {
        let host = self.underlay.host(CONTROL)?;
        let dir = self.sandbox.dir();
        let mut command = Command::new(self.bin.join("istiod-lite"));
        command
            .arg("--from")
            .arg(self.manifests.dir())
            .arg("--state-dir")
            .arg(dir.join("istiod-state"))
            .arg("--listen")
            .arg(format!("{}:15012", host.ip()))
            .arg("--http")
            .arg(format!("{}:15014", host.ip()))
            .arg("--jwks")
            .arg(dir.join("jwks.json"))
            .args(["--token-issuer", self.issuer.issuer()])
            .arg("--publish-root")
            .arg(self.root_ca());
        self.control_plane = Some(Process::start(dir, host.ns(), "istiod-lite", command)?);
        let to = SocketAddr::new(host.ip(), 15014);
        let ns = host.ns().clone();
        let process = self.control_plane.as_mut().context("started above")?;
        eventually("istiod-lite is ready", async || {
            alive(process)?;
            let answer = client::get(&ns, to, "/ready").await?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(())
        })
        .await
    }

    /// Starts a node's agent.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_agent(&mut self, node: &str) -> Result<()> {
        let host = self.underlay.host(node)?;
        let dir = self.node_dir(node);
        let mut command = Command::new(self.bin.join("node-agent"));
        command
            .arg("--from")
            .arg(self.manifests.dir())
            .args(["--node", node])
            .arg("--zds-socket")
            .arg(dir.join("zds.sock"))
            .arg("--cni-socket")
            .arg(dir.join("cni.sock"))
            .args(["--control-plane", &self.control_plane_url()?])
            .arg("--root-ca")
            .arg(self.root_ca())
            .arg("--token-file")
            .arg(dir.join("node-agent-token"))
            .args([
                "--drain-bound",
                &format!("{}s", self.options.drain_bound.as_secs()),
            ])
            .arg("--http")
            .arg(format!("{}:8000", host.ip()));
        let name = format!("node-agent-{node}");
        let process = Process::start(self.sandbox.dir(), host.ns(), &name, command)?;
        self.programs(node)?.agent = Some(process);
        Ok(())
    }

    /// Waits until a node's proxy is ready.
    ///
    /// # Errors
    /// What it still waits for.
    pub async fn wait_ztunnel_ready(&mut self, node: &str) -> Result<()> {
        let host = self.underlay.host(node)?;
        let (ns, to) = (host.ns().clone(), SocketAddr::new(host.ip(), 15021));
        let process = self.programs(node)?.ztunnel.as_mut().context("no proxy")?;
        eventually(&format!("ztunnel of {node} is ready"), async || {
            alive(process)?;
            let answer = client::get(&ns, to, "/healthz/ready").await?;
            ensure!(answer.status == 200, "{}", answer.body);
            Ok(())
        })
        .await
    }

    /// Applies the scenario's objects and runs its pods.
    ///
    /// # Errors
    /// What went wrong with an object or a pod.
    pub async fn start_scenario(&mut self) -> Result<()> {
        let (pods, others): (Vec<_>, Vec<_>) = Manifests::read_scenario(&self.options.scenario)?
            .into_iter()
            .partition(|object| object["kind"] == "Pod");
        for object in others {
            self.manifests.put(object)?;
        }
        for pod in pods {
            self.run_pod(pod).await?;
        }
        self.sync_waypoints().await
    }

    /// Does for a pod what a kubelet does, until it is ready.
    ///
    /// # Errors
    /// What went wrong, with the words of the agent or the application.
    pub async fn run_pod(&mut self, mut pod: Value) -> Result<()> {
        let text = |path: &str| pod.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let name = text("/metadata/name").context("a pod has a name")?;
        let namespace = text("/metadata/namespace").context("a pod has a namespace")?;
        let node = text("/spec/nodeName").context("a pod has a node")?;
        let key = Key::new("Pod", &namespace, &name);
        let net = self
            .underlay
            .add_pod(&self.sandbox, &pod_name(&key), &node)
            .await?;
        let (ip, path, ns) = (
            net.ip().to_string(),
            net.ns_path().to_owned(),
            net.ns().clone(),
        );
        kubelet::assign(&mut pod, &ip, Some(&path), Readiness::Starting);
        self.manifests.put(pod)?;
        let socket = self.node_dir(&node).join("cni.sock");
        eventually(&format!("{namespace}/{name} may start"), async || {
            kubelet::cni_add(&socket, &key, &path, &ip).await
        })
        .await?;
        let app = kubelet::run(self.sandbox.dir(), &self.bin, &self.manifests, &key, &ns).await?;
        self.apps.insert(key.clone(), app);
        self.manifests.edit(&key, |pod| {
            kubelet::assign(pod, &ip, Some(&path), Readiness::Ready);
        })
    }

    /// Ends a pod: its application, its object, its network.
    ///
    /// # Errors
    /// If something can't be removed.
    pub async fn delete_pod(&mut self, namespace: &str, name: &str) -> Result<()> {
        let key = Key::new("Pod", namespace, name);
        self.apps.remove(&key);
        self.manifests.delete(&key)?;
        self.underlay.remove_pod(&pod_name(&key)).await
    }

    /// Applies every object of a YAML text (no pods).
    ///
    /// # Errors
    /// If it can't be parsed or written.
    pub fn apply(&mut self, yaml: &str) -> Result<()> {
        for object in crate::manifests::parse(yaml)? {
            ensure!(object["kind"] != "Pod", "pods are run, not applied");
            self.manifests.put(object)?;
        }
        self.sync_kube_proxy()
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// If its file can't be removed.
    pub fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        self.manifests.delete(&Key::new(kind, namespace, name))
    }

    /// Sets or removes a label of a namespace.
    ///
    /// # Errors
    /// If there is no such namespace.
    pub fn label_namespace(&mut self, name: &str, key: &str, value: Option<&str>) -> Result<()> {
        self.manifests.edit(&Key::new("Namespace", "", name), |ns| {
            set_meta(ns, "labels", key, value)
        })
    }

    /// Makes virtual addresses work for pods outside of the mesh.
    ///
    /// # Errors
    /// If `nft` refuses.
    pub fn sync_kube_proxy(&self) -> Result<()> {
        for node in &self.options.nodes {
            kubeproxy::sync(&self.manifests, self.underlay.host(node)?.ns())?;
        }
        Ok(())
    }

    /// A pod's namespace.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn pod_ns(&self, namespace: &str, name: &str) -> Result<NetNs> {
        Ok(self
            .underlay
            .pod(&format!("{namespace}/{name}"))?
            .ns()
            .clone())
    }

    /// An address on a pod.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn pod_addr(&self, namespace: &str, name: &str, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::new(
            self.underlay.pod(&format!("{namespace}/{name}"))?.ip(),
            port,
        ))
    }

    /// A service's virtual address.
    ///
    /// # Errors
    /// If it has none.
    pub fn service_addr(&self, namespace: &str, name: &str, port: u16) -> Result<SocketAddr> {
        let service = self.manifests.get(&Key::new("Service", namespace, name))?;
        let ip = service
            .pointer("/spec/clusterIP")
            .and_then(Value::as_str)
            .context("no VIP")?;
        Ok(SocketAddr::new(ip.parse()?, port))
    }

    /// The control plane's process.
    ///
    /// # Errors
    /// If it isn't running.
    pub fn control_plane(&mut self) -> Result<&mut Process> {
        self.control_plane
            .as_mut()
            .context("the control plane isn't running")
    }

    /// A node's proxy process.
    ///
    /// # Errors
    /// If it isn't running.
    pub fn ztunnel(&mut self, node: &str) -> Result<&mut Process> {
        self.programs(node)?.ztunnel.as_mut().context("no proxy")
    }

    /// A node's agent process.
    ///
    /// # Errors
    /// If it isn't running.
    pub fn agent(&mut self, node: &str) -> Result<&mut Process> {
        self.programs(node)?.agent.as_mut().context("no agent")
    }

    /// [`ztunnel`](Self::ztunnel), to look at only.
    ///
    /// # Errors
    /// If it isn't running.
    pub fn ztunnel_process(&self, node: &str) -> Result<&Process> {
        self.nodes
            .get(node)
            .and_then(|n| n.ztunnel.as_ref())
            .context("no proxy")
    }

    /// [`control_plane`](Self::control_plane), to look at only.
    ///
    /// # Errors
    /// If it isn't running.
    pub fn control_plane_process(&self) -> Result<&Process> {
        self.control_plane
            .as_ref()
            .context("the control plane isn't running")
    }

    fn programs(&mut self, node: &str) -> Result<&mut NodePrograms> {
        match self.nodes.get_mut(node) {
            Some(programs) => Ok(programs),
            None => bail!("no node {node}"),
        }
    }
}

fn alive(process: &mut Process) -> Result<()> {
    match process.exited()? {
        None => Ok(()),
        Some(status) => bail!("it ended ({status}):\n{}", process.log()),
    }
}

fn pod_name(key: &Key) -> String {
    format!("{}/{}", key.namespace, key.name)
}
