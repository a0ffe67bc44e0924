//! Our waypoint beside a real Envoy in the same mesh, in turns: requests per
//! processor second, latency, memory when idle and under large transfers.
//!
//! Both stand between the same two node proxies and serve the same application.
//! Ours has authorization, a route and the whole metrics on; Envoy's
//! configuration has none of these. Processor time and memory are those of the
//! waypoint's process alone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ambit_testkit::process::Process;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};

use super::memory::Weight;
use super::{Length, envoy};
use crate::cluster::WaypointProgram;
use crate::load::http::HttpOutcome;
use crate::{Cluster, Options, programs};

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: NAMESPACE}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";

/// What ours has to do besides.
const WORK: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: server, namespace: ours}
spec:
  parentRefs: [{group: '', kind: Service, name: server}]
  rules: [{matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{name: server, port: 80}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: clients, namespace: ours}
spec:
  targetRefs: [{group: '', kind: Service, name: server}]
  action: ALLOW
  rules:
    - from: [{source: {principals: [cluster.local/ns/ours/sa/client]}}]
      to: [{operation: {methods: [GET], paths: ['/*']}}]
";

/// Connections at a time.
const LOADS: [usize; 3] = [1, 32, 256];
const GIB: u64 = 1 << 30;

/// One of the two.
struct Side {
    namespace: &'static str,
    requests_per_cpu: Vec<f64>,
    rates: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

/// Measures and prints.
///
/// # Errors
/// If a mesh can't be brought up or a load fails.
#[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
pub(super) async fn compare(
    program: Option<PathBuf>,
    length: Length,
    loads: Option<Vec<usize>>,
) -> Result<()> {
    let cluster = start(program.clone()).await?;
    let sides: &[&'static str] = if program.is_some() {
        &["ours", "envoy"]
    } else {
        println!("\nNo Envoy (BENCH_ENVOY=PROGRAM): the waypoint alone.");
        &["ours"]
    };
    println!("\nWaypoint, idle");
    tokio::time::sleep(Duration::from_secs(12)).await;
    let idle = each(sides, |namespace| weight(&cluster, namespace))?;
    print_memory(sides, &idle);
    for connections in loads.unwrap_or_else(|| LOADS.to_vec()) {
        let mut measured: Vec<Side> = sides.iter().map(|namespace| Side::new(namespace)).collect();
        for _ in 0..length.rounds() {
            for side in &mut measured {
                side.add(&cluster, connections, length).await?;
            }
        }
        println!("\nWaypoint, {connections} kept connections");
        for side in &measured {
            side.print();
        }
        if let [ours, theirs] = &*measured {
            println!(
                "          ambit/envoy: requests per CPU second {:.2}, rate {:.2}, p99 {:.2}",
                ratio(&ours.requests_per_cpu, &theirs.requests_per_cpu),
                ratio(&ours.rates, &theirs.rates),
                ratio(&ours.p99, &theirs.p99),
            );
        }
    }
    println!("\nWaypoint, 4 x 1 GiB, highest resident memory");
    let mut most = Vec::new();
    for namespace in sides {
        most.push(under_transfer(&cluster, namespace, length).await?);
    }
    print_memory(sides, &most);
    Ok(())
}

impl Side {
    fn new(namespace: &'static str) -> Self {
        Self {
            namespace,
            requests_per_cpu: Vec::new(),
            rates: Vec::new(),
            p50: Vec::new(),
            p99: Vec::new(),
        }
    }

    async fn add(&mut self, cluster: &Cluster, connections: usize, length: Length) -> Result<()> {
        let before = process(cluster, self.namespace)?.cpu_time()?;
        let outcome = load(
            cluster,
            self.namespace,
            &[
                "http".to_owned(),
                format!("--connections={connections}"),
                format!("--seconds={}", length.seconds()),
            ],
        )
        .await?;
        let used = process(cluster, self.namespace)?.cpu_time()? - before;
        self.requests_per_cpu
            .push(outcome.count as f64 / used.as_secs_f64().max(0.01));
        self.rates.push(outcome.rate());
        self.p50.push(outcome.p50_us as f64);
        self.p99.push(outcome.p99_us as f64);
        Ok(())
    }

    #[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
    fn print(&self) {
        println!(
            "   {:<6} {:>8.0} requests/CPU s  {:>8.0} requests/s  p50 {:>7.0} us  p99 {:>7.0} us",
            self.namespace,
            median(&self.requests_per_cpu),
            median(&self.rates),
            median(&self.p50),
            median(&self.p99),
        );
    }
}

async fn start(program: Option<PathBuf>) -> Result<Cluster> {
    let mut options = Options::shop();
    options.scenario = programs::scenarios().join("bench-waypoint");
    let backend: Arc<OnceLock<SocketAddr>> = Arc::default();
    if let Some(program) = program.clone() {
        let backend = Arc::clone(&backend);
        options.waypoint_program = Some(WaypointProgram(Arc::new(move |pod| {
            if pod.namespace != "envoy" {
                return Ok(None);
            }
            let state = pod.dir.parent().context("a sandbox")?.join("istiod-state");
            let identity = format!(
                "spiffe://cluster.local/ns/{}/sa/{}",
                pod.namespace, pod.service_account
            );
            let backends = [*backend.get().context("the application's address")?];
            let place = envoy::Place {
                program: &program,
                dir: &pod.dir.join("envoy"),
                authority: &state,
                identity: &identity,
                backends: &backends,
                threads: 1,
            };
            envoy::command(&place).map(Some)
        })));
    }
    options
        .waypoint_environment
        .insert("AMBIT_WAYPOINT_THREADS".to_owned(), "1".to_owned());
    let mut cluster = Cluster::start(options).await?;
    let address = cluster.pod_addr("envoy", "server", 8080)?;
    ensure!(backend.set(address).is_ok(), "set once");
    let namespaces: &[&str] = if program.is_some() {
        &["ours", "envoy"]
    } else {
        &["ours"]
    };
    for namespace in namespaces {
        cluster
            .wait_protocol("node-1", namespace, "server", "HBONE")
            .await?;
        cluster.apply(&GATEWAY.replace("NAMESPACE", namespace))?;
        cluster.label_namespace(namespace, "istio.io/use-waypoint", Some("waypoint"))?;
    }
    cluster.apply(WORK)?;
    cluster.sync_waypoints().await?;
    for namespace in namespaces {
        through(&cluster, namespace).await?;
    }
    Ok(cluster)
}

/// Until requests are served by the waypoint: its processor time grows.
async fn through(cluster: &Cluster, namespace: &str) -> Result<()> {
    eventually(
        &format!("{namespace} goes through its waypoint"),
        async || {
            let before = process(cluster, namespace)?.cpu_time()?;
            for _ in 0..50 {
                let ns = cluster.pod_ns(namespace, "client")?;
                let to = cluster.service_addr(namespace, "server", 80)?;
                let answer = client::get(&ns, to, "/").await?;
                ensure!(answer.status == 200, "{answer:?}");
            }
            let after = process(cluster, namespace)?.cpu_time()?;
            ensure!(after > before, "the waypoint has nothing to do");
            Ok(())
        },
    )
    .await
}

fn process<'a>(cluster: &'a Cluster, namespace: &str) -> Result<&'a Process> {
    let pods = cluster.waypoint_pods(namespace, "waypoint");
    cluster.waypoint_process(namespace, pods.first().context("a waypoint's pod")?)
}

