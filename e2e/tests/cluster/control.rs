//! The control plane alone: what tests of watches, tokens and access stand on.

use ambit_e2e::kube::api::refused_with;
use ambit_e2e::kube::{Api, ControlPlane, ControlPlaneOptions};
use ambit_testkit::eventually;
use anyhow::ensure;
use http::{Method, StatusCode};
use serde_json::json;

use crate::world::needs_a_box;

#[tokio::test]
async fn an_api_server_reviews_tokens_authorizes_and_survives_its_faults() {
    if needs_a_box("the API server's faults") {
        return;
    }
    let mut control = ControlPlane::start(ControlPlaneOptions::default())
        .await
        .unwrap();
    let api = control.api().clone();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "web", "namespace": "default"}});
    api.apply_object(&account).await.unwrap();

    // Tokens carry their audience, and only that one is accepted.
    let token = api.token("default", "web", "istio-ca").await.unwrap();
    for (audience, good) in [("istio-ca", true), ("another", false)] {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]}});
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let review = api.request(Method::POST, path, &review).await.unwrap();
        assert_eq!(review["status"]["authenticated"] == true, good, "{review}");
    }

    // Access is by role: a user without one is refused.
    let nobody = control.kubeconfig_for("nobody", &[]).unwrap();
    let nobody = Api::new(&nobody).unwrap();
    let refused = nobody.get("/api/v1/pods").await.unwrap_err();
    assert_eq!(refused_with(&refused), Some(StatusCode::FORBIDDEN));

    // A server that was away comes back with its objects; old history doesn't.
    let old = api.get("/api/v1/namespaces?limit=1").await.unwrap();
    let old = old["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    for n in 0..20 {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "many", "namespace": "default"}, "data": {"n": n.to_string()}});
        api.apply_object(&map).await.unwrap();
    }
    control.compact().await.unwrap();
    control.stop("kube-apiserver").unwrap();
    assert!(api.get("/api/v1/namespaces").await.is_err());
    control.start_api_server().unwrap();
    control.wait_ready().await.unwrap();
    api.object("v1", "ServiceAccount", "default", "web")
        .await
        .unwrap();
    let watch = format!("/api/v1/configmaps?watch=true&timeoutSeconds=1&resourceVersion={old}");
    eventually("the old history is gone", async || {
        let answer = api.text(&watch).await;
        let expired = match &answer {
            Ok(events) => events.contains("\"code\":410"),
            Err(error) => refused_with(error) == Some(StatusCode::GONE),
        };
        ensure!(expired, "{answer:?}");
        Ok(())
    })
    .await
    .unwrap();
}
