//! The channel against a real TLS server on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's harness fails by panicking"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ambit_channel::{
    CaClient, CertificateFor, ChannelConfig, ChannelError, RootSource, TokenSource, connect,
};
use ambit_identity::{CertificateSigner, SignError, provider};
use ambit_proto::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use ambit_proto::auth::{IstioCertificateRequest, IstioCertificateResponse};
use ambit_runtime::Scope;
use ambit_types::SpiffeId;
use futures::StreamExt;
use parking_lot::Mutex;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

/// A CA of one test, and certificates of it.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    root_pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root_pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: rcgen::Issuer::new(params, key),
            root_pem,
        }
    }

    fn server_config(&self, name: &str) -> rustls::ServerConfig {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

type Seen = Arc<Mutex<Vec<(IstioCertificateRequest, String, String)>>>;

struct FakeCa {
    seen: Seen,
    chain: Vec<String>,
}

#[tonic::async_trait]
impl IstioCertificateService for FakeCa {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let header = |name| {
            let value = request.metadata().get(name);
            value.map_or("", |v| v.to_str().unwrap()).to_owned()
        };
        let (token, cluster) = (header("authorization"), header("clusterid"));
        if token == "Bearer refuse" {
            return Err(Status::unauthenticated("no"));
        }
        let seen = (request.into_inner(), token, cluster);
        self.seen.lock().push(seen);
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: self.chain.clone(),
        }))
    }
}

async fn serve(scope: &Scope, tls: rustls::ServerConfig, chain: &[&str]) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let seen = Seen::default();
    let service = IstioCertificateServiceServer::new(FakeCa {
        seen: Arc::clone(&seen),
        chain: chain.iter().map(ToString::to_string).collect(),
    });
    let incoming = futures::stream::unfold(listener, move |listener| {
        let acceptor = acceptor.clone();
        async move {
            let (stream, _) = listener.accept().await.unwrap();
            Some((acceptor.accept(stream).await, listener))
        }
    })
    .filter_map(|stream| async move { stream.ok().map(|s| std::io::Result::Ok(Plain(s))) });
    scope.spawn("server", async move {
        let server = tonic::transport::Server::builder().add_service(service);
        let _ = server.serve_with_incoming(Box::pin(incoming)).await;
    });
    (address, seen)
}

/// tonic wants to know the peer; this test doesn't.
struct Plain(tokio_rustls::server::TlsStream<tokio::net::TcpStream>);

