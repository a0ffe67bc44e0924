//! Tokens, and decisions that others take, with real servers for both
//! (`waypoint-contract` 4.5, 4.9; issue 4 item 6).

mod authz;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ambit_e2e::Cluster;
use ambit_e2e::http::{self, Ask};
use ambit_testkit::eventually;
use ambit_testkit::token::TokenIssuer;
use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::serve::{Given, Server, Speaks};
use super::{ask, on, wait_status};

const ISSUER: &str = "https://accounts.example";

fn token(issuer: &TokenIssuer, claims: &Value) -> Result<Ask> {
    let later = SystemTime::now() + Duration::from_secs(600);
    let mut all = json!({
        "iss": ISSUER, "sub": "mara", "exp": later.duration_since(UNIX_EPOCH)?.as_secs(),
    });
    for (name, value) in claims.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    Ok(with(&issuer.sign(&all)?))
}

fn with(token: &str) -> Ask {
    Ask::get("/").header("authorization", &format!("Bearer {token}"))
}

fn policies(keys: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: accounts, namespace: mesh}}
spec:
  targetRefs: [{{group: '', kind: Service, name: echo}}]
  jwtRules: [{{issuer: '{ISSUER}', jwksUri: '{keys}', timeout: 1s, outputClaimToHeaders: [{{header: x-role, claim: user.role}}]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: editors, namespace: mesh}}
spec:
  targetRefs: [{{group: '', kind: Service, name: echo}}]
  action: ALLOW
  rules: [{{when: [{{key: 'request.auth.claims[user][role]', values: [editor]}}]}}]
"
    )
}

#[test]
fn keys_are_fetched_rotate_and_outlive_their_server() {
    on("remote keys", async |cluster| {
        let first = TokenIssuer::new(ISSUER)?;
        let second = TokenIssuer::new(ISSUER)?;
        let keys = |issuer: &TokenIssuer| {
            let keys = issuer.jwks().to_string();
            move |_: &_| Given::of(200, keys.clone()).header("content-type", "application/json")
        };
        let plain = cluster.pod_ns("plain", "client")?;
        let at = cluster.pod_addr("plain", "client", 8300)?;
        let server = Server::start(&plain, 8300, Speaks::HTTP, keys(&first))?;
        cluster.apply(&policies(&format!("http://{at}/keys")))?;
        let editor = json!({"user": {"role": ["viewer", "editor"]}});
        let viewer = json!({"user": {"role": "viewer"}});
        wait_status(cluster, "an editor", &token(&first, &editor)?, 200).await?;
        for (what, ask, status) in [
            ("a viewer", token(&first, &viewer)?, 403),
            ("nobody", Ask::get("/"), 403),
            ("junk", with("not.a.token"), 401),
            ("an unknown key", token(&second, &editor)?, 401),
        ] {
            wait_status(cluster, what, &ask, status).await?;
        }
        let role = token(&first, &json!({"user": {"role": "editor"}}))?.header("x-role", "forged");
        let echo = ask(cluster, &role).await?.echo()?;
        ensure!(
            echo.header("x-role").as_deref() == Some("editor"),
            "{:?}",
            echo.headers
        );
        // Rotation: an unknown kid asks once, not for every request.
        server.answer(keys(&second));
        wait_rotated(cluster, &token(&second, &editor)?).await?;
        let before = server.seen().len();
        let unknown = token(&TokenIssuer::new(ISSUER)?, &editor)?;
        for _ in 0..40 {
            let reply = ask(cluster, &unknown).await?;
            ensure!(reply.status == 401, "{}", reply.status);
        }
        let asked = server.seen().len() - before;
        ensure!(asked <= 2, "40 unknown keys made {asked} fetches");
        // Junk, a server that hangs, and none at all: the last good keys stay.
        let good = token(&second, &editor)?;
        server.answer(|_| Given::of(200, "{\"keys\": 7}"));
        stays(cluster, &unknown, &good).await?;
        server.answer(|_| Given::of(200, "{}").after(Duration::from_secs(60)));
        stays(cluster, &unknown, &good).await?;
        drop(server);
        stays(cluster, &unknown, &good).await
    });
}

