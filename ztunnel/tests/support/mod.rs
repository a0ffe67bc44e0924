//! Two nodes with a ztunnel each, their pods, and around them a node agent, a
//! certificate service and a discovery service that follow the contracts but
//! are none of ours beyond the wire.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test support, which clippy.toml does not recognise as tests"
)]

pub(crate) mod control;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use ambit_netns::NetNs;
use ambit_proto::workload as pb;
use ambit_redirect::zds::{ProxyState, WorkloadInfo, ZdsConfig, ZdsHandle, ZdsServer};
use ambit_redirect::{Capture, Redirector, RuleSet};
use ambit_runtime::Scope;
use ambit_testkit::net::Underlay;
use ambit_testkit::process::Process;
use ambit_testkit::sandbox::Sandbox;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use control::{CaServer, Discovery};

/// Port of the echo application of every pod.
pub(crate) const ECHO: u16 = 8080;

/// Addresses of the pods, by name.
pub(crate) type Ips = BTreeMap<&'static str, IpAddr>;

/// Content of the discovery service.
pub(crate) type Published = (Vec<pb::Workload>, Vec<ambit_proto::security::Authorization>);

/// A pod of the test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PodSpec {
    pub(crate) name: &'static str,
    pub(crate) account: &'static str,
    pub(crate) node: &'static str,
    /// In the mesh: handed to its node's proxy, rules installed.
    pub(crate) enrolled: bool,
}

/// A pod that is in the mesh.
pub(crate) const fn pod(name: &'static str, node: &'static str) -> PodSpec {
    PodSpec {
        name,
        account: name,
        node,
        enrolled: true,
    }
}

/// A pod that isn't.
pub(crate) const fn outsider(name: &'static str, node: &'static str) -> PodSpec {
    PodSpec {
        name,
        account: name,
        node,
        enrolled: false,
    }
}

/// A pod that isn't in the mesh yet, of somebody else's service account.
pub(crate) const fn share_account(
    name: &'static str,
    account: &'static str,
    node: &'static str,
) -> PodSpec {
    PodSpec {
        name,
        account,
        node,
        enrolled: false,
    }
}

pub(crate) struct Node {
    pub(crate) ztunnel: Process,
    pub(crate) zds: ZdsHandle,
    agent: Scope,
    pub(crate) ns: NetNs,
}

pub(crate) struct Mesh {
    pub(crate) nodes: BTreeMap<&'static str, Node>,
    pub(crate) net: Underlay,
    pub(crate) scope: Scope,
    pub(crate) ca: CaServer,
    /// Where the test isn't on static configuration.
    pub(crate) discovery: Option<Discovery>,
    pub(crate) sandbox: Sandbox,
}

/// How the ztunnels are configured beyond what every test needs.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) env: Vec<(&'static str, String)>,
    /// Static configuration for both, made of the pods' addresses.
    pub(crate) static_xds: Option<fn(&Ips) -> String>,
    /// What the discovery service has at the start, where there is no static
    /// configuration.
    pub(crate) published: Option<fn(&Ips) -> Published>,
}

/// An HBONE workload as the control plane would send it.
pub(crate) fn workload(pod: &PodSpec, ip: IpAddr) -> pb::Workload {
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    pb::Workload {
        uid: format!("Kubernetes//Pod/shop/{}", pod.name),
        name: pod.name.to_owned(),
        namespace: "shop".to_owned(),
        addresses: vec![octets.into()],
        service_account: pod.account.to_owned(),
        node: pod.node.to_owned(),
        tunnel_protocol: pb::TunnelProtocol::Hbone.into(),
        workload_name: pod.name.to_owned(),
        canonical_name: pod.name.to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        ..pb::Workload::default()
    }
}

impl Mesh {
    /// Nodes `n1` and `n2`, the pods, and an echo application in each.
    pub(crate) async fn start(tag: &str, pods: &[PodSpec], options: Options) -> Result<Self> {
        let sandbox = Sandbox::create(tag)?;
        let scope = Scope::new("test");
        let mut net = Underlay::new(&sandbox).await?;
        for host in ["n1", "n2", "cp"] {
            net.add_host(&sandbox, host).await?;
        }
        let mut ips = BTreeMap::new();
        for pod in pods {
            let made = net.add_pod(&sandbox, pod.name, pod.node).await?;
            ips.insert(pod.name, made.ip());
            echo(&scope, made.ns(), ECHO)?;
        }
        let cp = net.host("cp")?;
        let ca = CaServer::start(&scope, cp.ns(), cp.ip(), sandbox.dir()).await?;
        let mut mesh = Self {
            nodes: BTreeMap::new(),
            net,
            scope,
            ca,
            discovery: None,
            sandbox,
        };
        if let Some(content) = options.published {
            let cp = mesh.net.host("cp")?;
            let mut discovery = Discovery::start(&mesh.scope, cp.ns(), cp.ip(), &mesh.ca)?;
            let (workloads, policies) = content(&ips);
            discovery.publish(&workloads, &policies);
            mesh.discovery = Some(discovery);
        }
        for node in ["n1", "n2"] {
            mesh.start_node(node, pods, &ips, &options).await?;
        }
        for pod in pods.iter().filter(|pod| pod.enrolled) {
            mesh.enrol(pod).await?;
        }
        for node in mesh.nodes.values() {
            node.ready().await?;
        }
        Ok(mesh)
    }

