//! A certificate service that is none of ours: any gRPC server that follows
//! the contract (4.6), with a root and an intermediate of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use ambit_netns::NetNs;
use ambit_proto::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use ambit_proto::auth::{IstioCertificateRequest, IstioCertificateResponse};
use ambit_runtime::Scope;
use anyhow::Result;
use prost_types::value::Kind;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// A running certificate service.
pub(crate) struct Ca {
    pub(crate) address: String,
    pub(crate) root: PathBuf,
    /// Identity, authorization header and lifetime of each request.
    pub(crate) asked: Arc<Mutex<Vec<(String, String, i64)>>>,
}

struct Service {
    root: String,
    intermediate: Issuer,
    asked: Arc<Mutex<Vec<(String, String, i64)>>>,
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let header = request.metadata().get("authorization");
        let header = header.and_then(|h| h.to_str().ok()).unwrap_or_default();
        let header = header.to_owned();
        let request = request.into_inner();
        let fields = request.metadata.unwrap_or_default().fields;
        let wanted = fields
            .get("ImpersonatedIdentity")
            .and_then(|v| v.kind.clone());
        let Some(Kind::StringValue(wanted)) = wanted else {
            return Err(Status::invalid_argument("nobody to impersonate"));
        };
        let life = request.validity_duration;
        self.asked
            .lock()
            .unwrap()
            .push((wanted.clone(), header, life));
        let leaf = sign(&request.csr, &wanted, life, &self.intermediate)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let cert_chain = vec![leaf, self.intermediate.pem(), self.root.clone()];
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// What an authority does with a CSR: takes the key, and says who it is.
fn sign(csr: &str, id: &str, seconds: i64, issuer: &Issuer) -> Result<String> {
    let mut csr = CertificateSigningRequestParams::from_pem(csr)?;
    let uri = SanType::URI(id.try_into()?);
    anyhow::ensure!(
        csr.params.subject_alt_names == [uri.clone()],
        "the CSR asks for {:?}",
        csr.params.subject_alt_names
    );
    let now = SystemTime::now();
    let params = &mut csr.params;
    params.subject_alt_names = vec![uri];
    params.not_before = (now - std::time::Duration::from_secs(60)).into();
    params.not_after = (now + std::time::Duration::from_secs(seconds.unsigned_abs())).into();
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(csr.signed_by(issuer)?.pem())
}

fn authority(name: &str, parent: Option<&Issuer>) -> Result<Issuer> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::OrganizationName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    Ok(match parent {
        None => CertifiedIssuer::self_signed(params, key)?,
        Some(parent) => CertifiedIssuer::signed_by(params, key, parent)?,
    })
}

impl Ca {
    pub(crate) fn start(scope: &Scope, ns: &NetNs, at: SocketAddr, dir: &Path) -> Result<Self> {
        let root = authority("somebody", None)?;
        let intermediate = authority("somebody's deputy", Some(&root))?;
        let path = dir.join("foreign-root.pem");
        std::fs::write(&path, root.pem())?;
        let acceptor = acceptor(at, &root)?;
        let asked = Arc::default();
        let service = Service {
            root: root.pem(),
            intermediate,
            asked: Arc::clone(&asked),
        };
        let listener = ns.run(|| std::net::TcpListener::bind(at))??;
        listener.set_nonblocking(true)?;
        serve(scope, TcpListener::from_std(listener)?, acceptor, service);
        Ok(Self {
            address: format!("https://{at}"),
            root: path,
            asked,
        })
    }
}

fn acceptor(at: SocketAddr, root: &Issuer) -> Result<TlsAcceptor> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(at.ip())];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, root)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut tls = rustls::ServerConfig::builder_with_provider(ambit_identity::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

fn serve(scope: &Scope, listener: TcpListener, acceptor: TlsAcceptor, service: Service) {
    let (accepted, incoming) = mpsc::channel(16);
    scope.spawn("accept", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream: Result<_, std::io::Error> = acceptor.accept(stream).await;
            if stream.is_ok() && accepted.send(stream.map(Io)).await.is_err() {
                return;
            }
        }
    });
    let router = tonic::transport::Server::builder()
        .add_service(IstioCertificateServiceServer::new(service));
    scope.spawn("grpc", async move {
        // Ends with the test.
        let _ = router
            .serve_with_incoming(ReceiverStream::new(incoming))
            .await;
    });
}

/// A TLS stream in the form that tonic takes.
struct Io(tokio_rustls::server::TlsStream<TcpStream>);

mod io {
    use std::io::Result;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tonic::transport::server::Connected;

    use super::Io;

    impl Connected for Io {
        type ConnectInfo = ();
        fn connect_info(&self) {}
    }

    impl AsyncRead for Io {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Io {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }
}
