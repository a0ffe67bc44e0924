//! Waypoints on a cluster: deployed, in force, told about, never gone round
//! (`control-plane-contract` 5, `docs/waypoint.md`).

use std::fs;
use std::process::Command;

use ambit_e2e::kube::{Api, install};
use ambit_e2e::programs;
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::inside::{BOUND, Pod, pods, ready};
use crate::world::{Steps, World};

#[path = "waypoints/changes.rs"]
mod changes;
#[path = "waypoints/states.rs"]
mod states;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waypoints_are_run_and_hold() {
    let world = World::ambit().await.unwrap();
    let api = &world.api;
    set_up(api).await.unwrap();
    let mut steps = Steps::new();
    steps
        .run("a waypoint, its routes and policies", life(api))
        .await;
    steps
        .run("a service account's waypoint", account(api))
        .await;
    steps.run("states of a waypoint", states::all(api)).await;
    steps.run("two revisions", revisions(api)).await;
    steps
        .run("objects that are bad or big", bad_objects(api))
        .await;
    steps
        .run("how soon a route holds", changes::measured(api))
        .await;
    steps.finish();
    for name in [WAYS, CALLERS] {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        api.delete(&namespace).await.unwrap();
    }
}

async fn set_up(api: &Api) -> Result<()> {
    let yaml = fs::read_to_string(programs::scenarios().join("cluster/waypoints.yaml"))?;
    api.apply(&yaml).await?;
    for (namespace, app, count) in [
        (WAYS, "app=app", 2),
        (WAYS, "app=other", 1),
        (CALLERS, "app=meshed", 1),
        (CALLERS, "app=plain", 1),
    ] {
        ready(api, namespace, app, count).await?;
    }
    Ok(())
}

async fn caller(api: &Api, app: &str) -> Result<Pod> {
    let mut all = ready(api, CALLERS, &format!("app={app}"), 1).await?;
    Ok(all.remove(0))
}

fn object(version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": WAYS}})
}

fn service(name: &str) -> Value {
    object("v1", "Service", name)
}

/// A Gateway that is a waypoint.
fn gateway(name: &str, class: &str, metadata: &Value) -> Value {
    let mut gateway = object("gateway.networking.k8s.io/v1", "Gateway", name);
    for (key, value) in metadata.as_object().into_iter().flatten() {
        gateway["metadata"][key] = value.clone();
    }
    gateway["spec"] = json!({"gatewayClassName": class,
        "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]});
    gateway
}

/// Reads an object again.
async fn now(api: &Api, object: &Value) -> Result<Value> {
    let path = api.path_of(object).await?;
    api.get(&path).await
}

/// The condition of a type in a list of them.
fn condition<'a>(conditions: &'a Value, kind: &str) -> Option<&'a Value> {
    let mut conditions = conditions.as_array()?.iter();
    conditions.find(|condition| condition["type"] == kind)
}

/// Fails unless a condition has this status and reason.
fn says(conditions: &Value, kind: &str, status: &str, reason: &str) -> Result<()> {
    let said = condition(conditions, kind).with_context(|| format!("no {kind} in {conditions}"))?;
    ensure!(
        said["status"] == status && said["reason"] == reason,
        "{said}"
    );
    Ok(())
}

/// Waits until a Gateway is programmed, and returns its waypoint's pod.
async fn programmed(api: &Api, gateway: &Value) -> Result<Pod> {
    eventually_within(BOUND, "the Gateway is programmed", async || {
        let gateway = now(api, gateway).await?;
        says(
            &gateway["status"]["conditions"],
            "Programmed",
            "True",
            "Programmed",
        )
    })
    .await?;
    let name = gateway["metadata"]["name"].as_str().unwrap_or_default();
    let label = format!("gateway.networking.k8s.io/gateway-name={name}");
    Ok(ready(api, WAYS, &label, 1).await?.remove(0))
}