/// Rate limits may hold a fetch back for a while.
async fn wait_rotated(cluster: &Cluster, good: &Ask) -> Result<()> {
    let bound = Duration::from_secs(45);
    ambit_testkit::eventually_within(bound, "the next keys", async || {
        let reply = ask(cluster, good).await?;
        ensure!(reply.status == 200, "{} {:?}", reply.status, reply.body);
        Ok(())
    })
    .await
}

async fn stays(cluster: &Cluster, unknown: &Ask, good: &Ask) -> Result<()> {
    for _ in 0..3 {
        let reply = ask(cluster, unknown).await?;
        ensure!(reply.status == 401, "unknown: {}", reply.status);
        let reply = ask(cluster, good).await?;
        ensure!(
            reply.status == 200,
            "good: {} {:?}",
            reply.status,
            reply.body
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

#[test]
fn without_keys_every_token_is_refused() {
    on("no keys", async |cluster| {
        let issuer = TokenIssuer::new(ISSUER)?;
        let plain = cluster.pod_ns("plain", "client")?;
        let at = cluster.pod_addr("plain", "client", 8301)?;
        let junk = |_: &_| Given::of(302, "").header("location", "http://169.254.169.254/keys");
        let server = Server::start(&plain, 8301, Speaks::HTTP, junk)?;
        cluster.apply(&policies(&format!("http://{at}/keys")))?;
        let good = token(&issuer, &json!({"user": {"role": "editor"}}))?;
        let reply = wait_status(cluster, "no keys", &good, 401).await?;
        ensure!(
            reply.header("www-authenticate").is_some(),
            "{:?}",
            reply.headers
        );
        ensure!(!server.seen().is_empty(), "nobody asked for keys");
        // Metadata services are never asked.
        cluster.apply(&policies("http://169.254.169.254/keys"))?;
        wait_status(cluster, "a metadata address", &good, 401).await?;
        Ok(())
    });
}

const SELECTED: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: backends}
spec:
  gatewayClassName: ambit-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: get-only, namespace: backends}
spec:
  selector: {matchLabels: {app: app}}
  action: ALLOW
  rules: [{to: [{operation: {methods: [GET], paths: ['/open*']}}]}]
";

/// A policy in the form that most users have: the waypoint enforces it, and the
/// destination admits the waypoint only.
#[test]
fn a_selector_policy_with_http_rules_holds_at_the_waypoint_and_shuts_ways_round() {
    on("selector policy", async |cluster| {
        cluster.apply(SELECTED)?;
        cluster.label_namespace("backends", "istio.io/use-waypoint", Some("gate"))?;
        cluster.sync_waypoints().await?;
        let service = cluster.service_addr("backends", "app", 80)?;
        let pod = cluster.pod_addr("backends", "app-0", 8080)?;
        let mesh = cluster.pod_ns("consumer", "client")?;
        let plain = cluster.pod_ns("plain", "client")?;
        let open = Ask::get("/open");
        let rows = [
            ("GET", &mesh, service, open.clone(), Some(200)),
            (
                "POST",
                &mesh,
                service,
                open.clone().method("POST"),
                Some(403),
            ),
            ("another path", &mesh, service, Ask::get("/shut"), Some(403)),
            (
                "a path in disguise",
                &mesh,
                service,
                Ask::get("/open/../shut"),
                Some(403),
            ),
            ("the pod's address", &mesh, pod, open.clone(), None),
            ("a plain client", &plain, service, open.clone(), None),
            ("a plain client at the pod", &plain, pod, open, None),
        ];
        for _ in 0..2 {
            for (what, ns, to, ask, wanted) in &rows {
                eventually(what, async || {
                    let got = http::ask(ns, *to, ask).await.ok().map(|reply| reply.status);
                    ensure!(got == *wanted, "{got:?}, wanted {wanted:?}");
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    });
}
