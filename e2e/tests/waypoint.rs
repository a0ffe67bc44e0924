//! Waypoints on a mesh of namespaces: what goes through them, and what becomes
//! of traffic to a service whose waypoint isn't there.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use ambit_e2e::http::{self, Ask};
use ambit_e2e::manifests::{Key, set_meta};
use ambit_e2e::{Cluster, Options, programs, scenario};
use ambit_testkit::eventually;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

fn options() -> Options {
    let mut options = Options::shop();
    options.scenario = programs::scenarios().join("conformance");
    options
}

/// What the application saw of a request from `mesh/client` to a service.
async fn through(cluster: &Cluster, ask: &Ask) -> Result<(u16, Value)> {
    let ns = cluster.pod_ns("mesh", "client")?;
    let reply = http::ask(&ns, cluster.service_addr("mesh", "echo", 80)?, ask).await?;
    Ok((
        reply.status,
        serde_json::from_slice(&reply.body).unwrap_or_default(),
    ))
}

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo, namespace: mesh}
spec:
  parentRefs: [{group: '', kind: Service, name: echo, port: 80}]
  rules:
    - matches: [{headers: [{name: version, value: two}]}]
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-routed, value: 'yes'}]}}]
      backendRefs: [{name: echo-v2, port: 80}]
    - backendRefs: [{name: echo-v1, port: 80}]
";

#[test]
fn a_request_goes_through_the_waypoint_and_its_route() {
    scenario::on("waypoint route", options(), async |cluster| {
        let pods = cluster.waypoint_pods("mesh", "waypoint");
        let pod = pods.first().context("a waypoint runs")?.clone();
        let waypoint = cluster.pod_addr("mesh", &pod, 0)?.ip().to_string();
        eventually("a request goes through the waypoint", async || {
            let (status, seen) = through(cluster, &Ask::get("/x?y=1")).await?;
            ensure!(status == 200, "{status}");
            ensure!(
                seen["client"] == waypoint.as_str(),
                "from {}",
                seen["client"]
            );
            ensure!(seen["path"] == "/x?y=1", "{seen}");
            Ok(())
        })
        .await
        .with_context(|| logs(cluster, &pod))?;
        cluster.apply(ROUTE)?;
        eventually("by its route", async || {
            let two = Ask::get("/").header("version", "two");
            let (status, seen) = through(cluster, &two).await?;
            ensure!(
                status == 200 && seen["pod"] == "echo-v2-0",
                "{status} {seen}"
            );
            ensure!(seen["headers"]["x-routed"][0] == "yes", "{seen}");
            Ok(())
        })
        .await
        .with_context(|| logs(cluster, &pod))?;
        for _ in 0..10 {
            let (status, seen) = through(cluster, &Ask::get("/")).await?;
            ensure!(
                status == 200 && seen["pod"] == "echo-v1-0",
                "{status} {seen}"
            );
        }
        cluster.delete("HTTPRoute", "mesh", "echo")
    });
}

fn logs(cluster: &Cluster, pod: &str) -> String {
    let waypoint = cluster.waypoint_process("mesh", pod);
    let waypoint = waypoint.map(|process| process.log()).unwrap_or_default();
    let control = cluster.control_plane_process();
    let control = control.map(|process| process.log()).unwrap_or_default();
    format!("waypoint:\n{waypoint}\nistiod-lite:\n{control}")
}

/// Who calls, in the order of the table's columns.
#[derive(Debug, Clone, Copy)]
enum Client {
    /// A pod of the mesh, by the service's address.
    Mesh,
    /// A pod outside of the mesh, by the service's address.
    Plain,
    /// A pod of the mesh, by a pod's own address.
    PodIp,
    /// A pod of the mesh in another namespace, by the service's address.
    OtherNamespace,
}

const CLIENTS: [Client; 4] = [
    Client::Mesh,
    Client::Plain,
    Client::PodIp,
    Client::OtherNamespace,
];

/// What the namespace names, and what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Misspelt,
    NoGateway,
    NoPods,
    NotReady,
    Ready,
    Deleted,
}

