//! Thousands of routes behind one waypoint: what they weigh, and how long it
//! takes from the change of one, in the directory of manifests, to the first
//! request that is routed by it.
//!
//! The whole way is measured: a file is replaced; istiod-lite notices, reads,
//! compiles and publishes it; the waypoint takes it; a request of a client in
//! the mesh, on a connection that was there before, has it.

use std::time::Duration;

use ambit_netns::NetNs;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::Length;
use super::memory::Weight;
use crate::manifests::Key;
use crate::{Cluster, Options, programs};

const NAMESPACE: &str = "routes";
const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: routes}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";
const ROUTES: usize = 5_000;
const SERVICES: usize = 50;
/// Says which form of a route a request was routed by.
const CHANGE: &str = "x-change";
/// Proxies that have nothing to do give memory back after some seconds.
const SETTLE: Duration = Duration::from_secs(15);
/// Between two changes: each comes to a control plane that rests.
const PAUSE: Duration = Duration::from_millis(150);
/// Between two requests that look for the change: what asks without a rest
/// takes the processors that the change needs.
const BETWEEN: Duration = Duration::from_micros(500);

/// Measures and prints.
///
/// # Errors
/// If a mesh can't be brought up, or a change doesn't arrive.
#[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
pub(super) async fn measure(length: Length) -> Result<()> {
    let mut cluster = start().await?;
    println!("\n{ROUTES} HTTPRoutes on {SERVICES} services of one waypoint (target: below 45 MiB)");
    sleep(SETTLE).await;
    weigh(&cluster, "without routes")?;
    let began = Instant::now();
    for at in 0..ROUTES {
        cluster.manifests.put(route(at, 0))?;
    }
    let written = began.elapsed();
    wait_for(&cluster, ROUTES - 1).await?;
    println!(
        "   written in {:.1} s, in force after {:.1} s",
        written.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    sleep(SETTLE).await;
    weigh(&cluster, "with them")?;
    let rounds = match length {
        Length::Quick => 200,
        Length::Whole => 1_000,
    };
    let delays = change_some(&mut cluster, rounds).await?;
    let at = |share: usize| {
        let index = (delays.len() * share).div_ceil(100).saturating_sub(1);
        delays
            .get(index)
            .map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
    };
    println!(
        "   from a changed file to the first request routed by it, {rounds} changes (target: p99 below 30 ms)\n   \
         p50 {:.1} ms  p90 {:.1} ms  p99 {:.1} ms  longest {:.1} ms",
        at(50),
        at(90),
        at(99),
        at(100)
    );
    weigh(&cluster, "after the changes")?;
    change_all(&mut cluster, rounds + 1).await?;
    sleep(SETTLE).await;
    weigh(&cluster, "after that")?;
    for at in 0..ROUTES {
        let key = Key::new("HTTPRoute", NAMESPACE, &format!("r{at}"));
        cluster.manifests.delete(&key)?;
    }
    sleep(SETTLE).await;
    weigh(&cluster, "without them again")
}

async fn start() -> Result<Cluster> {
    let mut options = Options::shop();
    options.scenario = programs::scenarios().join("bench-routes");
    options
        .waypoint_environment
        .insert("AMBIT_WAYPOINT_THREADS".to_owned(), "1".to_owned());
    let mut cluster = Cluster::start(options).await?;
    cluster
        .wait_protocol("node-1", NAMESPACE, "server", "HBONE")
        .await?;
    let services: Vec<String> = (0..SERVICES)
        .map(|at| serde_json::to_string(&service(at)))
        .collect::<Result<_, _>>()?;
    cluster.apply(&services.join("\n---\n"))?;
    cluster.apply(GATEWAY)?;
    cluster.label_namespace(NAMESPACE, "istio.io/use-waypoint", Some("waypoint"))?;
    cluster.sync_waypoints().await?;
    Ok(cluster)
}

fn service(at: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("s{at}"), "namespace": NAMESPACE},
        "spec": {
            "clusterIP": format!("10.96.6.{}", at + 1),
            "selector": {"app": "server"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}],
        },
    })
}

/// One of the routes, in one of its forms.
fn route(at: usize, change: usize) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": format!("r{at}"), "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": format!("s{}", at % SERVICES), "port": 80}],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": format!("/r{at}")}}],
                "filters": [{
                    "type": "ResponseHeaderModifier",
                    "responseHeaderModifier": {"set": [{"name": CHANGE, "value": change.to_string()}]},
                }],
                "backendRefs": [{"name": "server", "port": 80}],
            }],
        },
    })
}