fn weight(cluster: &Cluster, namespace: &str) -> Result<Weight> {
    Weight::of(process(cluster, namespace)?)
}

async fn load(cluster: &Cluster, namespace: &str, arguments: &[String]) -> Result<HttpOutcome> {
    let ns = cluster.pod_ns(namespace, "client")?;
    let to = cluster.service_addr(namespace, "server", 80)?;
    let mut command = Command::new(cluster.bin_dir().join("ambit-load"));
    command.args(arguments).arg(format!("--to={to}"));
    let run = move || ns.run_on_thread(|| command.output());
    let output = tokio::task::spawn_blocking(run).await???;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "load of {namespace}: {error}");
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).with_context(|| format!("outcome {text:?}"))
}

async fn under_transfer(cluster: &Cluster, namespace: &str, length: Length) -> Result<Weight> {
    let bytes = match length {
        Length::Quick => GIB / 4,
        Length::Whole => GIB,
    };
    let arguments = [
        "download".to_owned(),
        "--connections=4".to_owned(),
        format!("--bytes={bytes}"),
    ];
    let transfer = load(cluster, namespace, &arguments);
    tokio::pin!(transfer);
    let mut most = weight(cluster, namespace)?;
    loop {
        tokio::select! {
            outcome = &mut transfer => {
                ensure!(outcome?.count == 4 * bytes, "bytes are missing");
                return Ok(most);
            }
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                let now = weight(cluster, namespace)?;
                if now.resident > most.resident {
                    most = now;
                }
            }
        }
    }
}

fn each(sides: &[&str], of: impl Fn(&str) -> Result<Weight>) -> Result<Vec<Weight>> {
    sides.iter().map(|namespace| of(namespace)).collect()
}

#[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
fn print_memory(sides: &[&str], weights: &[Weight]) {
    for (side, weight) in sides.iter().zip(weights) {
        println!("   {side:<6} {weight}");
    }
    if let [ours, theirs] = weights {
        let ratio = ours.resident as f64 / theirs.resident as f64;
        println!("          ambit/envoy {ratio:.2}");
    }
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