/// Outcomes per state without and with a policy, in the order of [`CLIENTS`].
///
/// A service that names a waypoint is not reached round it by its address: a
/// ztunnel refuses (`unknown_waypoint`) while there is none. What doesn't come
/// by the service's address (a pod's own, or plaintext that kube-proxy sends to
/// a pod) is upstream's way round, and is shut, at the destination, as soon as
/// a policy depends on the waypoint. Where there is no Gateway, nobody knows
/// whether it is (or was) for workloads too, so that pods' own addresses are
/// refused as well.
const TABLE: [(State, [&str; 4], [&str; 4]); 6] = [
    (State::Misspelt, UNKNOWN, SHUT),
    (State::NoGateway, UNKNOWN, SHUT),
    (State::NoPods, CLOSED, SHUT),
    (State::NotReady, CLOSED, SHUT),
    (
        State::Ready,
        ["200", "200", "200", "200"],
        ["200", "refused", "refused", "200"],
    ),
    (State::Deleted, UNKNOWN, SHUT),
];
const CLOSED: [&str; 4] = ["refused", "200", "200", "refused"];
const UNKNOWN: [&str; 4] = ["refused", "200", "refused", "refused"];
const SHUT: [&str; 4] = ["refused", "refused", "refused", "refused"];

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-get, namespace: mesh}
spec:
  targetRefs: [{group: '', kind: Service, name: echo}]
  action: ALLOW
  rules: [{to: [{operation: {methods: [GET]}}]}]
";

#[test]
fn every_state_of_a_waypoint_has_its_outcome_for_every_client() {
    scenario::on("waypoint states", options(), async |cluster| {
        let gateway = cluster
            .manifests
            .get(&Key::new("Gateway", "mesh", "waypoint"))?
            .clone();
        let mut wrong = String::new();
        for (state, open, guarded) in TABLE {
            enter(cluster, state, &gateway).await?;
            for (policy, want) in [(false, open), (true, guarded)] {
                if policy {
                    cluster.apply(POLICY)?;
                }
                if let Err(error) = row(cluster, want).await {
                    writeln!(wrong, "{state:?}, policy {policy}: {error:#}")?;
                }
                if policy {
                    cluster.delete("AuthorizationPolicy", "mesh", "only-get")?;
                }
            }
        }
        ensure!(wrong.is_empty(), "{wrong}");
        Ok(())
    });
}

async fn enter(cluster: &mut Cluster, state: State, gateway: &Value) -> Result<()> {
    let name = match state {
        State::Misspelt => "waypiont",
        _ => "waypoint",
    };
    let label = "istio.io/use-waypoint";
    cluster.label_namespace("mesh", label, Some(name))?;
    match state {
        State::Misspelt => Ok(()),
        State::NoGateway | State::Deleted => {
            cluster.delete("Gateway", "mesh", "waypoint")?;
            cluster.sync_waypoints().await
        }
        State::NoPods => {
            cluster.manifests.put(gateway.clone())?;
            cluster.scale_waypoint("mesh", "waypoint", 0);
            cluster.sync_waypoints().await
        }
        State::NotReady => {
            cluster.scale_waypoint("mesh", "waypoint", 1);
            cluster.sync_waypoints().await?;
            mark(cluster, false)
        }
        State::Ready => mark(cluster, true),
    }
}

fn mark(cluster: &mut Cluster, ready: bool) -> Result<()> {
    for pod in cluster.waypoint_pods("mesh", "waypoint") {
        cluster.mark_waypoint("mesh", &pod, ready)?;
    }
    Ok(())
}

/// Waits until every client has its outcome, and keeps it.
async fn row(cluster: &Cluster, want: [&str; 4]) -> Result<()> {
    eventually("the row", async || same(cluster, want).await).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    same(cluster, want).await.context("and then not any more")
}

async fn same(cluster: &Cluster, want: [&str; 4]) -> Result<()> {
    let mut got = Vec::new();
    for client in CLIENTS {
        got.push(outcome(cluster, client).await?);
    }
    if got != want {
        bail!("{CLIENTS:?} had {got:?} and not {want:?}");
    }
    Ok(())
}

/// A status, or that the connection was refused.
async fn outcome(cluster: &Cluster, client: Client) -> Result<String> {
    let service: SocketAddr = cluster.service_addr("mesh", "echo", 80)?;
    let (namespace, to) = match client {
        Client::Mesh => ("mesh", service),
        Client::Plain => ("plain", service),
        Client::PodIp => ("mesh", cluster.pod_addr("mesh", "echo-v1-0", 8080)?),
        Client::OtherNamespace => ("consumer", service),
    };
    let ns = cluster.pod_ns(namespace, "client")?;
    Ok(match http::ask(&ns, to, &Ask::get("/")).await {
        Ok(reply) => reply.status.to_string(),
        Err(_) => "refused".to_owned(),
    })
}

/// The setting that restores upstream's way: open until there is a waypoint.
#[test]
fn a_bypass_that_is_asked_for_is_upstreams_way() {
    scenario::on("waypoint bypass", options(), async |cluster| {
        let key = Key::new("Namespace", "", "mesh");
        cluster.manifests.edit(&key, |namespace| {
            let annotation = "ambit.mesh/waypoint-bypass";
            set_meta(namespace, "annotations", annotation, Some("allow"));
        })?;
        cluster.delete("Gateway", "mesh", "waypoint")?;
        cluster.sync_waypoints().await?;
        row(cluster, ["200", "200", "200", "200"]).await
    });
}