    async fn start_node(
        &mut self,
        name: &'static str,
        pods: &[PodSpec],
        ips: &Ips,
        options: &Options,
    ) -> Result<()> {
        let (agent, zds) = self.agent(name, pods)?;
        let command = self.command(name, ips, options)?;
        let ns = self.net.host(name)?.ns().clone();
        let ztunnel = Process::start(self.sandbox.dir(), &ns, &format!("ztunnel-{name}"), command)?;
        self.nodes.insert(
            name,
            Node {
                ztunnel,
                zds,
                agent,
                ns,
            },
        );
        Ok(())
    }

    fn command(&self, name: &str, ips: &Ips, options: &Options) -> Result<Command> {
        let socket = self.socket(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ztunnel"));
        command
            .args(["proxy", "ztunnel"])
            .env_clear()
            .env("NODE_NAME", name)
            .env("INPOD_UDS", &socket)
            .env("CA_ADDRESS", self.ca.address())
            .env("CA_ROOT_CA", self.ca.root_path())
            .env("RUST_LOG", "info,ztunnel=debug,access=debug")
            .env("ZTUNNEL_WORKER_THREADS", "2");
        if let Some(make) = options.static_xds {
            let path = self.sandbox.dir().join("local.yaml");
            std::fs::write(&path, make(ips))?;
            command.env("XDS_ADDRESS", "").env("LOCAL_XDS_PATH", &path);
        }
        if let Some(discovery) = &self.discovery {
            command
                .env("XDS_ADDRESS", discovery.address())
                .env("XDS_ROOT_CA", self.ca.root_path());
        }
        for (key, value) in &options.env {
            command.env(key, value);
        }
        Ok(command)
    }

    /// A second proxy of a node, as during an upgrade: in a namespace of its
    /// own, on the same node agent.
    pub(crate) async fn upgrade(
        &mut self,
        name: &'static str,
        options: &Options,
    ) -> Result<Process> {
        let host = format!("{name}b");
        self.net.add_host(&self.sandbox, &host).await?;
        let ns = self.net.host(&host)?.ns().clone();
        let command = self.command(name, &Ips::new(), options)?;
        let new = Process::start(self.sandbox.dir(), &ns, &format!("ztunnel-{host}"), command)?;
        let node = self.nodes.get_mut(name).context("no such node")?;
        node.ns = ns;
        let old = std::mem::replace(&mut node.ztunnel, new);
        self.node(name).ready().await?;
        Ok(old)
    }

    fn socket(&self, node: &str) -> std::path::PathBuf {
        self.sandbox.dir().join(format!("{node}.sock"))
    }

    fn agent(&self, node: &str, pods: &[PodSpec]) -> Result<(Scope, ZdsHandle)> {
        let server = ZdsServer::bind(self.socket(node), ZdsConfig::default())?;
        let handle = server.handle();
        for pod in pods.iter().filter(|pod| pod.enrolled && pod.node == node) {
            handle.insert(
                pod.name,
                info(pod),
                Some(self.net.pod(pod.name)?.ns().clone()),
            );
        }
        let scope = self.scope.child("agent");
        scope.spawn("zds", server.run(scope.clone()));
        Ok((scope, handle))
    }

    /// The node agent is gone.
    pub(crate) async fn stop_agent(&self, node: &str) {
        let agent = &self.node(node).agent;
        agent.cancel();
        agent.finish(Duration::from_secs(5)).await;
    }

    /// A new node agent that knows the pods.
    pub(crate) fn start_agent(&mut self, node: &'static str, pods: &[PodSpec]) -> Result<()> {
        let (agent, zds) = self.agent(node, pods)?;
        let node = self.nodes.get_mut(node).context("no such node")?;
        (node.agent, node.zds) = (agent, zds);
        Ok(())
    }

    /// Hands one more pod to its node's proxy.
    pub(crate) fn insert(&self, pod: &PodSpec) -> Result<()> {
        let ns = self.net.pod(pod.name)?.ns().clone();
        self.node(pod.node)
            .zds
            .insert(pod.name, info(pod), Some(ns));
        Ok(())
    }

    /// Waits for the pod's proxy, then puts the rules in.
    pub(crate) async fn enrol(&self, pod: &PodSpec) -> Result<()> {
        let node = self.node(pod.node);
        eventually(&format!("{} is served", pod.name), async || {
            match node.zds.state(pod.name) {
                ProxyState::Listening => Ok(()),
                other => bail!("{other:?}\n{}", node.ztunnel.log()),
            }
        })
        .await?;
        let rules = RuleSet::Capture(Capture {
            ipv6: false,
            ..Capture::default()
        });
        Redirector::new()
            .ensure(self.net.pod(pod.name)?.ns(), &rules)
            .await?;
        Ok(())
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        &self.nodes[name]
    }

    pub(crate) fn ip(&self, pod: &str) -> IpAddr {
        self.net.pod(pod).unwrap().ip()
    }

    pub(crate) fn ns(&self, pod: &str) -> &NetNs {
        self.net.pod(pod).unwrap().ns()
    }

    /// A connection from a pod to a pod's echo application.
    pub(crate) async fn dial(&self, from: &str, to: &str) -> Result<TcpStream> {
        client::connect(self.ns(from), SocketAddr::new(self.ip(to), ECHO)).await
    }

    /// Sends a text over a new connection and expects it back, preceded by the
    /// address that the application saw.
    pub(crate) async fn echo(&self, from: &str, to: &str) -> Result<IpAddr> {
        let mut stream = self.dial(from, to).await?;
        exchange(&mut stream).await
    }

    /// A connection that is closed without an answer.
    pub(crate) async fn refused(&self, from: &str, to: &str) -> Result<()> {
        match self.echo(from, to).await {
            Ok(_) => bail!("{from} reached {to}"),
            Err(_) => Ok(()),
        }
    }
}

impl Node {
    pub(crate) async fn ready(&self) -> Result<()> {
        eventually("ready", async || {
            let answer = self.get(15021, "/healthz/ready").await?;
            ensure!(answer.status == 200, "{}", answer.body);
            Ok(())
        })
        .await
        .with_context(|| self.ztunnel.log())
    }

