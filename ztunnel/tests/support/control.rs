//! A certificate service that follows the contract, in the test's process.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as Cx, Poll};
use std::time::Duration;

use ambit_ca::CertificateAuthority;
use ambit_netns::NetNs;
use ambit_proto::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use ambit_proto::auth::{IstioCertificateRequest, IstioCertificateResponse};
use ambit_runtime::Scope;
use anyhow::Result;
use prost_types::value::Kind;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, Router};
use tonic::{Request, Response, Status};

/// Signs whatever is asked for, unless it is away.
pub(crate) struct CaServer {
    address: String,
    root: PathBuf,
    pub(crate) away: Arc<AtomicBool>,
    pub(crate) authority: Arc<CertificateAuthority>,
}

impl CaServer {
    pub(crate) async fn start(scope: &Scope, ns: &NetNs, ip: IpAddr, dir: &Path) -> Result<Self> {
        let state = dir.join("ca");
        std::fs::create_dir_all(&state)?;
        let authority = Arc::new(CertificateAuthority::self_signed(&state, "cluster.local")?);
        let root = dir.join("root.pem");
        std::fs::write(&root, authority.roots_pem())?;
        let away = Arc::new(AtomicBool::new(false));
        let signer = Signer {
            authority: Arc::clone(&authority),
            away: Arc::clone(&away),
        };
        let router = tonic::transport::Server::builder()
            .add_service(IstioCertificateServiceServer::new(signer));
        serve_tls(scope, ns, SocketAddr::new(ip, 15012), &authority, router)?;
        Ok(Self {
            address: format!("https://{ip}:15012"),
            root,
            away,
            authority,
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn root_path(&self) -> &Path {
        &self.root
    }
}

/// Serves gRPC over TLS from inside a namespace.
pub(crate) fn serve_tls(
    scope: &Scope,
    ns: &NetNs,
    at: SocketAddr,
    authority: &CertificateAuthority,
    router: Router,
) -> Result<()> {
    let (chain, key) = authority.server_certificate(&[], &[at.ip()])?;
    let mut tls = rustls::ServerConfig::builder_with_provider(ambit_identity::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = ns.run(|| std::net::TcpListener::bind(at))??;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let (accepted, incoming) = mpsc::channel(16);
    let tasks = scope.clone();
    scope.spawn("accept", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
            tasks.spawn("tls", async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = accepted.send(Ok::<_, std::io::Error>(Io(stream))).await;
                }
            });
        }
    });
    scope.spawn("grpc", async move {
        let _ = router
            .serve_with_incoming(ReceiverStream::new(incoming))
            .await;
    });
    Ok(())
}

struct Signer {
    authority: Arc<CertificateAuthority>,
    away: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl IstioCertificateService for Signer {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        if self.away.load(Ordering::Relaxed) {
            return Err(Status::unavailable("the test took the CA away"));
        }
        let request = request.into_inner();
        let fields = request.metadata.unwrap_or_default().fields;
        let Some(Kind::StringValue(id)) = fields
            .get("ImpersonatedIdentity")
            .and_then(|value| value.kind.clone())
        else {
            return Err(Status::invalid_argument("no ImpersonatedIdentity"));
        };
        let id = id
            .parse()
            .map_err(|_| Status::invalid_argument("not an identity"))?;
        let ttl = Duration::from_secs(u64::try_from(request.validity_duration).unwrap_or(0));
        let cert_chain = self
            .authority
            .sign(&request.csr, &id, Some(ttl))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// A TLS stream that tonic takes.
struct Io(TlsStream<TcpStream>);

impl Connected for Io {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Cx<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Cx<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Cx<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Cx<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
