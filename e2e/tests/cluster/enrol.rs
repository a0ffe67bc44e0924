//! Pods join and leave the mesh on a cluster (`control-plane-contract` 1.1,
//! `ztunnel-contract` 11.5).

use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use ambit_e2e::kube::{Api, install};
use ambit_e2e::programs;
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::inside::{BOUND, Pod, pods, processes_of, ready};
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
                joins_and_leaves(api, key),
            )
            .await;
    }
    steps
        .run("who is never enrolled", never_enrolled(api))
        .await;
    steps.run("a strict pod", strict(api)).await;
    steps.run("the first packet", first_packet(api)).await;
    if world.may_break("the absence of the node agent") {
        steps.run("the agent is away", agent_away(api)).await;
        steps.run("the agent is killed", agent_killed(api)).await;
    }
    if world.own.is_some() {
        steps.run("a node reboots", reboot(&mut world)).await;
        steps.run("helm uninstall", uninstall(&world)).await;
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

async fn joins_and_leaves(api: &Api, key: &str) -> Result<()> {
    let before = servers(api).await?;
    let untouched = before.0.trace().await?;
    plain(api).await.context("before")?;
    join(api, key).await?;
    meshed(api).await?;
    api_server(api, &before.0)?;
    if let Some(trace) = before.0.trace().await? {
        ensure!(untouched.as_ref() != Some(&trace), "no rules");
        ensure!(trace.listening.contains(&15008), "{:?}", trace.listening);
    }
    leave(api).await?;
    plain(api).await.context("after")?;
    eventually_within(BOUND, "nothing is left in the pod", async || {
        let trace = before.0.trace().await?;
        ensure!(trace == untouched, "{trace:?} instead of {untouched:?}");
        Ok(())
    })
    .await?;
    let after = servers(api).await?;
    for (before, after) in [(&before.0, &after.0), (&before.1, &after.1)] {
        ensure!(
            before.uid() == after.uid() && before.restarts() == after.restarts(),
            "{} was restarted",
            before.name
        );
    }
    Ok(())
}

/// By its Service, whose endpoint is no pod: it says that it wants TLS.
fn api_server(api: &Api, from: &Pod) -> Result<()> {
    let answer = from.asks(api, &["http://kubernetes.default:443/"])?;
    let answer = answer.first().context("no line")?;
    let said = answer["body"].to_string();
    ensure!(
        answer["status"] == 400 && said.contains("HTTPS server"),
        "{answer}"
    );
    Ok(())
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

/// Labels of pods win over their namespace's; some are never enrolled.
async fn never_enrolled(api: &Api) -> Result<()> {
    join(api, KEY).await?;
    let ambient = json!({"metadata": {"labels": {KEY: "ambient", "test": "enrol"}}});
    let label = |value: &str| json!({"metadata": {"labels": {KEY: value, "test": "enrol"}}});
    let sidecar = json!({"metadata": {"labels": {"test": "enrol"}, "annotations": {"sidecar.istio.io/status": "{}"}}});
    let host = json!({"metadata": {"labels": {"test": "enrol"}}, "spec": {"hostNetwork": true,
        "containers": [{"name": "app", "image": "ambit/echo:dev", "imagePullPolicy": "IfNotPresent",
            "args": ["serve", "--tcp=29000"]}]}});
    let own_will = [
        echo(ENROL, "opted-out", &[], &label("none")),
        echo(ENROL, "sidecar", &[], &sidecar),
        echo(ENROL, "host", &[], &host),
        echo("kube-system", "excluded", &[], &ambient),
        echo("outside", "joined-alone", &[], &ambient),
        // Last: whoever is before it has been looked at.
        echo(ENROL, "enrolled", &[], &json!({})),
    ];
    for pod in &own_will {
        api.delete(pod).await?;
        gone(api, pod).await?;
        api.apply_object(pod).await?;
    }
    let now = async |pod: &Value| {
        let path = api.path_of(pod).await?;
        Pod::of(api.get(&path).await?)
    };
    for pod in &own_will {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let wanted = matches!(name, "enrolled" | "joined-alone").then_some("enabled");
        eventually_within(BOUND, &format!("{name} is what it should be"), async || {
            let pod = now(pod).await?;
            ensure!(pod.is_ready(), "{}", pod.object["status"]);
            ensure!(pod.redirection() == wanted, "{:?}", pod.redirection());
            Ok(())
        })
        .await?;
    }
    for pod in &own_will {
        let pod = now(pod).await?;
        let Some(trace) = pod.trace().await? else {
            continue;
        };
        let enrolled = matches!(pod.name.as_str(), "enrolled" | "joined-alone");
        if pod.name != "host" {
            let rules = trace.ruleset.contains("15001");
            ensure!(rules == enrolled, "{}: {}", pod.name, trace.ruleset);
        }
    }
    // A label of its own takes a running pod out, and in again.
    for (label, wanted) in [(Some("none"), None), (None, Some("enabled"))] {
        let pod = &own_will[5];
        api.label(pod, KEY, label).await?;
        eventually_within(
            BOUND,
            &format!("with {label:?} it is {wanted:?}"),
            async || {
                let pod = now(pod).await?;
                ensure!(pod.redirection() == wanted, "{:?}", pod.redirection());
                Ok(())
            },
        )
        .await?;
    }
    for pod in &own_will {
        api.delete(pod).await?;
    }
    leave(api).await
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

/// Probes of a kind that kubelet has sent to a pod.
fn probes(api: &Api, pod: &Pod, port: u16, id: &str) -> Result<u64> {
    let url = format!("http://127.0.0.1:{port}/__seen?id={id}");
    let seen = pod.gets(api, &url)?;
    seen["count"].as_u64().context("a count")
}

async fn strict(api: &Api) -> Result<()> {
    join(api, KEY).await?;
    outsider(api, true).await?;
    api.apply_object(&peer_authentication("STRICT")).await?;
    outsider(api, false).await?;
    meshed(api).await?;
    // Kubelet goes on: a few more probes of each kind, and none has failed.
    let before = servers(api).await?;
    for pod in [&before.0, &before.1] {
        for (port, id) in [(8080, "readiness"), (8081, "liveness")] {
            let first = probes(api, pod, port, id)?;
            eventually_within(BOUND, "kubelet probes", async || {
                let now = probes(api, pod, port, id)?;
                ensure!(now > first + 3, "{now} after {first}");
                let pod = pod.again(api).await?;
                ensure!(pod.is_ready(), "{}", pod.object["status"]);
                Ok(())
            })
            .await?;
        }
        let now = pod.again(api).await?;
        ensure!(
            now.is_ready() && now.restarts() == pod.restarts(),
            "{}",
            now.object["status"]
        );
        let transition = |pod: &Pod| pod.object["status"]["conditions"].clone();
        ensure!(transition(pod) == transition(&now), "{}", transition(&now));
    }
    api.delete(&peer_authentication("STRICT")).await?;
    outsider(api, true).await?;
    leave(api).await
}

/// Pods whose first act is a connection to a strict one: it is in the mesh.
async fn first_packet(api: &Api) -> Result<()> {
    join(api, KEY).await?;
    api.apply_object(&peer_authentication("STRICT")).await?;
    outsider(api, false).await?;
    let (one, other) = servers(api).await?;
    let mut starters = Vec::new();
    for (n, to) in [&one, &other, &one, &other].into_iter().enumerate() {
        let hello = format!("--hello={}:9000", to.ip()?);
        let pod = |namespace, name: String| echo(namespace, &name, &[&hello], &json!({}));
        starters.push((pod(ENROL, format!("first-{n}")), true));
        if n == 0 {
            starters.push((pod("outside", "first".to_owned()), false));
        }
    }
    for (pod, _) in &starters {
        api.delete(pod).await?;
        gone(api, pod).await?;
        api.apply_object(pod).await?;
    }
    for (pod, served) in &starters {
        let path = api.path_of(pod).await?;
        eventually_within(BOUND, &format!("{path}, served: {served}"), async || {
            let pod = Pod::of(api.get(&path).await?)?;
            let phase = pod.object["status"]["phase"].as_str().unwrap_or_default();
            let as_wished = match served {
                true => pod.is_ready(),
                false => phase == "Failed",
            };
            ensure!(as_wished, "{}", pod.object["status"]);
            Ok(())
        })
        .await?;
        api.delete(pod).await?;
    }
    api.delete(&peer_authentication("STRICT")).await?;
    leave(api).await
}

fn agents() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "istio-cni-node", "namespace": SYSTEM}})
}

