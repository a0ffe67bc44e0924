//! Pods join and leave the mesh on a cluster (`control-plane-contract` 1.1,
//! `ztunnel-contract` 11.5).

mod agent;
mod joins;
mod never;
mod node;
mod strict;

use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use ambit_e2e::kube::Api;
use ambit_e2e::programs;
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::inside::{BOUND, Pod, pods, ready};
use crate::world::{Steps, World};

#[tokio::test]
async fn pods_join_and_leave_the_mesh() {
    let mut world = World::ambit().await.unwrap();
    let api = world.api.clone();
    let api = &api;
    set_up(api).await.unwrap();
    let mut steps = Steps::new();
    for key in ["dataplane-mode", "istio.io/dataplane-mode"] {
        steps
            .run(
                &format!("a namespace joins and leaves by {key}"),
                joins::joins_and_leaves(api, key),
            )
            .await;
    }
    steps
        .run("who is never enrolled", never::never_enrolled(api))
        .await;
    steps.run("a strict pod", strict::strict(api)).await;
    steps
        .run("the first packet", strict::first_packet(api))
        .await;
    if world.may_break("the absence of the node agent") {
        steps.run("the agent is away", agent::agent_away(api)).await;
        steps
            .run("the agent is killed", agent::agent_killed(api))
            .await;
    }
    if world.own.is_some() {
        steps.run("a node reboots", node::reboot(&mut world)).await;
        steps.run("helm uninstall", node::uninstall(&world)).await;
    } else {
        eprintln!("SKIPPED a reboot, helm uninstall: they need a box");
    }
    steps.finish();
    clean_up(api).await.unwrap();
}

async fn set_up(api: &Api) -> Result<()> {
    let yaml = fs::read_to_string(programs::scenarios().join("cluster/enrol.yaml"))?;
    api.apply(&yaml).await?;
    ready(api, ENROL, "app=server", 2).await?;
    ready(api, "outside", "app=plain", 1).await?;
    leave(api).await
}

