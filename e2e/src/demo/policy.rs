//! Refusals: of plaintext, by ALLOW, by DENY, and of what was allowed before.

use std::time::Instant;

use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};
use tokio::io::AsyncReadExt;

use super::Report;
use crate::Cluster;

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

const PAYMENTS_FROM_CART: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: payments-from-cart, namespace: shop}
spec:
  selector: {matchLabels: {app: payments}}
  action: ALLOW
  rules:
    - from: [{source: {principals: [cluster.local/ns/shop/sa/cart]}}]
      to: [{operation: {ports: ['8080']}}]
";

const CATALOG_NOT_FROM_WORKER: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: catalog-not-from-worker, namespace: shop}
spec:
  selector: {matchLabels: {app: catalog}}
  action: DENY
  rules:
    - from: [{source: {principals: [cluster.local/ns/shop/sa/worker]}}]
";

const CART_NO_ECHO: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart-no-echo, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  action: DENY
  rules:
    - to: [{operation: {ports: ['9000']}}]
";

/// STRICT mutual TLS.
pub(super) async fn strict_refuses_plaintext(
    cluster: &mut Cluster,
    report: &mut Report,
) -> Result<()> {
    report.section("STRICT refuses plaintext");
    let batch = cluster.pod_ns("legacy", "batch-0")?;
    let cart = cluster.pod_addr("shop", "cart-0", 8080)?;
    let before = client::get(&batch, cart, "/").await;
    report.claim(
        "PERMISSIVE: legacy/batch reaches cart in plaintext",
        before.is_ok_and(|a| a.status == 200),
    );
    cluster.apply(STRICT)?;
    cluster
        .wait_policy("node-2", "istio_converted_static_strict", true)
        .await?;
    let refused = eventually("plaintext is refused", async || {
        ensure!(
            client::get(&batch, cart, "/").await.is_err(),
            "still answered"
        );
        Ok(())
    });
    report.check("STRICT: the same request is refused", refused.await);
    let worker = cluster.pod_ns("shop", "worker-0")?;
    let via = client::get(&worker, cluster.service_addr("shop", "cart", 80)?, "/").await;
    report.claim(
        "worker, in the mesh, still reaches cart",
        via.is_ok_and(|a| a.status == 200),
    );
    show_reason(
        cluster,
        report,
        "node-2",
        "istio-system/istio_converted_static_strict",
    )
    .await
}

/// One ALLOW and one DENY, and what the proxy says of them.
pub(super) async fn allow_and_deny(cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    report.section("AuthorizationPolicy: an ALLOW and a DENY, with the reason");
    cluster.apply(PAYMENTS_FROM_CART)?;
    cluster.apply(CATALOG_NOT_FROM_WORKER)?;
    cluster
        .wait_policy("node-1", "payments-from-cart", true)
        .await?;
    cluster
        .wait_policy("node-2", "catalog-not-from-worker", true)
        .await?;
    let worker = cluster.pod_ns("shop", "worker-0")?;
    let (payments, catalog) = (
        cluster.service_addr("shop", "payments", 80)?,
        cluster.service_addr("shop", "catalog", 80)?,
    );
    let refused = eventually("worker is refused by payments", async || {
        ensure!(
            client::get(&worker, payments, "/").await.is_err(),
            "still answered"
        );
        Ok(())
    });
    report.check(
        "ALLOW cart only: worker → payments is refused",
        refused.await,
    );
    show_reason(
        cluster,
        report,
        "node-1",
        "allow policies exist, but none allowed",
    )
    .await?;
    let cart = cluster.pod_ns("shop", "cart-0")?;
    let allowed = client::get(&cart, payments, "/").await;
    report.claim(
        "cart → payments is allowed",
        allowed.is_ok_and(|a| a.status == 200),
    );
    let refused = eventually("worker is refused by catalog", async || {
        ensure!(
            client::get(&worker, catalog, "/").await.is_err(),
            "still answered"
        );
        Ok(())
    });
    report.check("DENY worker: worker → catalog is refused", refused.await);
    show_reason(
        cluster,
        report,
        "node-2",
        "explicitly denied by shop/catalog-not-from-worker",
    )
    .await?;
    let web = cluster.pod_ns("shop", "web-0")?;
    let allowed = client::get(&web, catalog, "/").await;
    report.claim(
        "web → catalog is not touched by it",
        allowed.is_ok_and(|a| a.status == 200),
    );
    Ok(())
}

/// A connection that was allowed is closed when policy turns against it.
pub(super) async fn an_edit_closes_a_live_connection(
    cluster: &mut Cluster,
    report: &mut Report,
) -> Result<()> {
    report.section("A policy edit closes a live connection");
    let web = cluster.pod_ns("shop", "web-0")?;
    let cart = cluster.service_addr("shop", "cart", 9000)?;
    let mut live = client::connect(&web, cart).await?;
    let echoed = client::echo(&mut live, b"before the edit").await;
    report.claim(
        "web holds a connection to cart:9000 that works",
        echoed.is_ok(),
    );
    let edited = Instant::now();
    cluster.apply(CART_NO_ECHO)?;
    let mut rest = [0; 16];
    let ended =
        tokio::time::timeout(std::time::Duration::from_secs(10), live.read(&mut rest)).await;
    let cut = matches!(ended, Ok(Ok(0) | Err(_)));
    let millis = edited.elapsed().as_millis();
    report.claim(
        format!("a DENY on port 9000 closed it {millis} ms after the file changed"),
        cut,
    );
    show_reason(cluster, report, "node-2", "closed due to policy change").await?;
    let http = client::get(&web, cluster.service_addr("shop", "cart", 80)?, "/").await;
    report.claim(
        "web → cart on its HTTP port goes on",
        http.is_ok_and(|a| a.status == 200),
    );
    cluster.delete("AuthorizationPolicy", "shop", "cart-no-echo")?;
    let back = eventually("cart:9000 is allowed again", async || {
        let mut stream = client::connect(&web, cart).await?;
        client::echo(&mut stream, b"again").await.map(drop)
    });
    report.check(
        "with the policy removed, cart:9000 is reachable again",
        back.await,
    );
    Ok(())
}

/// Prints the proxy's own line for a refusal, and claims that there is one.
async fn show_reason(
    cluster: &mut Cluster,
    report: &mut Report,
    node: &str,
    text: &str,
) -> Result<()> {
    let process = cluster.ztunnel(node)?;
    let line = eventually("the access log says why", async || {
        let log = process.log();
        let found = log
            .lines()
            .rev()
            .find(|l| l.contains("access") && l.contains(text));
        found
            .map(str::to_owned)
            .with_context(|| format!("no line with {text:?}"))
    });
    if let Some(line) = report.check(format!("{node}'s access log gives the reason"), line.await) {
        let short = line
            .split("\tconnection")
            .nth(1)
            .map_or(line.clone(), |l| format!("connection{l}"));
        report.fact(short.replace('\t', " "));
    }
    Ok(())
}