/// Nodes without the agent hold pods; those that run go on.
async fn agent_away(api: &Api) -> Result<()> {
    join(api, KEY).await?;
    let nowhere = |value: Value| json!({"spec": {"template": {"spec": {"nodeSelector": {"ambit.test/nowhere": value}}}}});
    api.merge(&agents(), &nowhere(json!("true"))).await?;
    let held = echo(ENROL, "held", &[], &json!({}));
    let outcome = async {
        eventually_within(BOUND, "no agent runs", async || {
            let left = pods(api, SYSTEM, "k8s-app=istio-cni-node").await?;
            ensure!(left.is_empty(), "{} are there", left.len());
            Ok(())
        })
        .await?;
        api.delete(&held).await?;
        gone(api, &held).await?;
        api.apply_object(&held).await?;
        eventually_within(BOUND, "a pod waits, and says for whom", async || {
            let path = format!("/api/v1/namespaces/{ENROL}/events");
            let events = api.get(&path).await?.to_string();
            ensure!(
                events.contains("the node agent isn't there"),
                "no such event"
            );
            Ok(())
        })
        .await?;
        let path = api.path_of(&held).await?;
        let phase = api.get(&path).await?["status"]["phase"].take();
        ensure!(phase == "Pending", "it is {phase}");
        meshed(api).await.context("those that run")
    }
    .await;
    api.merge(&agents(), &nowhere(Value::Null)).await?;
    outcome?;
    api.wait_rolled_out("DaemonSet", SYSTEM, "istio-cni-node", BOUND)
        .await?;
    let path = api.path_of(&held).await?;
    eventually_within(BOUND, "the pod starts when it is back", async || {
        let pod = Pod::of(api.get(&path).await?)?;
        ensure!(pod.is_ready(), "{}", pod.object["status"]);
        ensure!(pod.redirection() == Some("enabled"), "not enrolled");
        Ok(())
    })
    .await?;
    api.delete(&held).await?;
    meshed(api).await?;
    leave(api).await
}

