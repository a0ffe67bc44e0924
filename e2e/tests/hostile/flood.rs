//! Ten thousand connections to one pod's 15008 that never finish a handshake.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use ambit_e2e::Cluster;
use ambit_e2e::observe::echoes;
use ambit_e2e::peer::{Credential, authority, connect_status};
use ambit_e2e::scenario::on_shop;
use ambit_netns::NetNs;
use ambit_testkit::{client, eventually_within};
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::peers::refusals;

const CONNECTIONS: usize = 10_000;
/// `AMBIT_MAX_HALF_OPEN` of each of the two data threads, by default.
const HALF_OPEN: u64 = 2 * 1024;
/// What the accept queues and a slow machine may add.
const SLACK: u64 = 1024;
/// What that many half-open handshakes may cost.
const MEMORY: u64 = 48 << 20;
/// What a second wave may add to the first one's rest.
const AGAIN: u64 = 12 << 20;

/// The first half of a ClientHello's record.
const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03half of a hello";

/// Descriptors and resident memory of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Weight {
    descriptors: u64,
    resident: u64,
}

fn weigh(cluster: &Cluster) -> Result<Weight> {
    let process = cluster.ztunnel_process("node-2")?;
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.pid()))?;
    Ok(Weight {
        descriptors: open.count() as u64,
        resident: process.resident_bytes()?,
    })
}

#[test]
fn ten_thousand_half_open_connections_are_bounded() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    on_shop("ten thousand half-open connections", async |cluster| {
        cluster.wait_shop().await?;
        let (batch, worker) = (
            cluster.pod_ns("legacy", "batch-0")?,
            cluster.pod_ns("shop", "worker-0")?,
        );
        let hbone = cluster.pod_addr("shop", "cart-0", 15008)?;
        let app = cluster.pod_addr("shop", "cart-0", 9000)?;
        echoes(&worker, app).await?;
        let first = one_wave(cluster, &batch, hbone).await?;
        let second = one_wave(cluster, &batch, hbone).await?;
        // What the first one cost once isn't paid again.
        let most = first.resident + AGAIN;
        ensure!(second.resident <= most, "{first:?} → {second:?}");
        for reason in ["limit_reached", "handshake_timeout"] {
            let count = refusals(cluster, "node-2", reason).await?;
            ensure!(count > 100.0, "{reason}: {count}");
        }
        let inbound = [("direction", "inbound")];
        for text in [
            "the handshake took too long",
            "too many unfinished handshakes",
        ] {
            cluster.wait_refusal("node-2", &inbound, text).await?;
        }
        echoes(&worker, app).await
    });
}

/// All of them, while others connect; returns the weight after the release.
async fn one_wave(cluster: &Cluster, from: &NetNs, hbone: SocketAddr) -> Result<Weight> {
    let before = weigh(cluster)?;
    let refused = counted(cluster).await?;
    let over = Cell::new(false);
    let attack = async {
        let held = attack(from, hbone).await;
        over.set(true);
        held
    };
    let (held, others) = futures::join!(attack, others(cluster, &over));
    let (held, (peak, answered)) = (held?, others?);
    ensure!(held.len() == CONNECTIONS, "{} connections", held.len());
    ensure!(answered > 2, "only {answered} others tried meanwhile");
    let most = before.descriptors + HALF_OPEN + SLACK;
    ensure!(peak.descriptors <= most, "{peak:?} of {most}");
    let most = before.resident + MEMORY;
    ensure!(peak.resident <= most, "{before:?} → {peak:?}");

    // At the deadline of handshakes, all are released, and each is counted.
    let bound = Duration::from_secs(30);
    eventually_within(bound, "everything is released and counted", async || {
        let now = weigh(cluster)?;
        let most = before.descriptors + 16;
        ensure!(now.descriptors <= most, "{before:?} → {now:?}");
        let refused = counted(cluster).await? - refused;
        ensure!(refused >= CONNECTIONS as f64, "{refused} counted");
        Ok(())
    })
    .await?;
    drop(held);
    weigh(cluster)
}

/// Refusals of those two reasons so far.
async fn counted(cluster: &Cluster) -> Result<f64> {
    let mut all = 0.0;
    for reason in ["limit_reached", "handshake_timeout"] {
        all += refusals(cluster, "node-2", reason).await?;
    }
    Ok(all)
}

/// Every other one says nothing at all.
async fn attack(ns: &NetNs, to: SocketAddr) -> Result<Vec<TcpStream>> {
    let open = stream::iter(0..CONNECTIONS).map(async |number| {
        let mut stream = client::connect(ns, to).await?;
        if number % 2 == 0 {
            stream.write_all(HALF_A_HELLO).await?;
        }
        Ok::<_, anyhow::Error>(stream)
    });
    let open: Vec<_> = open.buffer_unordered(64).collect().await;
    open.into_iter().collect()
}

/// Honest peers with new connections, and the proxy's weight meanwhile.
async fn others(cluster: &Cluster, over: &Cell<bool>) -> Result<(Weight, usize)> {
    let ca = authority(&cluster.dir().join("istiod-state"), "cluster.local")?;
    let id = "spiffe://cluster.local/ns/shop/sa/worker";
    let good = Credential::signed(&ca, id, Duration::from_secs(300))?;
    let worker = cluster.pod_ns("legacy", "batch-0")?;
    let hbone = cluster.pod_addr("shop", "cart-0", 15008)?;
    let app = cluster.pod_addr("shop", "cart-0", 9000)?.to_string();
    let (mut peak, mut answered) = (Weight::default(), 0);
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    while !over.get() {
        pace.tick().await;
        let status = connect_status(&worker, hbone, &good, &app).await;
        let status = status.with_context(|| format!("after {answered}"))?;
        ensure!(status == 200, "{status}");
        answered += 1;
        let now = weigh(cluster)?;
        peak.descriptors = peak.descriptors.max(now.descriptors);
        peak.resident = peak.resident.max(now.resident);
    }
    Ok((peak, answered))
}
