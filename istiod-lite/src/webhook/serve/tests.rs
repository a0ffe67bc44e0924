use std::net::SocketAddr;

use ambit_ca::CertificateAuthority;
use ambit_kube::Severity;
use ambit_telemetry::Metrics;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use super::*;
use crate::listener::ServerNames;

struct World {
    address: SocketAddr,
    connector: TlsConnector,
    previews: mpsc::Receiver<Preview>,
    scope: Scope,
    _state: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

async fn world() -> World {
    let state = tempfile::tempdir().unwrap();
    let authority = CertificateAuthority::self_signed(state.path(), "cluster.local").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let names = ServerNames::new(&[], address, ("istio-system", "default"));
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(authority.roots_pem().as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let tls = Arc::new(ServerTls::new(Arc::new(authority), names).unwrap());
    let metrics = Arc::new(ControlMetrics::register(&mut Metrics::new()));
    let (asks, previews) = mpsc::channel(4);
    let scope = Scope::new("test");
    serve(
        listener,
        tls,
        Webhook::new(Settings::default(), asks, metrics),
        &scope,
    );
    let config = ClientConfig::builder_with_provider(ambit_identity::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    World {
        address,
        connector: TlsConnector::from(Arc::new(config)),
        previews,
        scope,
        _state: state,
    }
}

impl World {
    /// Sends a request as an API server does; status and body of the answer.
    async fn post(&self, path: &str, body: &[u8]) -> (u16, Value) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("istiod.istio-system.svc").unwrap();
        let mut stream = self.connector.connect(name, stream).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: istiod.istio-system.svc\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // It may answer before it has read all.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8(answer).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        (status, serde_json::from_str(body).unwrap_or_default())
    }
}

fn review(spec: &Value) -> Vec<u8> {
    let object = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "x", "namespace": "shop"}, "spec": spec,
    });
    let review = json!({
        "apiVersion": API_VERSION, "kind": KIND,
        "request": {
            "uid": "the-uid", "operation": "CREATE", "namespace": "shop", "object": object, "oldObject": null,
            "kind": {"group": "security.istio.io", "version": "v1", "kind": "AuthorizationPolicy"},
            "resource": {"group": "security.istio.io", "version": "v1", "resource": "authorizationpolicies"},
        },
    });
    review.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_let_in_with_warnings_or_refused_with_reasons() {
    let world = world().await;
    let (status, answer) = world
        .post("/validate", &review(&json!({"action": "DENY"})))
        .await;
    assert_eq!(status, 200);
    assert_eq!(answer["apiVersion"], API_VERSION);
    assert_eq!(answer["response"]["uid"], "the-uid");
    assert_eq!(answer["response"]["allowed"], false);
    let message = answer["response"]["status"]["message"].as_str().unwrap();
    assert!(
        message.contains("spec.rules") && message.contains("AMB0221"),
        "{message}"
    );
    let idle = json!({"selector": {"matchLabels": {}}, "rules": [{}]});
    let (_, answer) = world.post("/validate", &review(&idle)).await;
    assert_eq!(answer["response"]["allowed"], true);
    assert!(
        answer["response"]["warnings"][0]
            .as_str()
            .unwrap()
            .contains("empty selector")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_task_adds_warnings_and_is_not_waited_for_long() {
    let mut world = world().await;
    let (sent, mut previews) = mpsc::channel::<Preview>(1);
    drop(sent);
    std::mem::swap(&mut world.previews, &mut previews);
    let answering = async {
        let preview = previews.recv().await.unwrap();
        let told = ambit_kube::Problem {
            code: ambit_kube::Code("IST0127"),
            severity: Severity::Warning,
            key: Some(preview.object.object.key()),
            origin: preview.object.origin.clone(),
            field: None,
            value: None,
            message: "selects nothing".to_owned(),
            remedy: None,
        };
        preview.said.send(vec![told]).unwrap();
        // The second question is never answered.
        previews.recv().await.unwrap()
    };
    let asking = async {
        let good = review(&json!({"selector": {"matchLabels": {"a": "b"}}, "rules": [{}]}));
        let (_, answer) = world.post("/validate", &good).await;
        assert_eq!(
            answer["response"]["warnings"],
            json!(["IST0127 selects nothing"])
        );
        let (_, answer) = world.post("/validate", &good).await;
        assert_eq!(answer["response"]["allowed"], true);
        assert_eq!(answer["response"].get("warnings"), None);
    };
    let (_unanswered, ()) = tokio::join!(answering, asking);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_review_gets_an_error_and_no_verdict() {
    let world = world().await;
    let other =
        json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": KIND, "request": {"uid": "u"}});
    let empty = json!({"apiVersion": API_VERSION, "kind": KIND});
    for (path, body, want) in [
        ("/validate", b"".to_vec(), 400),
        ("/validate", b"{".to_vec(), 400),
        ("/validate", b"[1]".to_vec(), 400),
        ("/validate", other.to_string().into_bytes(), 400),
        ("/validate", empty.to_string().into_bytes(), 400),
        ("/validate", vec![b' '; MOST + 1], 413),
        ("/inject", review(&json!({})), 404),
    ] {
        let (status, _) = world.post(path, &body).await;
        assert_eq!(status, want, "{path}, {} bytes", body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_of_three_mebibytes_is_answered() {
    let world = world().await;
    let principals: Vec<String> = (0..45_000)
        .map(|at| format!("cluster.local/ns/namespace-{at}/sa/some-service-account"))
        .collect();
    let spec = json!({"rules": [{"from": [{"source": {"principals": principals}}]}]});
    let body = review(&spec);
    assert!(body.len() > 2 << 20);
    let (status, answer) = world.post("/validate", &body).await;
    assert_eq!(status, 200);
    assert_eq!(answer["response"]["allowed"], true, "{answer}");
}
