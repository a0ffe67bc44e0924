//! A waypoint from its Gateway to its end: what is made for it, what is told of
//! it, what passes it.

use ambit_e2e::kube::Api;
use ambit_testkit::eventually_within;
use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    USE_WAYPOINT, bound, caller, condition, gateway, now, object, passed, programmed, says, service,
};
use crate::inside::{BOUND, Pod};

pub(super) async fn life(api: &Api) -> Result<()> {
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
