//! Two nodes with a ztunnel each, started by hand, and three pods.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use ambit_e2e::{programs, scrape::Samples};
use ambit_netns::{NetNs, Netlink, PolicyRule};
use ambit_runtime::Scope;
use ambit_testkit::net::Underlay;
use ambit_testkit::process::Process;
use ambit_testkit::sandbox::Sandbox;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::{Agent, Info};
use crate::ca::Ca;

pub(crate) const PODS: [(&str, &str); 4] = [
    ("client", "n1"),
    ("mallory", "n1"),
    ("server", "n2"),
    ("outsider", "n1"),
];

pub(crate) struct World {
    pub(crate) net: Underlay,
    pub(crate) ca: Ca,
    pub(crate) ztunnels: BTreeMap<&'static str, Process>,
    apps: Vec<Process>,
    pub(crate) scope: Scope,
    sandbox: Sandbox,
}

pub(crate) fn info(pod: &str) -> Info<'_> {
    Info {
        name: pod,
        namespace: "shop",
        account: pod,
    }
}

impl World {
    /// Networks, applications and the certificate service.
    pub(crate) async fn new(tag: &str) -> Result<Self> {
        let sandbox = Sandbox::create(tag)?;
        let mut net = Underlay::new(&sandbox).await?;
        for host in ["n1", "n2", "cp"] {
            net.add_host(&sandbox, host).await?;
        }
        let mut apps = Vec::new();
        let mut config = include_str!("static.yaml").to_owned();
        for (pod, node) in PODS {
            let made = net.add_pod(&sandbox, pod, node).await?;
            config = config.replace(&format!("@{pod}@"), &made.ip().to_string());
            let mut command = Command::new(programs::bin_dir()?.join("ambit-echo"));
            command.args(["serve", "--http=8080", "--tcp=9000"]);
            apps.push(Process::start(sandbox.dir(), made.ns(), pod, command)?);
        }
        std::fs::write(sandbox.dir().join("local.yaml"), config)?;
        let scope = Scope::new("by hand");
        let cp = net.host("cp")?;
        let at = SocketAddr::new(cp.ip(), 15012);
        let ca = Ca::start(&scope, cp.ns(), at, sandbox.dir())?;
        let world = Self {
            net,
            ca,
            ztunnels: BTreeMap::new(),
            apps,
            scope,
            sandbox,
        };
        for (pod, _) in PODS {
            world.serves(pod).await?;
        }
        Ok(world)
    }

    async fn serves(&self, pod: &str) -> Result<()> {
        let ns = self.ns(pod)?;
        eventually("the application listens", async || {
            for port in [8080, 9000] {
                client::connect(&ns, ([127, 0, 0, 1], port).into()).await?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) fn socket(&self, node: &str) -> PathBuf {
        self.sandbox.dir().join(format!("{node}.sock"))
    }

    pub(crate) fn agent(&self, node: &str) -> Result<Agent> {
        Agent::listen(&self.socket(node))
    }

    /// Exactly what somebody types who tries it.
    pub(crate) fn start_ztunnel(&mut self, node: &'static str) -> Result<()> {
        let token = self.sandbox.dir().join("token");
        std::fs::write(&token, "any-token\n")?;
        let mut command = Command::new(programs::bin_dir()?.join("ztunnel"));
        command
            .args(["proxy", "ztunnel"])
            .env_clear()
            .env("NODE_NAME", node)
            .env("XDS_ADDRESS", "")
            .env("LOCAL_XDS_PATH", self.sandbox.dir().join("local.yaml"))
            .env("CA_ADDRESS", &self.ca.address)
            .env("CA_ROOT_CA", &self.ca.root)
            .env("AUTH_TOKEN", &token)
            .env("INPOD_UDS", self.socket(node))
            .env("AMBIT_RESOLV_CONF", self.sandbox.dir().join("resolv.conf"));
        let host = self.net.host(node)?;
        let name = format!("ztunnel-{node}");
        let process = Process::start(self.sandbox.dir(), host.ns(), &name, command)?;
        self.ztunnels.insert(node, process);
        Ok(())
    }

    /// A file for the programs.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(std::fs::write(self.sandbox.dir().join(name), text)?)
    }

    /// Redirects a pod: `nft -f`, one rule, one route.
    pub(crate) async fn redirect(&self, pod: &str) -> Result<()> {
        let ns = self.ns(pod)?;
        let file = self.sandbox.dir().join("redirect.nft");
        std::fs::write(&file, include_str!("redirect.nft"))?;
        let output = ns.run_on_thread(|| Command::new("nft").arg("-f").arg(&file).output())??;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let netlink = Netlink::in_ns(&ns)?;
        let rule = PolicyRule {
            v6: false,
            mark: 0x111,
            mask: 0xfff,
            table: 100,
            priority: 32764,
        };
        netlink.add_mark_rule(rule).await?;
        netlink.add_local_default(false, 100).await?;
        Ok(())
    }

    pub(crate) fn ns(&self, pod: &str) -> Result<NetNs> {
        Ok(self.net.pod(pod)?.ns().clone())
    }

    pub(crate) fn ip(&self, pod: &str) -> Result<IpAddr> {
        Ok(self.net.pod(pod)?.ip())
    }

    /// GET from a pod; the client's address as the application saw it.
    pub(crate) async fn seen_from(&self, pod: &str, to: SocketAddr) -> Result<String> {
        let answer = client::get(&self.ns(pod)?, to, "/").await?;
        ensure!(answer.status == 200, "{answer:?}");
        let body: Value = serde_json::from_str(&answer.body)?;
        Ok(body["client"].as_str().context("no client")?.to_owned())
    }

    async fn on_node(&self, node: &str, port: u16, path: &str) -> Result<client::Answer> {
        let loopback = SocketAddr::from(([127, 0, 0, 1], port));
        client::get(self.net.host(node)?.ns(), loopback, path).await
    }

    pub(crate) async fn ready(&self, node: &str) -> Result<client::Answer> {
        self.on_node(node, 15021, "/healthz/ready").await
    }

    pub(crate) async fn wait_ready(&self, node: &str, ready: bool) -> Result<()> {
        eventually(&format!("ready: {ready}"), async || {
            let answer = self.ready(node).await?;
            ensure!((answer.status == 200) == ready, "{answer:?}");
            Ok(())
        })
        .await
    }

    pub(crate) async fn dump(&self, node: &str) -> Result<Value> {
        let answer = self.on_node(node, 15000, "/config_dump").await?;
        Ok(serde_json::from_str(&answer.body)?)
    }

    pub(crate) async fn metrics(&self, node: &str) -> Result<Samples> {
        let answer = self.on_node(node, 15020, "/metrics").await?;
        Ok(Samples::parse(&answer.body))
    }

    /// The first log line of a node's proxy that holds all these texts.
    pub(crate) async fn logged(&self, node: &str, texts: &[&str]) -> Result<String> {
        eventually(&format!("{node} logs {texts:?}"), async || {
            let log = self.ztunnels[node].log();
            let line = log.lines().find(|l| texts.iter().all(|t| l.contains(t)));
            line.map(str::to_owned).with_context(|| log.clone())
        })
        .await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.scope.cancel();
        self.apps.clear();
    }
}
