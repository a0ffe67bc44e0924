//! The table of `docs/waypoint.md`: what happens to whom in each state of a
//! waypoint that is asked for.

use ambit_e2e::kube::Api;
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{USE_WAYPOINT, WAYS, bound, caller, gateway, object, passed, programmed, service};
use crate::inside::{BOUND, Pod, pods, ready, refused};

/// `app` without a policy, `other` with one.
const SERVICES: [&str; 2] = ["app", "other"];

pub(super) async fn all(api: &Api) -> Result<()> {
    let mut policy = object("security.istio.io/v1", "AuthorizationPolicy", "states");
    policy["spec"] = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "other"}],
        "action": "ALLOW", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]});
    api.apply_object(&policy).await?;
    let outcome = one_by_one(api).await;
    ask_for(api, None).await?;
    for name in ["states", "never"] {
        api.delete(&gateway(name, "", &json!({}))).await?;
    }
    api.delete(&policy).await?;
    outcome
}

async fn one_by_one(api: &Api) -> Result<()> {
    let calls = Calls::new(api).await?;
    ask_for(api, Some("states")).await?;
    nowhere(api, &calls, "no Gateway").await?;

    let gate = gateway("states", "istio-waypoint", &json!({}));
    api.apply_object(&gate).await?;
    let waypoint = programmed(api, &gate).await?;
    calls.are(api, "it serves", Some(&waypoint)).await?;

    let replicas =
        |count: &str| json!({"metadata": {"annotations": {"ambit.mesh/replicas": count}}});
    api.merge(&gate, &replicas("0")).await?;
    ready(
        api,
        WAYS,
        "gateway.networking.k8s.io/gateway-name=states",
        0,
    )
    .await?;
    nowhere(api, &calls, "no pods").await?;

    api.merge(&gate, &replicas("1")).await?;
    let waypoint = ready(
        api,
        WAYS,
        "gateway.networking.k8s.io/gateway-name=states",
        1,
    )
    .await?;
    calls.are(api, "it serves again", waypoint.first()).await?;

    api.delete(&gate).await?;
    nowhere(api, &calls, "deleted").await?;

    ask_for(api, Some("statess")).await?;
    nowhere(api, &calls, "misspelt").await?;

    let never = json!({"annotations": {"ambit.mesh/waypoint-image": "ambit/missing:dev"}});
    api.apply_object(&gateway("never", "istio-waypoint", &never))
        .await?;
    ask_for(api, Some("never")).await?;
    nowhere(api, &calls, "never ready").await?;

    ask_for(api, Some("none")).await?;
    for name in SERVICES {
        bound(api, name, None).await?;
    }
    Ok(())
}

async fn ask_for(api: &Api, gateway: Option<&str>) -> Result<()> {
    for name in SERVICES {
        api.label(&service(name), USE_WAYPOINT, gateway).await?;
    }
    Ok(())
}

/// Nobody can be sent anywhere; and the services say so.
async fn nowhere(api: &Api, calls: &Calls, state: &str) -> Result<()> {
    calls.are(api, state, None).await?;
    for name in SERVICES {
        // A waypoint that had pods keeps its address (5.5): it is bound.
        if state != "no pods" {
            bound(api, name, Some(("False", "WaypointIsNotReady"))).await?;
        }
    }
    Ok(())
}

/// Each kind of client, and where it calls.
struct Calls {
    meshed: Pod,
    plain: Pod,
    pods: [String; 2],
}

impl Calls {
    async fn new(api: &Api) -> Result<Self> {
        let address = async |label: &str| -> Result<String> {
            let pods = pods(api, WAYS, label).await?;
            let pod = pods.first().context("no pod")?;
            Ok(format!("http://{}:8080/", pod.ip()?))
        };
        Ok(Self {
            meshed: caller(api, "meshed").await?,
            plain: caller(api, "plain").await?,
            pods: [address("app=app").await?, address("app=other").await?],
        })
    }

    /// Waits until the cells of a row are as they should be.
    async fn are(&self, api: &Api, state: &str, waypoint: Option<&Pod>) -> Result<()> {
        eventually_within(BOUND, state, async || {
            let [app, other] = ["http://app.ways/", "http://other.ways/"];
            let [app_pod, other_pod] = [&*self.pods[0], &*self.pods[1]];
            let meshed = self.meshed.asks(api, &[app, other, app_pod, other_pod])?;
            let plain = self.plain.asks(api, &[app, other])?;
            for (who, answer) in [("app", &meshed[0]), ("other", &meshed[1])] {
                match waypoint {
                    Some(waypoint) => passed(answer, waypoint).context(who)?,
                    None => refused(answer).context(who)?,
                }
            }
            direct(&meshed[2]).context("the pod's address")?;
            refused(&meshed[3]).context("the pod's address, with a policy")?;
            direct(&plain[0]).context("a plain client")?;
            refused(&plain[1]).context("a plain client, with a policy")
        })
        .await
    }
}

fn direct(answer: &Value) -> Result<()> {
    let by_waypoint = answer["body"]["headers"].get("x-request-id").is_some();
    ensure!(answer["status"] == 200 && !by_waypoint, "{answer}");
    Ok(())
}
