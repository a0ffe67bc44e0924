use std::time::Duration;

use ambit_channel::{ControlPlane, TokenSource};
use ambit_proto::ADDRESS_TYPE;
use ambit_proto::auth::IstioCertificateRequest;
use ambit_proto::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use ambit_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use ambit_proto::discovery::{DeltaDiscoveryRequest, Node};
use ambit_testkit::token::TokenIssuer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::harness::{Mesh, proxy_node, subject};

/// How discovery ends for a caller: `Ok` once it gets a response.
async fn discover(channel: ControlPlane, node: Node) -> Code {
    let request = DeltaDiscoveryRequest {
        node: Some(node),
        type_url: ADDRESS_TYPE.into(),
        ..DeltaDiscoveryRequest::default()
    };
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let requests =
        tokio_stream::StreamExt::chain(tokio_stream::iter([request]), tokio_stream::pending());
    match client.delta_aggregated_resources(requests).await {
        Err(status) => status.code(),
        Ok(responses) => match responses.into_inner().message().await {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        },
    }
}

async fn certificate(channel: ControlPlane) -> Code {
    let mut client = IstioCertificateServiceClient::new(channel);
    let request = IstioCertificateRequest::default();
    match client.create_certificate(request).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tokens_are_refused_everywhere() {
    let mesh = Mesh::start().await;
    let who = subject("ztunnel", "zt-n1", "n1");
    let hour = Duration::from_secs(3600);
    let good = mesh.issuer.claims(&who, "istio-ca", hour).unwrap();
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut claims = good.clone();
        change(&mut claims);
        mesh.issuer.sign(&claims).unwrap()
    };
    let stranger = TokenIssuer::new(mesh.issuer.issuer()).unwrap();
    let whole = mesh.issuer.sign(&good).unwrap();
    let (head, _) = whole.rsplit_once('.').unwrap();
    let (_, other_signature) = changed(&|c| c["iat"] = 1.into())
        .rsplit_once('.')
        .map(|(h, s)| (h.to_owned(), s.to_owned()))
        .unwrap();
    let cases = [
        ("another's key", stranger.token(&who).unwrap()),
        ("another signature", format!("{head}.{other_signature}")),
        (
            "issuer",
            changed(&|c| c["iss"] = "https://elsewhere".into()),
        ),
        (
            "audience",
            changed(&|c| c["aud"] = serde_json::json!(["vault"])),
        ),
        ("expired", changed(&|c| c["exp"] = 1_000_000_000.into())),
        ("not yet", changed(&|c| c["nbf"] = 4_000_000_000_u64.into())),
        ("subject", changed(&|c| c["sub"] = "system:node:n1".into())),
        ("not a token", "hello".to_owned()),
    ];
    for (what, token) in cases {
        let channel = || mesh.channel(TokenSource::Literal(token.clone()));
        let seen = discover(channel(), proxy_node("n1")).await;
        assert_eq!(seen, Code::Unauthenticated, "discovery, {what}");
        let seen = certificate(channel()).await;
        assert_eq!(seen, Code::Unauthenticated, "certificates, {what}");
    }
    let nothing = mesh.channel(TokenSource::None);
    assert_eq!(certificate(nothing.clone()).await, Code::Unauthenticated);
    let seen = discover(nothing, proxy_node("n1")).await;
    assert_eq!(seen, Code::Unauthenticated);
    assert_eq!(discover(mesh.proxy("n1"), proxy_node("n1")).await, Code::Ok);
    let counted = mesh
        .metric("ambit_authentication_failures", "wrong_audience")
        .await;
    assert!((counted - 2.0).abs() < 0.1, "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_node_proxies_read_the_configuration() {
    let cases = |mesh: &Mesh| {
        let agent = mesh.agent("n1");
        let mut elsewhere = proxy_node("n1");
        elsewhere.metadata = None;
        let mut sidecar = proxy_node("n1");
        sidecar.id = sidecar.id.replace("ztunnel", "sidecar");
        [
            ("another account", agent, proxy_node("n1")),
            ("another kind of node", mesh.proxy("n1"), sidecar),
            ("another namespace", mesh.proxy("n1"), elsewhere),
        ]
    };
    let mesh = Mesh::start().await;
    for (what, channel, node) in cases(&mesh) {
        let seen = discover(channel, node).await;
        assert_eq!(seen, Code::PermissionDenied, "{what}");
    }
    let open = Mesh::start_with(&["--open-discovery"]).await;
    let want = [Code::Ok, Code::Ok, Code::PermissionDenied];
    for ((what, channel, node), want) in cases(&open).into_iter().zip(want) {
        assert_eq!(discover(channel, node).await, want, "open, {what}");
    }
}

/// There is no plaintext port: HTTP/2 in the clear gets no settings where discovery is, and no discovery where HTTP is.
#[tokio::test(flavor = "multi_thread")]
async fn configuration_is_never_read_in_the_clear() {
    let mesh = Mesh::start().await;
    let mut clear = TcpStream::connect(mesh.secure()).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    clear.write_all(preface).await.unwrap();
    let mut answer = Vec::new();
    let _ = clear.read_to_end(&mut answer).await;
    // At most a TLS alert.
    assert!(matches!(answer.first(), None | Some(21)), "{answer:?}");
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let (status, _) = mesh.get(path).await;
    assert_eq!(status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_is_refused() {
    let mesh = Mesh::start_with(&["--cluster-id", "west"]).await;
    // The channel says `Kubernetes`.
    assert_eq!(certificate(mesh.proxy("n1")).await, Code::Unauthenticated);
}
