//! Throughput, requests and connections, in turns: plain, ours, and the peer's
//! if there is one.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use ambit_netns::NetNs;
use anyhow::{Context, Result, ensure};

use super::Length;
use crate::Cluster;
use crate::load::Outcome;

struct Scenario {
    title: &'static str,
    mode: &'static str,
    connections: usize,
    unit: &'static str,
    scale: f64,
    // What processor time is divided by: a GB, a request, a connection.
    per: f64,
    per_unit: &'static str,
}

const SCENARIOS: &[Scenario] = &[
    bulk("bulk, one connection", 1),
    bulk("bulk, eight connections", 8),
    Scenario {
        title: "requests, 32 kept connections",
        mode: "requests",
        connections: 32,
        unit: "k requests/s",
        scale: 1e-3,
        per: 1e-6,
        per_unit: "us CPU/request",
    },
    Scenario {
        title: "requests, one kept connection",
        mode: "requests",
        connections: 1,
        unit: "k requests/s",
        scale: 1e-3,
        per: 1e-6,
        per_unit: "us CPU/request",
    },
    Scenario {
        title: "new connections, 32 at a time",
        mode: "connects",
        connections: 32,
        unit: "k connections/s",
        scale: 1e-3,
        per: 1e-6,
        per_unit: "us CPU/connection",
    },
];

const fn bulk(title: &'static str, connections: usize) -> Scenario {
    Scenario {
        title,
        mode: "bulk",
        connections,
        unit: "Gbit/s",
        scale: 8e-9,
        per: 1e-9,
        per_unit: "s CPU/GB",
    }
}

#[derive(Default)]
struct Measured {
    rates: Vec<f64>,
    cpu: Vec<f64>,
}

/// Runs every scenario in turns and prints a table.
#[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
pub(super) async fn compare(ours: &Cluster, peer: Option<&Cluster>, length: Length) -> Result<()> {
    println!(
        "\nSpeed: medians of {} rounds of {} s each, in turns.",
        length.rounds(),
        length.seconds()
    );
    println!("Processor time is that of both proxies together; `plain` has none.");
    for scenario in SCENARIOS {
        let (mut plain, mut mesh, mut theirs) = (
            Measured::default(),
            Measured::default(),
            Measured::default(),
        );
        for _ in 0..length.rounds() {
            plain.add(once(ours, scenario, "plain", length).await?);
            mesh.add(once(ours, scenario, "mesh", length).await?);
            if let Some(peer) = peer {
                theirs.add(once(peer, scenario, "mesh", length).await?);
            }
        }
        println!("\n{}", scenario.title);
        println!("   plain  {:>9.2} {}", median(&plain.rates), scenario.unit);
        mesh.print("ambit", scenario);
        println!(
            "          ambit/plain {:.2}",
            ratio(&mesh.rates, &plain.rates)
        );
        if peer.is_some() {
            theirs.print("peer", scenario);
            println!(
                "          ambit/peer {:.2}, processor time {:.2}",
                ratio(&mesh.rates, &theirs.rates),
                ratio(&mesh.cpu, &theirs.cpu)
            );
        }
    }
    Ok(())
}

impl Measured {
    fn add(&mut self, (rate, cpu): (f64, f64)) {
        self.rates.push(rate);
        self.cpu.push(cpu);
    }

    #[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
    fn print(&self, name: &str, scenario: &Scenario) {
        println!(
            "   {name:<6} {:>9.2} {}  {:>9.2} {}",
            median(&self.rates),
            scenario.unit,
            median(&self.cpu),
            scenario.per_unit
        );
    }
}

/// One load from a client pod to a server pod of a namespace.
async fn once(
    cluster: &Cluster,
    scenario: &Scenario,
    namespace: &str,
    length: Length,
) -> Result<(f64, f64)> {
    let ns = cluster.pod_ns(namespace, "client")?;
    let to = cluster.pod_addr(namespace, "server", 7000)?;
    let before = proxies_cpu(cluster)?;
    let program = cluster.bin_dir().join("ambit-load");
    let arguments = [
        scenario.mode.to_owned(),
        format!("--to={to}"),
        format!("--connections={}", scenario.connections),
        format!("--seconds={}", length.seconds()),
    ];
    let outcome = client(ns, program, arguments.to_vec(), to).await?;
    let cpu = (proxies_cpu(cluster)? - before).as_secs_f64();
    Ok((
        outcome.rate() * scenario.scale,
        cpu / (outcome.count as f64 * scenario.per),
    ))
}

async fn client(
    ns: NetNs,
    program: std::path::PathBuf,
    arguments: Vec<String>,
    to: SocketAddr,
) -> Result<Outcome> {
    let run = move || ns.run_on_thread(|| Command::new(program).args(arguments).output());
    let output = tokio::task::spawn_blocking(run).await???;
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "load to {to}: {error}");
    serde_json::from_str(&text).with_context(|| format!("outcome {text:?}"))
}

fn proxies_cpu(cluster: &Cluster) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for node in cluster.node_names() {
        total += cluster.ztunnel_process(node)?.cpu_time()?;
    }
    Ok(total)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Median of the ratios of paired rounds.
fn ratio(a: &[f64], b: &[f64]) -> f64 {
    median(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>())
}
