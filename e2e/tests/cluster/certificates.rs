//! Tokens, roots and admission against a real API server: what `control-plane-contract` 7 and 8.3 say of them.

use std::time::Duration;

use ambit_channel::{CaClient, CertificateFor, ChannelConfig, RootSource, TokenSource, connect};
use ambit_identity::{CertificateSigner, SignError, Svid, csr};
use ambit_testkit::eventually;
use ambit_types::SpiffeId;
use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use crate::replicas::Mesh;
use crate::world::needs_a_box;

const HOUR: Duration = Duration::from_secs(3600);

fn ca(port: u16, root: &str, token: &str, subject: CertificateFor) -> CaClient {
    let config = ChannelConfig {
        address: format!("https://localhost:{port}"),
        root: RootSource::Inline(root.to_owned()),
        alt_hostname: None,
        token: TokenSource::Literal(token.to_owned()),
        cluster_id: "Kubernetes".to_owned(),
        headers: Vec::new(),
    };
    CaClient::new(connect(&config).unwrap(), subject)
}

async fn obtain(client: &CaClient, id: &str) -> Result<Svid, SignError> {
    let id: SpiffeId = id.parse().unwrap();
    let (request, key) = csr(&id).unwrap();
    let chain = client.sign(&id, &request, HOUR).await?;
    Ok(Svid::from_pem(&chain, key.as_pkcs8(), &id).unwrap())
}

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

#[tokio::test]
async fn roots_are_kept_in_a_secret_and_are_in_every_namespace() {
    if needs_a_box("the control plane's roots") {
        return;
    }
    let mut mesh = Mesh::start().await.unwrap();
    mesh.replica().await.unwrap();
    mesh.replica().await.unwrap();
    for namespace in ["default", "kube-system", "istio-system"] {
        eventually("a root in every namespace", async || {
            let (root, kept) = (mesh.root(namespace).await?, mesh.kept().await?);
            ensure!(root == kept, "{namespace}: {root} is not {kept}");
            let revoked = mesh.map(namespace, "istio-ca-crl").await?;
            ensure!(revoked["data"]["ca-crl.pem"] == "", "{revoked}");
            Ok(())
        })
        .await
        .unwrap();
    }
    let kept = mesh.kept().await.unwrap();
    for excluded in ["kube-public", "kube-node-lease"] {
        assert!(
            mesh.map(excluded, "istio-ca-root-cert").await.is_err(),
            "{excluded}"
        );
    }
    let late = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "late"}});
    mesh.api().apply_object(&late).await.unwrap();
    let has_root = async |namespace: &str| {
        eventually("its root", async || {
            ensure!(mesh.root(namespace).await? == kept);
            Ok(())
        })
        .await
        .unwrap();
    };
    has_root("late").await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "istio-ca-root-cert", "namespace": "late"}});
    mesh.api().delete(&map).await.unwrap();
    has_root("late").await;
    let forged = json!({"data": {"root-cert.pem": "forged"}});
    mesh.api().merge(&map, &forged).await.unwrap();
    has_root("late").await;
}

