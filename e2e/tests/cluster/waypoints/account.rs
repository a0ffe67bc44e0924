//! The waypoint of a service account.

use ambit_e2e::kube::Api;
use ambit_testkit::eventually_within;
use anyhow::{Result, ensure};
use serde_json::json;

use super::{WAYS, bound, caller, gateway, passed, programmed};
use crate::inside::{BOUND, Pod, pods};

/// All ways to the pods of an account pass its waypoint, none to another's; as
/// each hop counts it.
pub(super) async fn account(api: &Api) -> Result<()> {
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
