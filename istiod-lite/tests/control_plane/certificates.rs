use std::sync::Arc;
use std::time::Duration;

use ambit_channel::{CaClient, CertificateFor, TokenSource};
use ambit_identity::{CertificateSigner, SignError, Svid, csr};
use ambit_types::SpiffeId;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::harness::{Mesh, subject};

const DAY: Duration = Duration::from_secs(86_400);

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

async fn obtain(client: &CaClient, wanted: &SpiffeId) -> Result<Svid, SignError> {
    let (request, key) = csr(wanted).unwrap();
    let chain = client.sign(wanted, &request, DAY).await?;
    Ok(Svid::from_pem(&chain, key.as_pkcs8(), wanted).unwrap())
}

fn is_opaque(refused: &SignError) -> bool {
    matches!(refused, SignError::Refused { code: "Unauthenticated", detail }
        if detail == "request authenticate failure")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_gets_certificates_of_the_pods_on_its_node_only() {
    let mesh = Mesh::start().await;
    let cart = id("spiffe://cluster.local/ns/shop/sa/cart");
    let here = CaClient::new(mesh.proxy("n1"), CertificateFor::Impersonated);
    let there = CaClient::new(mesh.proxy("n2"), CertificateFor::Impersonated);

    let svid = obtain(&here, &cart).await.unwrap();
    assert_eq!(svid.id(), &cart);
    let refused = obtain(&there, &cart).await.err().unwrap();
    assert!(is_opaque(&refused), "{refused}");
    let foreign = id("spiffe://elsewhere/ns/shop/sa/cart");
    let refused = obtain(&here, &foreign).await.err().unwrap();
    assert!(is_opaque(&refused), "{refused}");
    let counted = |reason| mesh.metric("ambit_impersonations", reason);
    assert!(counted("granted").await > 0.0);
    assert!(counted("no_such_pod_on_node").await > 0.0);
    assert!(counted("other_trust_domain").await > 0.0);
    assert!(mesh.metric("citadel_server_csr_count", "").await > 2.0);
    let issued = mesh.metric("citadel_server_success_cert_issuance_count", "");
    assert!((issued.await - 1.0).abs() < 0.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_impersonate() {
    let mesh = Mesh::start().await;
    let cart = id("spiffe://cluster.local/ns/shop/sa/cart");
    let who = subject("ztunnel", "zt-n1", "n1");
    let claims = mesh.issuer.claims(&who, "istio-ca", DAY).unwrap();
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut claims = claims.clone();
        change(&mut claims["kubernetes.io"]);
        mesh.issuer.sign(&claims).unwrap()
    };
    let cases = [
        ("an agent", mesh.token("node-agent", "agent-n1", "n1")),
        (
            "no pod claims",
            changed(&|k| drop(k.as_object_mut().unwrap().remove("pod"))),
        ),
        (
            "a pod of before",
            changed(&|k| k["pod"]["uid"] = "older".into()),
        ),
        (
            "a pod that isn't",
            changed(&|k| k["pod"]["name"] = "zt-n9".into()),
        ),
        (
            "another's pod",
            changed(&|k| k["pod"] = serde_json::json!({"name": "agent-n1", "uid": "uid-agent-n1"})),
        ),
        (
            "another node",
            changed(&|k| k["node"]["name"] = "n2".into()),
        ),
    ];
    for (what, token) in cases {
        let channel = mesh.channel(TokenSource::Literal(token));
        let client = CaClient::new(channel, CertificateFor::Impersonated);
        let refused = obtain(&client, &cart).await.err().unwrap();
        assert!(is_opaque(&refused), "{what}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_its_node_knows_first_is_waited_for() {
    let mesh = Mesh::start().await;
    let client = CaClient::new(mesh.proxy("n1"), CertificateFor::Impersonated);
    let late = id("spiffe://cluster.local/ns/shop/sa/late");
    let writing = async {
        // The request is on its way when the manifest appears.
        while mesh.metric("citadel_server_csr_count", "").await < 1.0 {
            tokio::task::yield_now().await;
        }
        mesh.write_pod("shop", "late", "late", "n1");
    };
    let (svid, ()) = tokio::join!(obtain(&client, &late), writing);
    assert_eq!(svid.unwrap().id(), &late);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_the_callers_fault() {
    let mesh = Mesh::start().await;
    let client = CaClient::new(mesh.proxy("n1"), CertificateFor::Caller);
    let ours = id("spiffe://cluster.local/ns/istio-system/sa/ztunnel");
    let (request, _) = csr(&ours).unwrap();
    let too_long = DAY * 91;
    for (text, ttl) in [("nonsense", DAY), (request.as_str(), too_long)] {
        let refused = client.sign(&ours, text, ttl).await.unwrap_err();
        assert!(
            matches!(
                refused,
                SignError::Refused {
                    code: "InvalidArgument",
                    ..
                }
            ),
            "{refused}"
        );
    }
    // For itself, the identity of its token.
    assert_eq!(obtain(&client, &ours).await.unwrap().id(), &ours);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_renews_itself_and_impersonates_nobody() {
    use ambit_proto::auth::IstioCertificateRequest;
    use ambit_proto::auth::istio_certificate_service_client::IstioCertificateServiceClient as Client;
    let mesh = Mesh::start().await;
    let ours = id("spiffe://cluster.local/ns/istio-system/sa/ztunnel");
    let client = CaClient::new(mesh.proxy("n1"), CertificateFor::Caller);
    let (request, key) = csr(&ours).unwrap();
    let chain = client.sign(&ours, &request, DAY).await.unwrap();

    let mut roots = rustls::RootCertStore::empty();
    let root = std::fs::read(mesh.root()).unwrap();
    for certificate in CertificateDer::pem_slice_iter(&root) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.as_pkcs8().to_vec()));
    let provider = ambit_identity::provider();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![leaf], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let address = mesh.secure();
    let connect = tower::service_fn(move |_: tonic::transport::Uri| {
        let connector = connector.clone();
        async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            let name = "istiod.istio-system.svc".try_into().unwrap();
            let stream = connector.connect(name, stream).await?;
            std::io::Result::Ok(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let channel = tonic::transport::Endpoint::from_static("https://control-plane")
        .connect_with_connector_lazy(connect);
    let mut client = Client::new(channel);
    let ask = |impersonated: Option<&str>| {
        let kind = |id: &str| prost_types::value::Kind::StringValue(id.to_owned());
        let value = |id: &str| prost_types::Value {
            kind: Some(kind(id)),
        };
        IstioCertificateRequest {
            csr: request.clone(),
            validity_duration: 3600,
            metadata: impersonated.map(|id| prost_types::Struct {
                fields: [("ImpersonatedIdentity".to_owned(), value(id))].into(),
            }),
        }
    };
    let renewed = client.create_certificate(ask(None)).await.unwrap();
    assert_eq!(renewed.into_inner().cert_chain.len(), 2);
    let cart = Some("spiffe://cluster.local/ns/shop/sa/cart");
    let refused = client.create_certificate(ask(cart)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    assert!(
        mesh.metric("ambit_impersonations", "not_bound_to_pod")
            .await
            > 0.0
    );
}