/// Waits until a service's binding is told so; without a reason until nothing
/// is.
async fn bound(api: &Api, name: &str, expected: Option<(&str, &str)>) -> Result<Value> {
    let what = format!("{name} is bound: {expected:?}");
    eventually_within(BOUND, &what, async || {
        let service = now(api, &service(name)).await?;
        let conditions = &service["status"]["conditions"];
        match expected {
            Some((status, reason)) => says(conditions, "istio.io/WaypointBound", status, reason)?,
            None => ensure!(
                condition(conditions, "istio.io/WaypointBound").is_none(),
                "{conditions}"
            ),
        }
        Ok(conditions.clone())
    })
    .await
}

/// Fails unless an answer came by way of a waypoint's pod.
fn passed(answer: &Value, waypoint: &Pod) -> Result<()> {
    ensure!(answer["status"] == 200, "{answer}");
    ensure!(
        answer["body"]["client"] == waypoint.ip()?.to_string(),
        "round {}: {answer}",
        waypoint.name
    );
    Ok(())
}

async fn life(api: &Api) -> Result<()> {
    for class in ["istio-waypoint", "ambit-waypoint"] {
        let class = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
            "metadata": {"name": class}});
        let class = now(api, &class).await?;
        says(
            &class["status"]["conditions"],
            "Accepted",
            "True",
            "Accepted",
        )?;
    }
    let gate = gateway("gate", "istio-waypoint", &json!({}));
    api.apply_object(&gate).await?;
    let waypoint = programmed(api, &gate).await?;
    status_of(api, &gate).await?;
    let owner = now(api, &gate).await?["metadata"]["uid"].take();
    for (version, kind) in MADE {
        let made = now(api, &object(version, kind, "gate")).await?;
        ensure!(
            made["metadata"]["ownerReferences"][0]["uid"] == owner,
            "{made}"
        );
    }

    let meshed = caller(api, "meshed").await?;
    api.label(&service("app"), USE_WAYPOINT, Some("gate"))
        .await?;
    let said = bound(api, "app", Some(("True", "WaypointAccepted"))).await?;
    ensure!(said.to_string().contains("ways/gate"), "{said}");
    eventually_within(BOUND, "requests pass it", async || {
        let answers = meshed.asks(api, &["http://app.ways/", "--count=4"])?;
        answers
            .iter()
            .try_for_each(|answer| passed(answer, &waypoint))
    })
    .await?;

    api.apply(ROUTE_AND_POLICY).await?;
    eventually_within(BOUND, "the route and the policy hold", async || {
        let one = &meshed.asks(api, &["http://app.ways/"])?[0];
        let two = &meshed.asks(api, &["http://app.ways/", "-H", "x-version: two"])?[0];
        passed(one, &waypoint).and(passed(two, &waypoint))?;
        let pod = |answer: &Value| {
            answer["body"]["pod"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        ensure!(one["body"]["headers"]["x-routed"][0] == "yes", "{one}");
        ensure!(
            pod(one).starts_with("app-v1") && pod(two).starts_with("app-v2"),
            "{one} {two}"
        );
        let post = meshed.status(api, &["-X", "POST", "http://app.ways/"])?;
        ensure!(post == Some(403), "POST: {post:?}");
        Ok(())
    })
    .await?;
    attached(api).await?;
    tapped(api, &waypoint)?;

    // Without it nobody gets in, and nothing of it is left.
    api.delete(&gate).await?;
    for (version, kind) in MADE {
        eventually_within(BOUND, &format!("its {kind} is gone"), async || {
            ensure!(
                now(api, &object(version, kind, "gate")).await.is_err(),
                "it is there"
            );
            Ok(())
        })
        .await?;
    }
    bound(api, "app", Some(("False", "WaypointIsNotReady"))).await?;
    for (kind, name) in [("HTTPRoute", "app"), ("AuthorizationPolicy", "app")] {
        let version = match kind {
            "HTTPRoute" => "gateway.networking.k8s.io/v1",
            _ => "security.istio.io/v1",
        };
        api.delete(&object(version, kind, name)).await?;
    }
    api.label(&service("app"), USE_WAYPOINT, None).await?;
    bound(api, "app", None).await?;
    eventually_within(BOUND, "requests go direct again", async || {
        let answer = meshed.gets(api, "http://app.ways/")?;
        ensure!(answer["headers"].get("x-request-id").is_none(), "{answer}");
        Ok(())
    })
    .await
}

/// Conditions, listener and addresses of a Gateway that serves.
async fn status_of(api: &Api, gate: &Value) -> Result<()> {
    let gate = now(api, gate).await?;
    let (status, generation) = (&gate["status"], &gate["metadata"]["generation"]);
    for (kind, reason) in [
        ("Accepted", "Accepted"),
        ("Programmed", "Programmed"),
        ("ResolvedRefs", "ResolvedRefs"),
    ] {
        says(&status["conditions"], kind, "True", reason)?;
        let observed = condition(&status["conditions"], kind).map(|c| &c["observedGeneration"]);
        ensure!(observed == Some(generation), "{kind}: {observed:?}");
    }
    let listener = &status["listeners"][0];
    ensure!(
        listener["name"] == "mesh" && listener["supportedKinds"] == json!([]),
        "{listener}"
    );
    says(
        &listener["conditions"],
        "Conflicted",
        "False",
        "NoConflicts",
    )?;
    let made = now(api, &service("gate")).await?;
    let addresses = json!([
        {"type": "Hostname", "value": "gate.ways.svc.cluster.local"},
        {"type": "IPAddress", "value": made["spec"]["clusterIP"]}]);
    ensure!(status["addresses"] == addresses, "{}", status["addresses"]);
    Ok(())
}

/// Statuses of the route and the policy.
async fn attached(api: &Api) -> Result<()> {
    eventually_within(BOUND, "route and policy are told about", async || {
        let route = object("gateway.networking.k8s.io/v1", "HTTPRoute", "app");
        let route = now(api, &route).await?;
        let parents = &route["status"]["parents"];
        ensure!(parents.as_array().map(Vec::len) == Some(1), "{parents}");
        ensure!(
            parents[0]["controllerName"] == "istio.io/gateway-controller",
            "{parents}"
        );
        for (kind, reason) in [("Accepted", "Accepted"), ("ResolvedRefs", "ResolvedRefs")] {
            says(&parents[0]["conditions"], kind, "True", reason)?;
        }
        let policy = object("security.istio.io/v1", "AuthorizationPolicy", "app");
        let policy = now(api, &policy).await?;
        let conditions = &policy["status"]["conditions"];
        says(conditions, "WaypointAccepted", "True", "Accepted")?;
        ensure!(
            condition(conditions, "ZtunnelAccepted").is_none(),
            "{conditions}"
        );
        Ok(())
    })
    .await
}

/// The waypoint could leave its token: whoever may enter the pod can tap.
fn tapped(api: &Api, waypoint: &Pod) -> Result<()> {
    let mut logs = api.kubectl()?;
    logs.args(["logs", "-n", &waypoint.namespace, &waypoint.name]);
    let logs = String::from_utf8_lossy(&logs.output()?.stdout).into_owned();
    ensure!(logs.contains("waypoint starts"), "{logs}");
    ensure!(!logs.contains("no token file"), "{logs}");
    Ok(())
}

/// All ways to the pods of an account pass its waypoint, none to another's; as
/// each hop counts it.
async fn account(api: &Api) -> Result<()> {
    let gate = json!({"annotations": {"istio.io/for-service-account": "app"}});
    let gate = gateway("account", "ambit-waypoint", &gate);
    api.apply_object(&gate).await?;
    let waypoint = programmed(api, &gate).await?;
    for name in ["app", "app-v1", "app-v2"] {
        bound(api, name, Some(("True", "WaypointAccepted"))).await?;
    }
    bound(api, "other", None).await?;
    let meshed = caller(api, "meshed").await?;
    let address = async |label: &str| -> Result<String> {
        let pods = pods(api, WAYS, label).await?;
        Ok(format!("http://{}:8080/", pods[0].ip()?))
    };
    let app = ["http://app.ways/".to_owned(), address("version=v1").await?];
    let other = ["http://other.ways/".to_owned(), address("app=other").await?];
    eventually_within(
        BOUND,
        "both ways to the account's pods pass it",
        async || {
            let answers = meshed.asks(api, &[&app[0], &app[1]])?;
            answers
                .iter()
                .try_for_each(|answer| passed(answer, &waypoint))
        },
    )
    .await?;
    let before = Hops::of(api, &waypoint).await?;
    for answer in meshed.asks(api, &["--count=5", &app[0], &app[1]])? {
        passed(&answer, &waypoint)?;
    }
    for answer in meshed.asks(api, &["--count=5", &other[0], &other[1]])? {
        ensure!(answer["status"] == 200, "{answer}");
        ensure!(passed(&answer, &waypoint).is_err(), "{answer}");
    }
    eventually_within(BOUND, "each hop has counted", async || {
        let hops = Hops::of(api, &waypoint).await?;
        let more = |of: fn(&Hops) -> f64| of(&hops) - of(&before);
        ensure!(
            more(|hops| hops.requests_app) >= 10.0,
            "{before:?} {hops:?}"
        );
        ensure!(hops.requests_other == 0.0, "{hops:?}");
        // Connections: of a request each at the caller, kept by the waypoint.
        ensure!(
            more(|hops| hops.caller_to_waypoint) >= 10.0,
            "{before:?} {hops:?}"
        );
        ensure!(
            more(|hops| hops.caller_to_other) >= 10.0,
            "{before:?} {hops:?}"
        );
        ensure!(
            hops.caller_to_app == before.caller_to_app,
            "{before:?} {hops:?}"
        );
        ensure!(
            hops.waypoint_at_app > 0.0 && hops.waypoint_at_other == 0.0,
            "{hops:?}"
        );
        Ok(())
    })
    .await?;
    api.delete(&gate).await?;
    bound(api, "app", None).await?;
    eventually_within(BOUND, "requests go direct again", async || {
        let answer = meshed.gets(api, "http://app.ways/")?;
        ensure!(answer["headers"].get("x-request-id").is_none(), "{answer}");
        Ok(())
    })
    .await
}

/// What the caller's proxy, the waypoint and the destination's proxy counted.
#[derive(Debug)]
struct Hops {
    caller_to_waypoint: f64,
    caller_to_app: f64,
    caller_to_other: f64,
    requests_app: f64,
    requests_other: f64,
    waypoint_at_app: f64,
    waypoint_at_other: f64,
}

impl Hops {
    async fn of(api: &Api, waypoint: &Pod) -> Result<Self> {
        let mut proxies = Vec::new();
        for proxy in pods(api, "istio-system", "app=ztunnel").await? {
            proxies.push(proxy.metrics(api).await?);
        }
        let opened = |reporter: &str, source: &str, destination: &str| {
            let labels = [
                ("reporter", reporter),
                ("source_canonical_service", source),
                ("destination_canonical_service", destination),
            ];
            let all = proxies.iter();
            all.map(|samples| samples.sum("istio_tcp_connections_opened_total", &labels))
                .sum()
        };
        let page = waypoint.metrics(api).await?;
        let requests = |destination: &str| {
            let labels = [
                ("reporter", "waypoint"),
                ("destination_canonical_service", destination),
            ];
            page.sum("istio_requests_total", &labels)
        };
        Ok(Self {
            caller_to_waypoint: opened("source", "meshed", "account"),
            caller_to_app: opened("source", "meshed", "app"),
            caller_to_other: opened("source", "meshed", "other"),
            requests_app: requests("app"),
            requests_other: requests("other"),
            waypoint_at_app: opened("destination", "account", "app"),
            waypoint_at_other: opened("destination", "account", "other"),
        })
    }
}

/// Two control planes: each runs and reports its own Gateways only.
async fn revisions(api: &Api) -> Result<()> {
    let helm = install::helm(api)?;
    let chart = install::charts().join("istiod-lite").display().to_string();
    helm.run(&[
        "upgrade",
        "--install",
        "istiod-canary",
        &chart,
        "-n",
        "istio-system",
        "--wait",
        "--set=revision=canary",
        "--set=replicaCount=1",
        "--timeout=2m",
    ])?;
    let outcome = side_by_side(api).await;
    for name in ["mine", "theirs"] {
        api.delete(&gateway(name, "", &json!({}))).await?;
    }
    api.label(&service("app"), USE_WAYPOINT, None).await?;
    helm.run(&["uninstall", "istiod-canary", "-n", "istio-system", "--wait"])?;
    outcome
}

async fn side_by_side(api: &Api) -> Result<()> {
    let mine = gateway("mine", "istio-waypoint", &json!({}));
    let theirs = json!({"labels": {"istio.io/rev": "canary"}});
    let theirs = gateway("theirs", "istio-waypoint", &theirs);
    for (gateway, istiod) in [(&mine, "istiod."), (&theirs, "istiod-canary.")] {
        api.apply_object(gateway).await?;
        let waypoint = programmed(api, gateway).await?;
        let address = format!("https://{istiod}istio-system.svc:15012");
        let told = waypoint.object["spec"].to_string().contains(&address);
        ensure!(told, "{} isn't {istiod}'s", waypoint.name);
    }
    // The waypoint of one is served by it, and used by everybody.
    let waypoint = programmed(api, &theirs).await?;
    api.label(&service("app"), USE_WAYPOINT, Some("theirs"))
        .await?;
    let meshed = caller(api, "meshed").await?;
    eventually_within(BOUND, "requests pass the canary's waypoint", async || {
        passed(&meshed.asks(api, &["http://app.ways/"])?[0], &waypoint)
    })
    .await?;
    // What the one who is away would do, nobody does.
    let canary = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "istiod-canary", "namespace": "istio-system"}});
    api.merge(&canary, &json!({"spec": {"replicas": 0}}))
        .await?;
    eventually_within(BOUND, "the canary is away", async || {
        let left = pods(api, "istio-system", "istio.io/rev=canary").await?;
        ensure!(left.is_empty(), "{} are there", left.len());
        Ok(())
    })
    .await?;
    let made = object("apps/v1", "Deployment", "theirs");
    let before = now(api, &made).await?["metadata"]["generation"].take();
    let two = json!({"metadata": {"annotations": {"ambit.mesh/replicas": "2"}}});
    api.merge(&theirs, &two).await?;
    api.merge(&mine, &two).await?;
    let replicas = async |name: &str| -> Result<Value> {
        let made = now(api, &object("apps/v1", "Deployment", name)).await?;
        Ok(made["spec"]["replicas"].clone())
    };
    eventually_within(BOUND, "mine is changed", async || {
        ensure!(replicas("mine").await? == 2, "not yet");
        Ok(())
    })
    .await?;
    let after = now(api, &made).await?["metadata"]["generation"].take();
    ensure!(before == after, "somebody else changed the canary's");
    passed(&meshed.asks(api, &["http://app.ways/"])?[0], &waypoint)
        .context("without its istiod")?;
    api.merge(&canary, &json!({"spec": {"replicas": 1}}))
        .await?;
    eventually_within(BOUND, "theirs is changed by its own", async || {
        ensure!(replicas("theirs").await? == 2, "not yet");
        Ok(())
    })
    .await
}