impl tonic::transport::server::Connected for Plain {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl tokio::io::AsyncRead for Plain {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Plain {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn config(address: SocketAddr, root: &Path) -> ChannelConfig {
    ChannelConfig {
        address: format!("https://localhost:{}", address.port()),
        root: RootSource::Path(root.into()),
        alt_hostname: None,
        token: TokenSource::Literal("t1".into()),
        cluster_id: "c1".into(),
        headers: Vec::new(),
    }
}

fn root_file(authority: &Authority) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &authority.root_pem).unwrap();
    file
}

async fn sign(cfg: &ChannelConfig, subject: CertificateFor) -> Result<Vec<String>, SignError> {
    let client = CaClient::new(connect(cfg).unwrap(), subject);
    let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
    client.sign(&id, "CSR", Duration::from_secs(86_400)).await
}

#[tokio::test]
async fn a_certificate_request_as_the_contract_has_it() {
    let scope = Scope::new("test");
    let authority = Authority::new();
    let root = root_file(&authority);
    let tls = authority.server_config("localhost");
    let (address, seen) = serve(&scope, tls, &["leaf", "root"]).await;
    let cfg = config(address, root.path());

    let chain = sign(&cfg, CertificateFor::Impersonated).await.unwrap();
    assert_eq!(chain, ["leaf", "root"]);
    sign(&cfg, CertificateFor::Caller).await.unwrap();

    let seen = seen.lock();
    let (request, token, cluster) = &seen[0];
    assert_eq!((token.as_str(), cluster.as_str()), ("Bearer t1", "c1"));
    assert_eq!(request.csr, "CSR");
    assert_eq!(request.validity_duration, 86_400);
    let impersonated = &request.metadata.as_ref().unwrap().fields["ImpersonatedIdentity"];
    let want =
        prost_types::value::Kind::StringValue("spiffe://cluster.local/ns/shop/sa/cart".into());
    assert_eq!(impersonated.kind, Some(want));
    assert_eq!(seen[1].0.metadata, None);
}

#[tokio::test]
async fn refusals_and_bad_answers_have_names() {
    let scope = Scope::new("test");
    let authority = Authority::new();
    let root = root_file(&authority);
    let tls = authority.server_config("localhost");
    let (address, _) = serve(&scope, tls, &["leaf"]).await;
    let mut cfg = config(address, root.path());

    let single = sign(&cfg, CertificateFor::Caller).await.unwrap_err();
    assert!(matches!(single, SignError::BadAnswer { .. }), "{single}");

    cfg.token = TokenSource::Literal("refuse".into());
    let refused = sign(&cfg, CertificateFor::Caller).await.unwrap_err();
    let code = "Unauthenticated";
    assert!(
        matches!(refused, SignError::Refused { code: c, .. } if c == code),
        "{refused}"
    );

    cfg.address = "https://localhost:1".into();
    let nobody = sign(&cfg, CertificateFor::Caller).await.unwrap_err();
    assert!(matches!(nobody, SignError::Unreachable { .. }), "{nobody}");
}

#[tokio::test]
async fn the_root_is_read_for_each_connection() {
    let scope = Scope::new("test");
    let (old, new) = (Authority::new(), Authority::new());
    let root = root_file(&old);
    let tls = new.server_config("localhost");
    let (address, _) = serve(&scope, tls, &["leaf", "root"]).await;
    let channel = connect(&config(address, root.path())).unwrap();
    let client = CaClient::new(channel, CertificateFor::Caller);
    let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
    let ttl = Duration::from_secs(60);

    let distrusted = client.sign(&id, "CSR", ttl).await.unwrap_err();
    assert!(
        matches!(distrusted, SignError::Unreachable { .. }),
        "{distrusted}"
    );
    std::fs::write(root.path(), "").unwrap();
    let rootless = client.sign(&id, "CSR", ttl).await.unwrap_err().to_string();
    assert!(rootless.contains("holds no certificate"), "{rootless}");
    // The same client, the new root beside the old one.
    let bundle = format!("{}{}", old.root_pem, new.root_pem);
    std::fs::write(root.path(), bundle).unwrap();
    client.sign(&id, "CSR", ttl).await.unwrap();
}

#[tokio::test]
async fn a_second_server_name_is_as_good_as_the_first_and_a_third_is_not() {
    let scope = Scope::new("test");
    let authority = Authority::new();
    let root = root_file(&authority);
    let tls = authority.server_config("istiod.istio-system.svc");
    let (address, _) = serve(&scope, tls, &["leaf", "root"]).await;
    let cases = [
        (None, false),
        (Some("istiod.istio-system.svc"), true),
        (Some("istiod.elsewhere.svc"), false),
    ];
    for (alternative, good) in cases {
        let cfg = ChannelConfig {
            alt_hostname: alternative.map(str::to_owned),
            ..config(address, root.path())
        };
        let outcome = sign(&cfg, CertificateFor::Caller).await;
        assert_eq!(outcome.is_ok(), good, "{alternative:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn nothing_but_https_is_taken() {
    let root = tempfile::NamedTempFile::new().unwrap();
    for address in ["http://localhost:15012", "localhost:15012", "", "https://"] {
        let cfg = ChannelConfig {
            address: address.into(),
            ..config(([127, 0, 0, 1], 1).into(), root.path())
        };
        let error = connect(&cfg).unwrap_err();
        assert!(
            matches!(
                error,
                ChannelError::NotHttps { .. } | ChannelError::Address { .. }
            ),
            "{address}: {error}"
        );
    }
}
