//! Waypoints of service accounts (issue 4 item 1; `waypoint-contract` 1.14).

use ambit_e2e::Cluster;
use ambit_e2e::http::{self, Ask, Echo};
use ambit_e2e::manifests::{Key, set_meta};
use ambit_e2e::observe;
use ambit_testkit::eventually;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::on;

const GATE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: backends, annotations: {istio.io/for-service-account: app}}
spec:
  gatewayClassName: ambit-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";

/// A pod of another account, a service of its own, and one of both accounts.
const OTHERS: &str = "
apiVersion: v1
kind: Service
metadata: {name: other, namespace: backends}
spec:
  clusterIP: 10.96.3.70
  selector: {app: other}
  ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]
---
apiVersion: v1
kind: Service
metadata: {name: mixed, namespace: backends}
spec:
  clusterIP: 10.96.3.71
  selector: {tier: any}
  ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]
";

const ROUTE_AND_POLICY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app, namespace: backends}
spec:
  parentRefs: [{group: '', kind: Service, name: app, port: 80}]
  rules:
    - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-routed, value: 'yes'}]}}]
      backendRefs: [{name: app, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app-direct, namespace: backends}
spec:
  parentRefs: [{group: '', kind: Service, name: app, port: 8080}]
  rules:
    - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-routed, value: 'yes'}]}}]
      backendRefs: [{name: app, port: 8080}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: app, namespace: backends}
spec:
  targetRefs: [{group: '', kind: Service, name: app}]
  action: ALLOW
  rules: [{to: [{operation: {methods: [GET]}}]}]
";