async fn clean_up(api: &Api) -> Result<()> {
    for name in [ENROL, "outside"] {
        api.delete(&namespace(name)).await?;
    }
    Ok(())
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A pod on each of two nodes.
async fn servers(api: &Api) -> Result<(Pod, Pod)> {
    let mut all = ready(api, ENROL, "app=server", 2).await?.into_iter();
    let (one, other) = (all.next(), all.next());
    let (one, other) = (one.context("none")?, other.context("only one")?);
    ensure!(one.node() != other.node(), "both on {}", one.node());
    Ok((one, other))
}

async fn join(api: &Api, key: &str) -> Result<()> {
    api.label(&namespace(ENROL), key, Some("ambient")).await?;
    settled(api, Some("enabled")).await
}

async fn leave(api: &Api) -> Result<()> {
    for key in ["dataplane-mode", "istio.io/dataplane-mode"] {
        api.label(&namespace(ENROL), key, None).await?;
    }
    settled(api, None).await
}

/// Waits until the agent says so of both servers.
async fn settled(api: &Api, redirection: Option<&str>) -> Result<()> {
    let what = format!("the servers' redirection is {redirection:?}");
    eventually_within(BOUND, &what, async || {
        for pod in pods(api, ENROL, "app=server").await? {
            let now = pod.redirection();
            ensure!(now == redirection, "{}: {now:?}", pod.name);
        }
        Ok(())
    })
    .await
}

/// A request from one pod to another, and what went over the caller's link.
struct Seen {
    /// Its text was on the link.
    clear: bool,
    /// Bytes of HBONE, all of them TLS.
    hbone: usize,
}

async fn call(api: &Api, from: &Pod, to: IpAddr) -> Result<Seen> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let marker = format!("marker-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let url = format!("http://{to}:8080/{marker}");
    let before = opened(api, from).await?;
    let (_, traffic) = from.capture(async || from.gets(api, &url)).await?;
    let Some(traffic) = traffic else {
        // Elsewhere: the word of the node's proxy.
        let hbone = opened(api, from).await? > before;
        return Ok(Seen {
            clear: !hbone,
            hbone: usize::from(hbone),
        });
    };
    let tunnels = |(a, b): &&(std::net::SocketAddr, std::net::SocketAddr)| {
        a.port() == 15008 || b.port() == 15008
    };
    let not_tls = traffic.not_tls();
    let bad: Vec<_> = not_tls.iter().filter(tunnels).collect();
    ensure!(bad.is_empty(), "HBONE without TLS: {bad:?}");
    Ok(Seen {
        clear: traffic.contains(marker.as_bytes()),
        hbone: traffic.bytes_with_port(15008),
    })
}

/// Connections with mTLS that a pod's proxy opened for it.
async fn opened(api: &Api, pod: &Pod) -> Result<f64> {
    let mut sum = 0.0;
    for proxy in pods(api, SYSTEM, "app=ztunnel").await? {
        if proxy.node() == pod.node() {
            let labels = [
                ("reporter", "source"),
                ("connection_security_policy", "mutual_tls"),
                ("source_workload_namespace", pod.namespace.as_str()),
            ];
            let metrics = proxy.metrics(api).await?;
            sum += metrics.sum("istio_tcp_connections_opened_total", &labels);
        }
    }
    Ok(sum)
}

/// Both ways between the servers, over HBONE and nothing else.
async fn meshed(api: &Api) -> Result<()> {
    eventually_within(BOUND, "requests go over HBONE", async || {
        let (one, other) = servers(api).await?;
        for (from, to) in [(&one, &other), (&other, &one)] {
            let seen = call(api, from, to.ip()?).await?;
            ensure!(
                !seen.clear && seen.hbone > 0,
                "from {}: in the clear",
                from.name
            );
        }
        Ok(())
    })
    .await
}

async fn plain(api: &Api) -> Result<()> {
    eventually_within(BOUND, "requests go in the clear", async || {
        let (one, other) = servers(api).await?;
        let seen = call(api, &one, other.ip()?).await?;
        ensure!(seen.clear && seen.hbone == 0, "still over HBONE");
        Ok(())
    })
    .await
}

fn echo(namespace: &str, name: &str, arguments: &[&str], more: &Value) -> Value {
    let mut all = vec!["serve", "--http=8080", "--tcp=9000"];
    all.extend(arguments);
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "app", "image": "ambit/echo:dev", "imagePullPolicy": "IfNotPresent", "args": all}]}});
    merge(&mut pod, more);
    pod
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// Waits until an object is gone.
async fn gone(api: &Api, object: &Value) -> Result<()> {
    let path = api.path_of(object).await?;
    eventually_within(BOUND, &format!("{path} is gone"), async || {
        match api.get(&path).await {
            Ok(_) => bail!("it is there"),
            Err(_) => Ok(()),
        }
    })
    .await
}

fn peer_authentication(mode: &str) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "all", "namespace": ENROL}, "spec": {"mtls": {"mode": mode}}})
}

/// Whether a client outside of the mesh is answered by a server.
async fn outsider(api: &Api, answered: bool) -> Result<()> {
    let (server, _) = servers(api).await?;
    let client = ready(api, "outside", "app=plain", 1).await?.remove(0);
    let by_address = format!("http://{}:8080/", server.ip()?);
    let what = format!("a plain client is answered: {answered}");
    eventually_within(BOUND, &what, async || {
        for url in [by_address.as_str(), "http://server.enrol/"] {
            let status = client.status(api, &[url])?;
            ensure!(status.is_some() == answered, "{url}: {status:?}");
        }
        Ok(())
    })
    .await
}

const ENROL: &str = "enrol";
const SYSTEM: &str = "istio-system";
const KEY: &str = "istio.io/dataplane-mode";
