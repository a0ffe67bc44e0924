use std::time::{Duration, Instant};

use ambit_channel::{CaClient, CertificateFor};
use ambit_identity::{CertificateSigner, csr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Mesh, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_readiness_metrics_and_streams() {
    let mesh = Mesh::start().await;
    let view = mesh.follow("n1").await;
    assert!(!view.take_log().is_empty());
    assert_eq!(mesh.get("/ready").await, (200, "ready".into()));
    assert_eq!(mesh.get("/version").await.0, 200);
    assert_eq!(mesh.get("/nothing").await.0, 404);
    let (_, metrics) = mesh.get("/metrics").await;
    for name in [
        "pilot_info",
        "pilot_xds{version=\"\"} 1",
        "pilot_xds_pushes{type=\"wds\"}",
        "pilot_xds_pushes{type=\"wads\"}",
        "pilot_xds_config_size_bytes",
        "pilot_proxy_convergence_time",
        "pilot_debounce_time",
        "citadel_server_csr_count",
        "citadel_server_root_cert_expiry_timestamp",
        "istiod_uptime_seconds",
        "istio_build{component=\"pilot\"",
    ] {
        assert!(metrics.contains(name), "{name} in\n{metrics}");
    }
    let (_, streams) = mesh.get("/debug/syncz").await;
    let streams: serde_json::Value = serde_json::from_str(&streams).unwrap();
    let types = streams[0]["types"].as_object().unwrap();
    assert_eq!(types.len(), 2);
    for state in types.values() {
        assert_eq!(state["status"], "SYNCED", "{streams:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_never_finish_a_handshake_hold_nobody_up() {
    let mesh = Mesh::start().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(mesh.secure()).await.unwrap());
    }
    let mut garbage = TcpStream::connect(mesh.secure()).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An alert and the end, or the end.
    let _ = garbage.read_to_end(&mut answer).await;

    let client = CaClient::new(mesh.proxy("n1"), CertificateFor::Caller);
    let ours = "spiffe://cluster.local/ns/istio-system/sa/ztunnel"
        .parse()
        .unwrap();
    let (request, _) = csr(&ours).unwrap();
    let day = Duration::from_secs(86_400);
    client.sign(&ours, &request, day).await.unwrap();
    assert!(mesh.metric("ambit_handshake_failures", "").await > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_away_in_time_with_streams_open() {
    let mut mesh = Mesh::start().await;
    let view = mesh.follow("n1").await;
    let started = Instant::now();
    mesh.stop().await;
    assert!(started.elapsed() < Duration::from_secs(8));
    assert!(!view.take_log().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_bundle_is_published_and_holds_the_mesh_configurations_roots() {
    let mesh = Mesh::prepare(&[]);
    let mesh = mesh.started().await;
    let ours = std::fs::read_to_string(mesh.root()).unwrap();
    assert!(ours.starts_with("-----BEGIN CERTIFICATE-----"));
    let pem = "-----BEGIN CERTIFICATE-----\n    Zm9v\n    -----END CERTIFICATE-----";
    let config = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
         data:\n  mesh: |-\n    caCertificates:\n    - pem: |\n        {}\n",
        pem.replace("    ", "        ")
    );
    mesh.write("mesh.yaml", &config);
    eventually("both roots", || {
        let text = std::fs::read_to_string(mesh.root()).unwrap();
        text.starts_with(&ours) && text.matches("BEGIN CERTIFICATE").count() == 2
    })
    .await;
}