/// Who is called.
#[derive(Debug, Clone, Copy)]
enum To {
    Service(&'static str),
    Pod(&'static str),
}

async fn call(cluster: &Cluster, to: To, ask: &Ask) -> Result<http::Reply> {
    let to = match to {
        To::Service(name) => cluster.service_addr("backends", name, 80)?,
        To::Pod(name) => cluster.pod_addr("backends", name, 8080)?,
    };
    http::ask(&cluster.pod_ns("consumer", "client")?, to, ask).await
}

async fn seen(cluster: &Cluster, to: To) -> Result<Echo> {
    let reply = call(cluster, to, &Ask::get("/")).await?;
    ensure!(reply.status == 200, "{to:?}: {}", reply.status);
    reply.echo()
}

fn passed(echo: &Echo) -> bool {
    echo.header("x-request-id").is_some()
}

async fn add_other(cluster: &mut Cluster) -> Result<()> {
    let mut pod = observe::pod("backends", "other-0", "node-1", &[]);
    set_meta(&mut pod, "labels", "tier", Some("any"));
    cluster.run_pod(pod).await?;
    let key = Key::new("Pod", "backends", "app-0");
    cluster
        .manifests
        .edit(&key, |pod| set_meta(pod, "labels", "tier", Some("any")))?;
    cluster.apply(OTHERS)
}

#[test]
fn an_accounts_waypoint_holds_for_the_service_and_for_its_pods_addresses() {
    on("account waypoint", async |cluster| {
        add_other(cluster).await?;
        cluster.apply(GATE)?;
        cluster.sync_waypoints().await?;
        let app = [To::Service("app"), To::Pod("app-0")];
        for to in app {
            eventually("calls pass the waypoint", async || {
                ensure!(passed(&seen(cluster, to).await?), "{to:?} is on L4");
                Ok(())
            })
            .await?;
        }
        cluster.apply(ROUTE_AND_POLICY)?;
        let post = Ask::get("/").method("POST");
        for to in app {
            eventually("route and policy hold", async || {
                let echo = seen(cluster, to).await?;
                let routed = echo.header("x-routed");
                ensure!(routed.as_deref() == Some("yes"), "{to:?}: not routed");
                let reply = call(cluster, to, &post).await?;
                ensure!(reply.status == 403, "{to:?}: POST has {}", reply.status);
                Ok(())
            })
            .await?;
        }
        // Another account's pod doesn't pass it, by neither of its addresses.
        for to in [To::Service("other"), To::Pod("other-0")] {
            ensure!(!passed(&seen(cluster, to).await?), "{to:?} passed it");
        }
        hops(cluster).await?;
        mixed(cluster).await
    });
}

/// What each hop counted.
async fn hops(cluster: &Cluster) -> Result<()> {
    let pods = cluster.waypoint_pods("backends", "gate");
    let pod = pods.first().context("a waypoint runs")?;
    let page = cluster
        .waypoint_page("backends", pod, 15020, "/metrics")
        .await?;
    let samples = ambit_e2e::scrape::Samples::parse(&page.body);
    let of = |workload| {
        samples.sum(
            "istio_requests_total",
            &[("reporter", "waypoint"), ("destination_workload", workload)],
        )
    };
    let counted = (of("app-0") + of("app"), of("other-0") + of("other"));
    ensure!(
        counted.0 >= 4.0 && counted.1 == 0.0,
        "{counted:?}\n{}",
        page.body
    );
    Ok(())
}

/// A service with both accounts isn't bound, and says so.
async fn mixed(cluster: &Cluster) -> Result<()> {
    let statuses = cluster.statusz().await?.to_string();
    for word in ["MixedServiceAccounts", "AMB0255"] {
        ensure!(statuses.contains(word), "no {word} in {statuses}");
    }
    eventually(
        "the mixed service goes on without a waypoint of its own",
        async || {
            let echo = seen(cluster, To::Service("mixed")).await?;
            ensure!(!passed(&echo), "{} by a waypoint", echo.pod);
            Ok(())
        },
    )
    .await
}

#[test]
fn a_label_wins_over_an_accounts_waypoint() {
    on("label wins", async |cluster| {
        cluster.apply(GATE)?;
        cluster.sync_waypoints().await?;
        let from = |cluster: &Cluster, echo: &Value| -> Result<&'static str> {
            for (namespace, gateway) in [("backends", "gate"), ("mesh", "waypoint")] {
                for pod in cluster.waypoint_pods(namespace, gateway) {
                    let ip = cluster.pod_addr(namespace, &pod, 0)?.ip().to_string();
                    if echo["client"] == ip.as_str() {
                        return Ok(gateway);
                    }
                }
            }
            Ok("nobody")
        };
        let by = async |cluster: &Cluster| -> Result<&'static str> {
            let reply = call(cluster, To::Service("app"), &Ask::get("/")).await?;
            ensure!(reply.status == 200, "{}", reply.status);
            from(cluster, &serde_json::from_slice(&reply.body)?)
        };
        eventually("by the account's waypoint", async || {
            let by = by(cluster).await?;
            ensure!(by == "gate", "by {by}");
            Ok(())
        })
        .await?;
        // The label of the service names another, in another namespace, whose
        // listener admits all.
        let key = Key::new("Gateway", "mesh", "waypoint");
        cluster.manifests.edit(&key, |gateway| {
            gateway["spec"]["listeners"][0]["allowedRoutes"] =
                serde_json::json!({"namespaces": {"from": "All"}});
        })?;
        let key = Key::new("Service", "backends", "app");
        cluster.manifests.edit(&key, |service| {
            set_meta(service, "labels", "istio.io/use-waypoint", Some("waypoint"));
            let namespace = "istio.io/use-waypoint-namespace";
            set_meta(service, "labels", namespace, Some("mesh"));
        })?;
        eventually("by the waypoint of the label", async || {
            let by = by(cluster).await?;
            ensure!(by == "waypoint", "by {by}");
            Ok(())
        })
        .await?;
        // And `none` is nobody's.
        cluster.manifests.edit(&key, |service| {
            set_meta(service, "labels", "istio.io/use-waypoint", Some("none"));
            set_meta(service, "labels", "istio.io/use-waypoint-namespace", None);
        })?;
        eventually("by nobody", async || {
            let by = by(cluster).await?;
            ensure!(by == "nobody", "by {by}");
            Ok(())
        })
        .await
    });
}
