//! The control plane at scale: 10,000 pods, 1,000 services and 200 policies,
//! followed by the simulated proxies of 100 nodes.
//!
//! The whole way of a change is measured: an object is committed to its source;
//! istiod-lite notices, reads, compiles and publishes it; every stream has it.
//! The clients are no proxies: they decode as little as they can, so that what
//! is measured is the control plane and not they, who share its processors.

mod mesh;
mod node;
mod record;
mod source;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ambit_netns::{NamedNetNs, Netlink};
use ambit_testkit::process::Process;
use ambit_testkit::sandbox::Sandbox;
use ambit_testkit::token::{Subject, TokenIssuer};
use ambit_testkit::{client, eventually_within};
use anyhow::{Context, Result, ensure};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::mesh::{Mesh, Scale};
use self::node::{Door, Node};
use self::record::{Delays, Record};
use self::source::{Directory, Source};
use super::Length;
use super::memory::Weight;
use crate::programs;

/// Measures and prints.
///
/// # Errors
/// If the control plane doesn't start, or a stream ends or misses a change.
pub(super) async fn measure(length: Length) -> Result<()> {
    let scales: &[Scale] = match length {
        Length::Quick => &[Scale::FULL],
        Length::Whole => &[Scale::TENTH, Scale::FULL],
    };
    for scale in scales {
        one_scale(*scale, length).await?;
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
async fn one_scale(scale: Scale, length: Length) -> Result<()> {
    println!(
        "\nControl plane: {} pods, {} services, {} policies, {} nodes",
        scale.pods(),
        scale.services(),
        scale.policies(),
        mesh::NODES
    );
    let mut plane = Plane::start(scale).await?;
    plane.enrol().await?;
    sleep(SETTLE).await;
    plane.weigh("without streams")?;
    let record = plane.follow().await?;
    sleep(SETTLE).await;
    plane.weigh("with all streams")?;
    let rounds = match length {
        Length::Quick => 30,
        Length::Whole => 60,
    };
    for rate in [10, 100] {
        plane.change(&record, rate, rate * rounds).await?;
    }
    plane.change_all(&record).await?;
    sleep(SETTLE).await;
    plane.weigh("after that")
}

/// A control plane with its objects, and what is connected to it.
struct Plane {
    mesh: Mesh,
    source: Directory,
    issuer: TokenIssuer,
    process: Process,
    door: Arc<Door>,
    /// Where the clients run, beside the one who changes objects.
    clients: Option<Runtime>,
    _ns: NamedNetNs,
    _sandbox: Sandbox,
}

impl Plane {
    #[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
    async fn start(scale: Scale) -> Result<Self> {
        let sandbox = Sandbox::create("control")?;
        let ns = NamedNetNs::create(&sandbox.ns_dir(), "control")?;
        Netlink::in_ns(ns.ns())?.link_up("lo").await?;
        let issuer = TokenIssuer::new("https://kubernetes.default.svc.cluster.local")?;
        let dir = sandbox.dir();
        issuer.write_jwks(&dir.join("jwks.json"))?;
        let mut source = Directory::create(dir.join("manifests"))?;
        let mesh = Mesh::new(scale);
        for object in mesh.objects() {
            source.put(&object).await?;
        }
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = Command::new(programs::bin_dir()?.join("istiod-lite"));
        source.configure(&mut command);
        command
            .arg("--state-dir")
            .arg(dir.join("state"))
            .args(["--listen", &local(SECURE).to_string()])
            .args(["--http", &local(HTTP).to_string()])
            .arg("--jwks")
            .arg(dir.join("jwks.json"))
            .args(["--token-issuer", issuer.issuer()]);
        let began = Instant::now();
        let mut process = Process::start(dir, ns.ns(), "istiod-lite", command)?;
        eventually_within(READY, "istiod-lite is ready", async || {
            ensure!(process.exited()?.is_none(), "it has ended");
            let answer = client::get(ns.ns(), local(HTTP), "/ready").await?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(())
        })
        .await?;
        println!("   ready after {:.2} s", began.elapsed().as_secs_f64());
        let clients = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(Self {
            mesh,
            source,
            issuer,
            process,
            door: Arc::new(Door::new(ns.ns().clone(), local(SECURE))),
            clients: Some(clients),
            _ns: ns,
            _sandbox: sandbox,
        })
    }

    fn token(&self, account: &str, node: usize) -> Result<String> {
        let pod = format!("{account}-n{node}");
        self.issuer.token(&Subject {
            namespace: mesh::SYSTEM,
            service_account: account,
            pod: &pod,
            pod_uid: &format!("uid-{pod}"),
            node: &format!("n{node}"),
        })
    }

    /// Every node's agent says that its pods are redirected, and leaves.
    #[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
    async fn enrol(&self) -> Result<()> {
        let began = Instant::now();
        for node in 0..mesh::NODES {
            let token = self.token("node-agent", node)?;
            let reported = node::report(&self.door, &token, self.mesh.report(node));
            timeout(PATIENCE, reported).await.context("a report")??;
        }
        println!(
            "   every pod enrolled after {:.2} s",
            began.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Connects every node's proxy, all at once, and waits until each has
    /// everything.
    #[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
    async fn follow(&self) -> Result<Arc<Record>> {
        let runtime = self.clients.as_ref().context("until it is dropped")?;
        let record = Arc::new(Record::new(self.mesh.resources(), mesh::NODES));
        let nodes = (0..mesh::NODES)
            .map(|at| Ok(Node::new(at, self.token("ztunnel", at)?)))
            .collect::<Result<Vec<_>>>()?;
        let (before, began) = (self.process.cpu_time()?, Instant::now());
        for node in nodes {
            let (door, record) = (Arc::clone(&self.door), Arc::clone(&record));
            runtime.spawn(async move {
                let ended = node.follow(&door, &record).await;
                record.ended(ended.err());
            });
        }
        let first = timeout(PATIENCE, record.complete())
            .await
            .context("first states")??;
        let cpu = self.process.cpu_time()?.saturating_sub(before);
        println!(
            "   first full state of {} streams: p50 {:.2} s, all after {:.2} s (target: below 1 s); \
             {:.0} MiB sent, {:.2} s of processor time",
            mesh::NODES,
            first.at(50) / 1e3,
            began.elapsed().as_secs_f64(),
            record.bytes() as f64 / f64::from(1 << 20),
            cpu.as_secs_f64()
        );
        Ok(record)
    }

    /// Commits changes at a rate.
    #[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
    async fn change(&mut self, record: &Record, rate: u32, count: u32) -> Result<()> {
        let (before, began) = (self.process.cpu_time()?, Instant::now());
        for at in 0..count {
            sleep_until(began + Duration::from_secs(1) * at / rate).await;
            let change = self.mesh.change();
            record.expect(&change.resource);
            self.source.put(&change.object).await?;
        }
        let delays = self.arrived(record).await?;
        let took = began.elapsed();
        let cpu = self.process.cpu_time()?.saturating_sub(before);
        println!(
            "   {rate:>3} changes a second, {count} of them: p50 {:.1} ms  p90 {:.1} ms  p99 {:.1} ms  \
             longest {:.1} ms; {:.2} ms of processor time each, {:.0} % of one",
            delays.at(50),
            delays.at(90),
            delays.at(99),
            delays.at(100),
            cpu.as_secs_f64() * 1e3 / f64::from(count),
            cpu.as_secs_f64() / took.as_secs_f64() * 100.0
        );
        Ok(())
    }

    /// Changes every pod at once.
    #[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
    async fn change_all(&mut self, record: &Record) -> Result<()> {
        let (before, began) = (self.process.cpu_time()?, Instant::now());
        let pods = self.mesh.scale().pods();
        for at in 0..pods {
            let change = self.mesh.change_pod(at);
            record.expect(&change.resource);
            self.source.put(&change.object).await?;
        }
        let written = began.elapsed();
        self.arrived(record).await?;
        let cpu = self.process.cpu_time()?.saturating_sub(before);
        println!(
            "   every pod changed: written in {:.2} s, everywhere after {:.2} s; {:.2} s of processor time",
            written.as_secs_f64(),
            began.elapsed().as_secs_f64(),
            cpu.as_secs_f64()
        );
        Ok(())
    }

    async fn arrived(&self, record: &Record) -> Result<Delays> {
        timeout(PATIENCE, record.arrived())
            .await
            .with_context(|| format!("changes have not arrived: {}", record.missing()))?
    }

    #[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
    fn weigh(&self, when: &str) -> Result<()> {
        let weight = Weight::of(&self.process)?;
        println!("   istiod-lite {when}: {weight} (target: below 100 MiB)");
        Ok(())
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // Not from within a runtime otherwise.
        if let Some(clients) = self.clients.take() {
            clients.shutdown_background();
        }
    }
}

const SECURE: u16 = 15012;
const HTTP: u16 = 15014;
const READY: Duration = Duration::from_secs(120);
/// Nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// What was used for a moment is given back.
const SETTLE: Duration = Duration::from_secs(5);