/// Until a route is in force.
async fn wait_for(cluster: &Cluster, at: usize) -> Result<()> {
    let mut kept = Kept::open(cluster, at).await?;
    let all = async {
        while kept.ask(at).await?.as_deref() != Some("0") {
            sleep(PAUSE).await;
        }
        Ok(())
    };
    timeout(LOADED, all)
        .await
        .with_context(|| format!("route r{at} isn't in force after {LOADED:?}"))?
}

/// Changes routes, one after the other; how long each took, sorted.
async fn change_some(cluster: &mut Cluster, rounds: usize) -> Result<Vec<Duration>> {
    let mut delays = Vec::new();
    // A service each: its connection is opened once.
    let mut kept = Vec::new();
    for at in 0..SERVICES {
        kept.push(Kept::open(cluster, at).await?);
    }
    for round in 1..=rounds {
        let at = round * 37 % ROUTES;
        let kept = kept.get_mut(at % SERVICES).context("one for each")?;
        let now = round.to_string();
        ensure!(kept.ask(at).await?.is_some(), "r{at} doesn't route");
        sleep(PAUSE).await;
        let began = Instant::now();
        cluster.manifests.put(route(at, round))?;
        let seen = async {
            while kept.ask(at).await?.as_deref() != Some(&*now) {
                sleep(BETWEEN).await;
            }
            anyhow::Ok(())
        };
        timeout(Duration::from_secs(20), seen)
            .await
            .with_context(|| format!("the change of r{at} doesn't arrive"))??;
        delays.push(began.elapsed());
    }
    delays.sort_unstable();
    Ok(delays)
}

/// Changes every route at once, and waits until each is in force.
#[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
async fn change_all(cluster: &mut Cluster, form: usize) -> Result<()> {
    let began = Instant::now();
    for at in 0..ROUTES {
        cluster.manifests.put(route(at, form))?;
    }
    let written = began.elapsed();
    let form = form.to_string();
    let all = async {
        for service in 0..SERVICES {
            let mut kept = Kept::open(cluster, service).await?;
            for at in (service..ROUTES).step_by(SERVICES) {
                while kept.ask(at).await?.as_deref() != Some(&*form) {
                    sleep(PAUSE).await;
                }
            }
        }
        anyhow::Ok(())
    };
    timeout(LOADED, all)
        .await
        .with_context(|| format!("not every change is in force after {LOADED:?}"))??;
    println!(
        "   all changed at once: written in {:.1} s, in force after {:.1} s",
        written.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// A connection from the client to a route's service.
struct Kept {
    sender: http1::SendRequest<Empty<Bytes>>,
    connection: http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>,
}

impl Kept {
    async fn open(cluster: &Cluster, at: usize) -> Result<Self> {
        let ns: NetNs = cluster.pod_ns(NAMESPACE, "client")?;
        let to = cluster.service_addr(NAMESPACE, &format!("s{}", at % SERVICES), 80)?;
        let mut stream = None;
        eventually("the client connects", async || {
            stream = Some(client::connect(&ns, to).await?);
            Ok(())
        })
        .await?;
        let stream = stream.context("it did")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, connection })
    }

    /// Which form of a route answers; none if no route does.
    async fn ask(&mut self, at: usize) -> Result<Option<String>> {
        let request = Request::get(format!("/r{at}"))
            .header("host", format!("s{}", at % SERVICES))
            .body(Empty::new())?;
        let Self { sender, connection } = self;
        let answer = async {
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            let (head, body) = answer.into_parts();
            body.collect().await?;
            let change = head.headers.get(CHANGE);
            anyhow::Ok(change.and_then(|value| Some(value.to_str().ok()?.to_owned())))
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            ended = connection => {
                ended.context("the connection ended")?;
                anyhow::bail!("the connection was closed")
            }
        }
    }
}

#[allow(clippy::print_stdout, reason = "the benchmark's purpose is to print")]
fn weigh(cluster: &Cluster, when: &str) -> Result<()> {
    let pods = cluster.waypoint_pods(NAMESPACE, "waypoint");
    let pod = pods.first().context("a waypoint's pod")?;
    println!(
        "   {when:<18} waypoint {}  istiod-lite {}",
        Weight::of(cluster.waypoint_process(NAMESPACE, pod)?)?,
        Weight::of(cluster.control_plane_process()?)?
    );
    Ok(())
}

/// All routes are in force long before.
const LOADED: Duration = Duration::from_secs(120);