/// Killed at moments of joining and leaving: its successor ends what it began.
async fn agent_killed(api: &Api) -> Result<()> {
    for moment in [0, 20, 60, 150] {
        for joins in [true, false] {
            api.label(&namespace(ENROL), KEY, joins.then_some("ambient"))
                .await?;
            tokio::time::sleep(std::time::Duration::from_millis(moment)).await;
            kill_agents(api).await?;
            let what = format!("{moment} ms after the label, joins: {joins}");
            let redirection = joins.then_some("enabled");
            settled(api, redirection).await.context(what.clone())?;
            match joins {
                true => meshed(api).await.context(what)?,
                false => plain(api).await.context(what)?,
            }
        }
    }
    Ok(())
}

/// By signal where they run on this machine; their pods go too, as kubelet
/// waits before it starts a container that was killed often.
async fn kill_agents(api: &Api) -> Result<()> {
    let all = pods(api, SYSTEM, "k8s-app=istio-cni-node").await?;
    for pod in &all {
        // The container's process, not the one that holds the sandbox.
        for pid in processes_of(pod.uid())? {
            if fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "node-agent")
            {
                let _ = kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL);
            }
        }
    }
    for pod in &all {
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{}", pod.name);
        let at_once = json!({"gracePeriodSeconds": 0});
        let deleted = api.request(http::Method::DELETE, &path, &at_once).await;
        deleted.map(drop)?;
    }
    Ok(())
}

/// The power of a node fails; its disks have the plugin, its pods come back.
async fn reboot(world: &mut World) -> Result<()> {
    let api = world.api.clone();
    let api = &api;
    join(api, KEY).await?;
    api.apply_object(&peer_authentication("STRICT")).await?;
    meshed(api).await?;
    let (_, there) = servers(api).await?;
    let node = there.node().to_owned();
    let own = world.own()?;
    own.kill_node(&node)?;
    own.boot_node(&node).await?;
    own.wait_ready(&node).await?;
    eventually_within(BOUND, "its pod runs again", async || {
        let pod = there.again(api).await?;
        ensure!(
            pod.is_ready() && pod.restarts() > there.restarts(),
            "{}",
            pod.object["status"]
        );
        Ok(())
    })
    .await?;
    meshed(api).await?;
    outsider(api, false).await?;
    api.delete(&peer_authentication("STRICT")).await?;
    leave(api).await
}

/// Configuration of the network is what it was, and nothing is left in pods.
async fn uninstall(world: &World) -> Result<()> {
    let api = &world.api;
    join(api, KEY).await?;
    let during = world.conflists()?;
    ensure!(during != world.conflists, "the plugin was never installed");
    leave(api).await?;
    // They have only begun to leave: the agent's end is theirs.
    let helm = install::helm(api)?;
    helm.run(&["uninstall", "ambit", "-n", SYSTEM, "--wait", "--timeout=2m"])?;
    eventually_within(BOUND, "configurations are as they were", async || {
        let now = world.conflists()?;
        ensure!(
            now == world.conflists,
            "{:?}",
            now.values()
                .map(|text| String::from_utf8_lossy(text))
                .collect::<Vec<_>>()
        );
        Ok(())
    })
    .await?;
    let own = world.own.as_ref().context("no box")?;
    for node in own.nodes() {
        // After the configuration that names it.
        let plugin = node.file("/opt/cni/bin/ambit-cni")?;
        eventually_within(BOUND, "the plugin is gone", async || {
            ensure!(!plugin.exists(), "it stays on {}", node.name());
            Ok(())
        })
        .await?;
    }
    plain(api).await?;
    for pod in pods(api, ENROL, "app=server").await? {
        left_alone(&pod).await?;
    }
    let new = echo(ENROL, "after", &[], &json!({}));
    api.apply_object(&new).await?;
    let path = api.path_of(&new).await?;
    eventually_within(BOUND, "pods start without it", async || {
        let pod = Pod::of(api.get(&path).await?)?;
        ensure!(pod.is_ready(), "{}", pod.object["status"]);
        Ok(())
    })
    .await
}

/// Waits until no rule is in a pod.
async fn left_alone(pod: &Pod) -> Result<()> {
    eventually_within(BOUND, "nothing is left in the pod", async || {
        let trace = pod.trace().await?.context("a pod of the box")?;
        ensure!(
            trace.ruleset.trim().is_empty() && trace.rules.is_empty() && trace.routes.is_empty(),
            "{trace:?}"
        );
        Ok(())
    })
    .await
}

const ENROL: &str = "enrol";
const SYSTEM: &str = "istio-system";
const KEY: &str = "istio.io/dataplane-mode";
