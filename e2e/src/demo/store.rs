//! The split dataplane: a store opts in to a waypoint, and what that gives.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ambit_testkit::eventually;
use ambit_testkit::token::TokenIssuer;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Report;
use crate::http::{self, Ask};
use crate::{Cluster, conformance, manifests};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("demo")
        .join(name)
}

fn text(name: &str) -> Result<String> {
    std::fs::read_to_string(file(name)).with_context(|| name.to_owned())
}

/// Runs the store, opts in, and checks every claim.
pub(super) async fn a_waypoint(cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    report.section("A namespace opts in to a waypoint");
    let (pods, others): (Vec<_>, Vec<_>) = manifests::parse(&text("store.yaml")?)?
        .into_iter()
        .partition(|object| object["kind"] == "Pod");
    for object in others {
        cluster.manifests.put(object)?;
    }
    for pod in pods {
        cluster.run_pod(pod).await?;
    }
    cluster.sync_kube_proxy()?;
    opt_in(cluster, report).await?;
    report.section("What the waypoint understands");
    for scenario in conformance::read(&file("claims.yaml"))? {
        let held = scenario.run(cluster).await;
        report.check(&*scenario.name, held);
    }
    claims_of_a_token(cluster, report).await?;
    super::egress::a_partner(cluster, report).await
}

async fn opt_in(cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    let shopper = cluster.pod_ns("store", "shopper")?;
    let reviews = cluster.service_addr("store", "reviews", 80)?;
    let passed = async || {
        let reply = http::ask(&shopper, reviews, &Ask::get("/")).await?;
        let echo = reply.echo()?;
        Ok::<_, anyhow::Error>(echo.header("x-request-id").is_some())
    };
    let before = eventually("the store answers", async || passed().await).await?;
    report.claim("before: requests go from pod to pod, on L4", !before);
    cluster.apply(&text("waypoint.yaml")?)?;
    cluster.sync_waypoints().await?;
    cluster.label_namespace("store", "istio.io/use-waypoint", Some("waypoint"))?;
    let through = eventually("requests pass the waypoint", async || {
        ensure!(passed().await?, "still on L4");
        Ok(())
    });
    report.check(
        "a Gateway and a label: requests pass a waypoint, no pod was touched",
        through.await,
    );
    Ok(())
}

/// A policy on a claim of a JWT.
async fn claims_of_a_token(cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    let issuer = TokenIssuer::new("https://accounts.store.example")?;
    let keys = json!(issuer.jwks().to_string());
    cluster.apply(&format!(
        "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: accounts, namespace: store}}
spec:
  targetRefs: [{{group: '', kind: Service, name: reviews}}]
  jwtRules: [{{issuer: 'https://accounts.store.example', jwks: {keys}}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: editors, namespace: store}}
spec:
  targetRefs: [{{group: '', kind: Service, name: reviews}}]
  action: ALLOW
  rules: [{{when: [{{key: 'request.auth.claims[role]', values: [editor]}}]}}]
"
    ))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let token = |role: &Value, expires: Duration| {
        issuer.sign(&json!({
            "iss": issuer.issuer(), "sub": "mara", "role": role, "exp": expires.as_secs(),
        }))
    };
    let (later, long_ago) = (
        now + Duration::from_secs(600),
        now - Duration::from_secs(600),
    );
    let cases = [
        (
            "role [viewer, editor] is let in",
            Some(token(&json!(["viewer", "editor"]), later)?),
            200,
        ),
        (
            "role viewer is refused with 403",
            Some(token(&json!("viewer"), later)?),
            403,
        ),
        (
            "an expired token is refused with 401",
            Some(token(&json!("editor"), long_ago)?),
            401,
        ),
        ("no token at all is refused with 403", None, 403),
    ];
    let shopper = cluster.pod_ns("store", "shopper")?;
    let reviews = cluster.service_addr("store", "reviews", 80)?;
    for (claim, token, wanted) in cases {
        let mut ask = Ask::get("/");
        if let Some(token) = token {
            ask = ask.header("authorization", &format!("Bearer {token}"));
        }
        let answered = eventually(claim, async || {
            let reply = http::ask(&shopper, reviews, &ask).await?;
            ensure!(reply.status == wanted, "status {}", reply.status);
            Ok(())
        });
        report.check(
            format!("request.auth.claims[role]: {claim}"),
            answered.await,
        );
    }
    cluster.delete("AuthorizationPolicy", "store", "editors")?;
    cluster.delete("RequestAuthentication", "store", "accounts")
}
