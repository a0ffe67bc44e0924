//! Resident memory: idle, and per idle tunnelled connection.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ambit_testkit::process::Process;
use anyhow::{Context, Result, ensure};

use crate::Cluster;

/// What a process weighs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight {
    /// Resident bytes.
    pub(super) resident: u64,
    /// Of them heap and stacks.
    pub(super) anonymous: u64,
}

impl Weight {
    /// Now.
    pub(super) fn of(process: &Process) -> Result<Self> {
        Ok(Self {
            resident: process.resident_bytes()?,
            anonymous: process.anonymous_bytes()?,
        })
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resident, anonymous) = (mib(self.resident), mib(self.anonymous));
        write!(f, "{resident:>7.2} MiB (heap {anonymous:>6.2})")
    }
}

/// Prints what the programs weigh before any load.
#[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
pub(super) fn idle(cluster: &Cluster, name: &str) -> Result<()> {
    println!("\nMemory of {name}, idle (targets: ztunnel 12 MiB, istiod-lite 25 MiB)");
    for node in cluster.node_names() {
        let bytes = cluster.ztunnel_process(node)?.resident_bytes()?;
        println!("   ztunnel of {node}  {:>7.2} MiB", mib(bytes));
    }
    let bytes = cluster.control_plane_process()?.resident_bytes()?;
    println!("   istiod-lite        {:>7.2} MiB", mib(bytes));
    Ok(())
}

/// Opens idle connections through the tunnel and prints what each costs in
/// either proxy, as the slope between 1,000 and 8,000.
#[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
pub(super) async fn slope(cluster: Cluster, name: &str) -> Result<()> {
    println!("\nMemory of {name}, per idle tunnelled connection (target: 4 KiB)");
    let few = Held::open(&cluster, 1_000)?;
    let at_few = resident(&cluster).await?;
    let more = Held::open(&cluster, 7_000)?;
    let at_many = resident(&cluster).await?;
    for ((node, few), (_, many)) in at_few.iter().zip(&at_many) {
        let slope = (*many as f64 - *few as f64) / 7_000.0 / 1024.0;
        println!(
            "   ztunnel of {node}  {:>7.2} MiB at 1,000  {:>7.2} MiB at 8,000  {slope:.2} KiB each",
            mib(*few),
            mib(*many)
        );
    }
    drop(few);
    drop(more);
    Ok(())
}

/// Memory of the proxies once it has settled.
async fn resident(cluster: &Cluster) -> Result<Vec<(String, u64)>> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    let of = |node: &String| {
        Ok((
            node.clone(),
            cluster.ztunnel_process(node)?.resident_bytes()?,
        ))
    };
    cluster.node_names().iter().map(of).collect()
}

/// A client process that holds connections.
struct Held(Child);

impl Held {
    fn open(cluster: &Cluster, connections: usize) -> Result<Self> {
        let ns = cluster.pod_ns("mesh", "client")?;
        let to = cluster.pod_addr("mesh", "server", 7000)?;
        let mut command = Command::new(cluster.bin_dir().join("ambit-load"));
        command
            .args([
                "idle",
                &format!("--to={to}"),
                &format!("--connections={connections}"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = ns.run_on_thread(|| command.spawn())??;
        let mut line = String::new();
        let output = child.stdout.take().context("piped above")?;
        BufReader::new(output).read_line(&mut line)?;
        ensure!(
            line.trim() == "open",
            "the client could not open {connections} connections"
        );
        Ok(Self(child))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