#[tokio::test]
async fn certificates_are_for_pods_on_the_callers_node_by_the_api_servers_word() {
    if needs_a_box("tokens of pods that nobody runs") {
        return;
    }
    let mut mesh = Mesh::start().await.unwrap();
    let shop = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    mesh.api().apply_object(&shop).await.unwrap();
    let proxy = mesh
        .pod("istio-system", "zt", "ztunnel", "n1")
        .await
        .unwrap();
    mesh.pod("shop", "cart", "cart", "n1").await.unwrap();
    mesh.pod("shop", "pay", "pay", "n2").await.unwrap();
    mesh.replica().await.unwrap();
    let port = mesh.relay(15012).unwrap();
    let root = eventually("the root", async || mesh.root("istio-system").await)
        .await
        .unwrap();
    let token = mesh.bound_token(&proxy, "istio-ca").await.unwrap();
    let client = ca(port, &root, &token, CertificateFor::Impersonated);
    let svid = obtain(&client, CART).await.unwrap();
    assert_eq!(svid.id().to_string(), CART);
    let refused = async |client: &CaClient, id: &str| {
        let refused = obtain(client, id).await.err().unwrap();
        assert!(
            matches!(
                &refused,
                SignError::Refused {
                    code: "Unauthenticated",
                    ..
                }
            ),
            "{id}: {refused}"
        );
    };
    refused(&client, "spiffe://cluster.local/ns/shop/sa/pay").await;
    refused(&client, "spiffe://other.example/ns/shop/sa/cart").await;
    // Another audience, no pod behind it, and no token at all.
    let other = mesh
        .bound_token(&proxy, "https://kubernetes.default.svc.cluster.local")
        .await
        .unwrap();
    refused(&ca(port, &root, &other, CertificateFor::Impersonated), CART).await;
    let unbound = mesh
        .api()
        .token("istio-system", "ztunnel", "istio-ca")
        .await
        .unwrap();
    refused(
        &ca(port, &root, &unbound, CertificateFor::Impersonated),
        CART,
    )
    .await;
    refused(
        &ca(port, &root, "nothing", CertificateFor::Impersonated),
        CART,
    )
    .await;
    // Its own it gets without a pod; and a pod that is gone can't ask for others' any more.
    let own = "spiffe://cluster.local/ns/istio-system/sa/ztunnel";
    obtain(&ca(port, &root, &unbound, CertificateFor::Caller), own)
        .await
        .unwrap();
    let path = "/api/v1/namespaces/istio-system/pods/zt?gracePeriodSeconds=0";
    mesh.api()
        .request(Method::DELETE, path, &Value::Null)
        .await
        .unwrap();
    eventually("the proxy's pod is gone", async || {
        ensure!(obtain(&client, CART).await.is_err());
        Ok(())
    })
    .await
    .unwrap();
    // The API server away: nobody new is accepted, and it says that it may pass.
    let token = mesh
        .api()
        .token("istio-system", "ztunnel", "istio-ca")
        .await
        .unwrap();
    mesh.control.stop("kube-apiserver").unwrap();
    let unknown = ca(port, &root, &token, CertificateFor::Caller);
    let away = obtain(&unknown, own).await.err().unwrap();
    assert!(
        !matches!(
            &away,
            SignError::Refused {
                code: "Unauthenticated",
                ..
            }
        ),
        "{away}"
    );
    mesh.control.start_api_server().unwrap();
    mesh.control.wait_ready().await.unwrap();
    eventually("it is back", async || {
        obtain(&unknown, own).await?;
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_webhook_is_trusted_then_relied_on_and_refuses_what_cannot_work() {
    if needs_a_box("a webhook on loopback") {
        return;
    }
    let mut mesh = Mesh::start().await.unwrap();
    let rules = json!([{"operations": ["CREATE", "UPDATE"], "apiVersions": ["*"], "resources": ["*"],
        "apiGroups": ["security.istio.io", "networking.istio.io"]}]);
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "istio-validator-istio-system"},
        "webhooks": [{"name": "validation.istio.io", "failurePolicy": "Ignore", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "rules": rules,
            "clientConfig": {"url": "https://127.0.0.1:15017/validate"}}],
    });
    mesh.api().apply_object(&webhook).await.unwrap();
    mesh.replica().await.unwrap();
    let config = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/istio-validator-istio-system";
    eventually("the webhook is relied on", async || {
        let config = mesh.api().get(config).await?;
        let webhook = &config["webhooks"][0];
        ensure!(webhook["failurePolicy"] == "Fail", "{webhook}");
        let bundle = webhook["clientConfig"]["caBundle"]
            .as_str()
            .context("a bundle")?;
        ensure!(STANDARD.decode(bundle)? == mesh.kept().await?.into_bytes());
        Ok(())
    })
    .await
    .unwrap();
    let policy = |spec: Value| {
        json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "p", "namespace": "default"}, "spec": spec})
    };
    let refused = mesh
        .api()
        .apply_object(&policy(json!({"action": "DENY"})))
        .await;
    let refused = format!("{:#}", refused.unwrap_err());
    assert!(
        refused.contains("AMB0221") && refused.contains("spec.rules"),
        "{refused}"
    );
    let unknown = mesh.api().apply_object(&policy(json!({"rulez": []}))).await;
    assert!(format!("{:#}", unknown.unwrap_err()).contains("rulez"));
    mesh.api()
        .apply_object(&policy(json!({"action": "DENY", "rules": [{}]})))
        .await
        .unwrap();
    // Warnings reach whoever applies.
    let file = mesh.control.dir().join("idle.json");
    let idle = policy(json!({"selector": {"matchLabels": {"app": "nobody"}}, "rules": [{}]}));
    std::fs::write(&file, idle.to_string()).unwrap();
    let mut kubectl = mesh.api().kubectl().unwrap();
    let output = kubectl
        .args(["apply", "--server-side", "--force-conflicts", "-f"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Warning: IST0127"), "{said}");
    // Gone, it is missed: the API server refuses what it can't ask about.
    for replica in &mut mesh.replicas {
        replica.kill().unwrap();
    }
    let unasked = mesh
        .api()
        .apply_object(&policy(json!({"rules": [{}]})))
        .await;
    assert!(unasked.is_err());
}
