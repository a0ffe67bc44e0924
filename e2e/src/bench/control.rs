//! The control plane at scale: 10,000 pods, 1,000 services and 200 policies,
//! followed by the simulated proxies of 100 nodes.
//!
//! The whole way of a change is measured: an object is committed to its source;
//! istiod-lite notices, reads, compiles and publishes it; every stream has it.
//! The clients are no proxies: they decode as little as they can, so that what
//! is measured is the control plane and not they, who share its processors.

mod kubernetes;
mod mesh;
mod node;
mod record;
mod source;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ambit_runtime::Scope;
use ambit_testkit::process::Process;
use ambit_testkit::sandbox::Sandbox;
use ambit_testkit::{client, eventually_within};
use anyhow::{Context, Result, ensure};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::mesh::{Change, Mesh, Scale};
use self::node::{Door, Node};
use self::record::{Arrivals, Delays, Record};
use self::source::Source;
use super::Length;
use super::memory::Weight;
use crate::programs;

pub(super) use self::source::Kind;

/// Measures and prints.
///
/// # Errors
/// If the control plane doesn't start, or a stream ends or misses a change.
pub(super) async fn measure(kind: Kind, length: Length) -> Result<()> {
    let scales: &[Scale] = match length {
        Length::Quick => &[Scale::FULL],
        Length::Whole => &[Scale::TENTH, Scale::FULL],
    };
    for scale in scales {
        one_scale(kind, *scale, length).await?;
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
async fn one_scale(kind: Kind, scale: Scale, length: Length) -> Result<()> {
    println!(
        "\nControl plane from {}: {} pods, {} services, {} policies, {} nodes",
        match kind {
            Kind::Directory => "a directory",
            Kind::Kubernetes => "a Kubernetes API server",
        },
        scale.pods(),
        scale.services(),
        scale.policies(),
        mesh::NODES
    );
    let mut plane = Plane::start(kind, scale).await?;
    if plane.source.wants_reports() {
        plane.enrol().await?;
    }
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
        plane.weigh("after that")?;
    }
    plane.change_all(&record).await?;
    sleep(SETTLE).await;
    plane.weigh("after that")
}

/// A control plane with its objects, and what is connected to it.
struct Plane {
    mesh: Mesh,
    process: Process,
    door: Arc<Door>,
    /// Where the clients run, beside the one who changes objects.
    clients: Option<Runtime>,
    /// Changes that are being committed.
    changes: Scope,
    // After what uses it.
    source: Source,
    _sandbox: Sandbox,
}

impl Plane {
    #[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
    async fn start(kind: Kind, scale: Scale) -> Result<Self> {
        let sandbox = Sandbox::create("control")?;
        let mesh = Mesh::new(scale);
        let began = Instant::now();
        let source = Source::start(kind, &mesh, &sandbox).await?;
        println!(
            "   objects there after {:.0} s",
            began.elapsed().as_secs_f64()
        );
        let (dir, ns) = (sandbox.dir(), source.ns().clone());
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = Command::new(programs::bin_dir()?.join("istiod-lite"));
        source.configure(&mut command, dir);
        command
            .arg("--state-dir")
            .arg(dir.join("state"))
            .args(["--listen", &local(SECURE).to_string()])
            .args(["--http", &local(HTTP).to_string()]);
        let began = Instant::now();
        let mut process = Process::start(dir, &ns, "istiod-lite", command)?;
        let ready = eventually_within(READY, "istiod-lite is ready", async || {
            ensure!(process.exited()?.is_none(), "it has ended");
            let answer = client::get(&ns, local(HTTP), "/ready").await?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(())
        })
        .await;
        ready.with_context(|| process.log())?;
        println!("   ready after {:.2} s", began.elapsed().as_secs_f64());
        let clients = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(Self {
            mesh,
            process,
            door: Arc::new(Door::new(ns, local(SECURE))),
            clients: Some(clients),
            changes: Scope::new("changes"),
            source,
            _sandbox: sandbox,
        })
    }

    /// Every node's agent says that its pods are redirected, and leaves.
    #[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
    async fn enrol(&self) -> Result<()> {
        let began = Instant::now();
        for node in 0..mesh::NODES {
            let token = self.source.token("node-agent", node).await?;
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
        let mut nodes = Vec::new();
        for at in 0..mesh::NODES {
            nodes.push(Node::new(at, self.source.token("ztunnel", at).await?));
        }
        let full = self.source.resources(&self.mesh);
        let record = Arc::new(Record::new(full, mesh::NODES));
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
    async fn change(&mut self, record: &Arc<Record>, rate: u32, count: u32) -> Result<()> {
        let (before, began) = (self.process.cpu_time()?, Instant::now());
        for at in 0..count {
            sleep_until(began + Duration::from_secs(1) * at / rate).await;
            let change = self.mesh.change();
            self.commit(record, change);
        }
        let delays = self.arrived(record).await?;
        let took = began.elapsed();
        let cpu = self.process.cpu_time()?.saturating_sub(before);
        let line = |what: &str, delays: &Delays| {
            println!(
                "      from {what}: p50 {:.1} ms  p90 {:.1} ms  p99 {:.1} ms  longest {:.1} ms",
                delays.at(50),
                delays.at(90),
                delays.at(99),
                delays.at(100),
            );
        };
        println!(
            "   {rate:>3} changes a second, {count} of them: {:.2} ms of processor time each, {:.0} % of one",
            cpu.as_secs_f64() * 1e3 / f64::from(count),
            cpu.as_secs_f64() / took.as_secs_f64() * 100.0
        );
        line("the request", &delays.asked);
        line("its answer", &delays.committed);
        Ok(())
    }

    /// Changes every pod at once.
    #[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
    async fn change_all(&mut self, record: &Arc<Record>) -> Result<()> {
        let (before, began) = (self.process.cpu_time()?, Instant::now());
        let pods = self.mesh.scale().pods();
        for at in 0..pods {
            let change = self.mesh.change_pod(at);
            self.commit(record, change);
            if at % AT_ONCE == 0 {
                record.below(AT_ONCE).await?;
            }
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

    /// Starts to commit a change that every stream will have.
    fn commit(&mut self, record: &Arc<Record>, change: Change) {
        let record = Arc::clone(record);
        record.expect(&change.resource);
        let committing = self.source.commit(change.object);
        self.changes.spawn("change", async move {
            match committing.await {
                Ok(at) => record.committed(&change.resource, at),
                Err(error) => record.failed(error),
            }
        });
    }

    async fn arrived(&self, record: &Record) -> Result<Arrivals> {
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

/// Changes that are under way at a time when all are made.
const AT_ONCE: usize = 256;
const SECURE: u16 = 15012;
const HTTP: u16 = 15014;
const READY: Duration = Duration::from_secs(120);
/// Nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// What was used for a moment is given back.
const SETTLE: Duration = Duration::from_secs(5);