/// What one object is doesn't touch the others.
async fn bad_objects(api: &Api) -> Result<()> {
    let policy = |name: &str, action: &str, rules: Value| {
        let mut policy = object("security.istio.io/v1", "AuthorizationPolicy", name);
        policy["spec"] = json!({"selector": {"matchLabels": {"app": "other"}},
            "action": action, "rules": rules});
        policy
    };
    let restarts = async || -> Result<i64> {
        let mut sum = 0;
        for label in ["app=istiod", "app=ztunnel"] {
            let all = pods(api, "istio-system", label).await?;
            sum += all.iter().map(Pod::restarts).sum::<i64>();
        }
        Ok(sum)
    };
    let before = restarts().await?;
    // A megabyte, and it is in force: its last word names the caller.
    let nobody = (0..15_000).map(|n| format!("cluster.local/ns/nobody/sa/{n:040}"));
    let all: Vec<_> = nobody
        .chain(["cluster.local/ns/callers/sa/default".to_owned()])
        .collect();
    let big = policy(
        "big",
        "DENY",
        json!([{"from": [{"source": {"principals": all}}]}]),
    );
    ensure!(big.to_string().len() > 1 << 20, "{}", big.to_string().len());
    // Fits the API server's schema, not the kind.
    let broken = policy("broken", "ALLOW", json!([{"from": 7}]));
    let meshed = caller(api, "meshed").await?;
    let answers = async |other: bool| {
        let what = format!("other answers: {other}");
        eventually_within(BOUND, &what, async || {
            let answers = meshed.asks(api, &["http://app.ways/", "http://other.ways/"])?;
            ensure!(answers[0]["status"] == 200, "{}", answers[0]);
            ensure!((answers[1]["status"] == 200) == other, "{}", answers[1]);
            Ok(())
        })
        .await
    };
    for (bad, status, reason) in [(&big, "True", "Accepted"), (&broken, "False", "Invalid")] {
        answers(true).await?;
        api.apply_object(bad).await?;
        answers(false).await?;
        eventually_within(BOUND, "it is told about", async || {
            let now = now(api, bad).await?;
            says(
                &now["status"]["conditions"],
                "ZtunnelAccepted",
                status,
                reason,
            )
        })
        .await?;
        let (exit, found) = analyzed(api, &["-n", WAYS])?;
        let mut named = found.iter();
        let named = named.any(|one| one["origin"] == "AuthorizationPolicy ways/broken");
        ensure!(named == (status == "False"), "{found:?}");
        ensure!((exit == Some(79)) == named, "{exit:?}: {found:?}");
        api.delete(bad).await?;
    }
    answers(true).await?;
    // Of what nobody wrote, nothing is said.
    let (_, found) = analyzed(api, &["-A"])?;
    let strange = ["AMB0104", "AMB0106", "AMB0203"];
    let strange = found
        .iter()
        .find(|one| strange.contains(&one["code"].as_str().unwrap_or_default()));
    ensure!(strange.is_none(), "{strange:?}");
    ensure!(before == restarts().await?, "something was restarted");
    Ok(())
}

/// Exit and findings of `ambit analyze` of the cluster.
fn analyzed(api: &Api, arguments: &[&str]) -> Result<(Option<i32>, Vec<Value>)> {
    let mut ambit = Command::new(programs::bin_dir()?.join("ambit"));
    ambit.args(["analyze", "-o", "json"]).args(arguments);
    let output = ambit.arg("-c").arg(api.kubeconfig()).output()?;
    let found = serde_json::from_slice(&output.stdout);
    let found = found.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), found))
}

const WAYS: &str = "ways";
const CALLERS: &str = "callers";
const USE_WAYPOINT: &str = "istio.io/use-waypoint";
const MADE: [(&str, &str); 3] = [
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
];
const ROUTE_AND_POLICY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app, namespace: ways}
spec:
  parentRefs: [{group: '', kind: Service, name: app, port: 80}]
  rules:
    - matches: [{headers: [{name: x-version, value: two}]}]
      backendRefs: [{name: app-v2, port: 80}]
    - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-routed, value: 'yes'}]}}]
      backendRefs: [{name: app-v1, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: app, namespace: ways}
spec:
  targetRefs: [{group: '', kind: Service, name: app}]
  action: ALLOW
  rules: [{to: [{operation: {methods: [GET]}}]}]
";