    pub(crate) async fn get(&self, port: u16, path: &str) -> Result<client::Answer> {
        client::get(&self.ns, SocketAddr::from(([127, 0, 0, 1], port)), path).await
    }

    pub(crate) async fn post(&self, port: u16, path: &str) -> Result<client::Answer> {
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        client::post(&self.ns, to, path, String::new()).await
    }

    pub(crate) async fn dump(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(
            &self.get(15000, "/config_dump").await?.body,
        )?)
    }

    /// Sum of a metric's series that carry all the given labels.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        let text = self.get(15020, "/metrics").await?.body;
        let wanted: Vec<_> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let mut sum = 0;
        for line in text.lines().filter(|l| l.starts_with(&format!("{name}{{"))) {
            if wanted.iter().all(|label| line.contains(label)) {
                let value = line.rsplit(' ').next().context("no value")?;
                sum += value.parse::<u64>()?;
            }
        }
        Ok(sum)
    }

    /// The first line of the log that holds all the texts.
    pub(crate) async fn logged(&self, texts: &[&str]) -> Result<String> {
        eventually(&format!("a log line with {texts:?}"), async || {
            let log = self.ztunnel.log();
            let found = log
                .lines()
                .find(|line| texts.iter().all(|text| line.contains(text)));
            found.map(str::to_owned).with_context(|| log.clone())
        })
        .await
    }
}

pub(crate) fn info(pod: &PodSpec) -> WorkloadInfo {
    WorkloadInfo {
        name: pod.name.to_owned(),
        namespace: "shop".to_owned(),
        service_account: pod.account.to_owned(),
    }
}

/// One question and answer on an open connection.
pub(crate) async fn exchange(stream: &mut TcpStream) -> Result<IpAddr> {
    let question = b"hello mesh\n";
    let talk = async {
        stream.write_all(question).await?;
        let mut answer = vec![0; 64 + question.len()];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(12), talk)
        .await
        .context("no echo")??;
    let (peer, echoed) = answer.split_at(64);
    ensure!(echoed == question, "{echoed:?}");
    Ok(String::from_utf8_lossy(peer).trim().parse()?)
}

/// Answers each 11-byte question with the client's address in 64 bytes and the
/// question.
fn echo(scope: &Scope, ns: &NetNs, port: u16) -> Result<()> {
    let listener = ns.run(|| std::net::TcpListener::bind(("0.0.0.0", port)))??;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let tasks = scope.clone();
    scope.spawn("echo", async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            tasks.spawn("echo connection", async move {
                let mut question = [0; 11];
                while stream.read_exact(&mut question).await.is_ok() {
                    let mut answer = format!("{:<64}", peer.ip()).into_bytes();
                    answer.extend_from_slice(&question);
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(())
}
