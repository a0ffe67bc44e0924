//! What istiod-lite has read of a real API server, as it says itself, when that server stops, restarts with a
//! compacted history, gets a kind or loses most of one.

use std::net::{Ipv4Addr, SocketAddr};

use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};

use crate::replicas::Mesh;
use crate::world::needs_a_box;

/// What the first replica has of a kind.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    objects: u64,
    resyncs: u64,
}

impl Mesh {
    async fn seen(&self, kind: &str) -> Result<Seen> {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, 15014));
        let page = client::get(self.control.ns(), http, "/debug/statusz").await?;
        let page: Value = serde_json::from_str(&page.body)?;
        let watches = page["watches"].as_array().context("no watches")?;
        let watch = watches.iter().find(|w| w["resource"] == kind);
        let watch = watch.with_context(|| format!("no watch of {kind}: {page}"))?;
        ensure!(watch["synced"] == true, "not synced: {watch}");
        let held = watch["held_deletions"].as_u64().unwrap_or(0);
        ensure!(held == 0, "held back: {watch}");
        let count = |field: &str| watch[field].as_u64().context("no count");
        Ok(Seen {
            objects: count("objects")?,
            resyncs: count("resyncs")?,
        })
    }

    /// Waits until the first replica has this many.
    async fn has(&self, kind: &str, objects: u64) {
        let what = format!("{objects} of {kind}");
        eventually(&what, async || {
            let seen = self.seen(kind).await?;
            ensure!(seen.objects == objects, "{seen:?}");
            Ok(())
        })
        .await
        .unwrap();
    }

    async fn pods(&self, names: impl IntoIterator<Item = String>) {
        for name in names {
            let pod = self.pod("shop", &name, "web", "nowhere").await;
            pod.unwrap();
        }
    }

    async fn remove_pod(&self, name: &str) {
        let path = format!("/api/v1/namespaces/shop/pods/{name}?gracePeriodSeconds=0");
        let gone = self.api().request(Method::DELETE, &path, &Value::Null);
        gone.await.unwrap();
    }
}

async fn mesh_with_a_shop() -> Mesh {
    let mesh = Mesh::start().await.unwrap();
    let shop = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    mesh.api().apply_object(&shop).await.unwrap();
    mesh
}

#[tokio::test]
async fn what_is_known_outlives_the_api_server_and_its_history() {
    if needs_a_box("watches through an API server's restart") {
        return;
    }
    let mut mesh = mesh_with_a_shop().await;
    mesh.pods(["a", "b", "c"].map(str::to_owned)).await;
    mesh.replica().await.unwrap();
    mesh.has("Pod", 3).await;
    mesh.remove_pod("b").await;
    mesh.has("Pod", 2).await;

    // The server goes away: what was read stays in force.
    mesh.control.stop("kube-apiserver").unwrap();
    mesh.has("Pod", 2).await;
    mesh.control.start_api_server().unwrap();
    mesh.control.wait_ready().await.unwrap();
    mesh.pods(["d".to_owned(), "e".to_owned()]).await;
    mesh.has("Pod", 4).await;

    // It comes back without the history that the watches would go on from.
    mesh.control.stop("kube-apiserver").unwrap();
    let before = mesh.seen("Pod").await.unwrap();
    mesh.control.start_api_server().unwrap();
    mesh.control.wait_ready().await.unwrap();
    mesh.remove_pod("a").await;
    mesh.control.compact().await.unwrap();
    mesh.has("Pod", 3).await;
    let after = mesh.seen("Pod").await.unwrap();
    assert!(after.resyncs >= before.resyncs, "{before:?} {after:?}");
}

#[tokio::test]
async fn a_kind_comes_and_goes_with_its_definition() {
    if needs_a_box("a kind that comes and goes") {
        return;
    }
    let mut mesh = mesh_with_a_shop().await;
    mesh.replica().await.unwrap();
    let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "deny", "namespace": "shop"}, "spec": {}});
    mesh.api().apply_object(&policy).await.unwrap();
    mesh.has("AuthorizationPolicy", 1).await;
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "authorizationpolicies.security.istio.io"}});
    mesh.api().delete(&definition).await.unwrap();
    eventually("it isn't watched any more", async || {
        let seen = mesh.seen("AuthorizationPolicy").await;
        ensure!(
            seen.is_err() || seen.as_ref().is_ok_and(|s| s.objects == 0),
            "{seen:?}"
        );
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_mass_deletion_is_looked_at_twice_and_said_loudly() {
    if needs_a_box("a mass deletion") {
        return;
    }
    let mut mesh = mesh_with_a_shop().await;
    mesh.pods((0..24).map(|n| format!("p{n}"))).await;
    mesh.replica().await.unwrap();
    mesh.has("Pod", 24).await;
    let before = mesh.seen("Pod").await.unwrap();
    let all = "/api/v1/namespaces/shop/pods?gracePeriodSeconds=0";
    let gone = mesh.api().request(Method::DELETE, all, &Value::Null);
    gone.await.unwrap();
    // It is true, so that a second list says the same, and it is believed.
    mesh.has("Pod", 0).await;
    let after = mesh.seen("Pod").await.unwrap();
    assert!(after.resyncs > before.resyncs, "{before:?} {after:?}");
    let log = std::fs::read_to_string(mesh.control.dir().join("istiod-0.log")).unwrap();
    assert!(log.contains("more than half vanished"), "{log}");
}
