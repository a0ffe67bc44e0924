//! A certificate service and a discovery service in the test's process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ambit_ca::CertificateAuthority;
use ambit_proto::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use ambit_proto::auth::{IstioCertificateRequest, IstioCertificateResponse};
use ambit_proto::waypoint::TYPES;
use ambit_runtime::Scope;
use ambit_xds::{
    Admission, Admitted, AdsServer, Batch, NodeInfo, Publisher, ServerObserver, TypeDelta, Update,
};
use anyhow::Result;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

/// The control plane.
pub(crate) struct Control {
    publisher: Publisher,
    version: AtomicU64,
    nacks: Nacks,
}

/// Types and names of the resources that the waypoint refused, in order.
type Nacks = Arc<Mutex<Vec<(String, String)>>>;

impl Control {
    pub(crate) fn start(
        scope: &Scope,
        at: SocketAddr,
        authority: &Arc<CertificateAuthority>,
    ) -> Result<Self> {
        let publisher = Publisher::new(TYPES);
        let nacks = Nacks::default();
        let ads = AdsServer::new(
            publisher.clone(),
            Arc::new(Anybody),
            Arc::new(Listens(Arc::clone(&nacks))),
            scope,
        );
        let signer = Signer(Arc::clone(authority));
        let router = tonic::transport::Server::builder()
            .add_service(IstioCertificateServiceServer::new(signer))
            .add_service(ads);
        let (chain, key) = authority.server_certificate(&[], &[at.ip()])?;
        let mut tls = rustls::ServerConfig::builder_with_provider(ambit_identity::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = std::net::TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (accepted, incoming) = mpsc::channel(16);
        scope.spawn("accept", async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = accepted.send(Ok::<_, std::io::Error>(Io(stream))).await;
                }
            }
        });
        scope.spawn("grpc", async move {
            let _ = router
                .serve_with_incoming(ReceiverStream::new(incoming))
                .await;
        });
        Ok(Self {
            publisher,
            version: AtomicU64::new(0),
            nacks,
        })
    }

    /// Types and names of what the waypoint has refused by a NACK so far.
    pub(crate) fn nacks(&self) -> Vec<(String, String)> {
        self.nacks.lock().clone()
    }

    /// Sets resources of one type.
    pub(crate) fn publish(&self, type_url: &str, resources: &[(&str, Vec<u8>)]) {
        self.change(type_url, resources, &[]);
    }

    /// Removes resources of one type.
    pub(crate) fn remove(&self, type_url: &str, names: &[&str]) {
        self.change(type_url, &[], names);
    }

    fn change(&self, type_url: &str, resources: &[(&str, Vec<u8>)], removed: &[&str]) {
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        let changed = resources.iter().map(|(name, body)| Update {
            name: (*name).into(),
            version: version.to_string(),
            body: body.clone().into(),
            ..Update::default()
        });
        self.publisher.publish(Batch {
            types: vec![TypeDelta {
                type_url: type_url.to_owned(),
                changed: changed.collect(),
                removed: removed.iter().map(|name| (*name).to_owned()).collect(),
            }],
        });
    }
}

struct Listens(Nacks);

impl ServerObserver for Listens {
    fn rejected(&self, _: &NodeInfo, type_url: &str, resource: &str) {
        let nack = (type_url.to_owned(), resource.to_owned());
        self.0.lock().push(nack);
    }
}

struct Anybody;

impl Admission for Anybody {
    fn admit(&self, _: &tonic::Extensions, node: &NodeInfo) -> Result<Admitted, Status> {
        Ok(Admitted {
            caller: Arc::clone(&node.id),
            audience: Some("shop/wp".into()),
            types: None,
        })
    }
}

/// Signs for the identity that the token stands for.
struct Signer(Arc<CertificateAuthority>);

#[tonic::async_trait]
impl IstioCertificateService for Signer {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let token = request.metadata().get("authorization");
        if token.is_none_or(|token| token != "Bearer token-of-the-test") {
            return Err(Status::unauthenticated("another token"));
        }
        let request = request.into_inner();
        let id = super::WAYPOINT.parse().unwrap();
        let ttl = Duration::from_secs(u64::try_from(request.validity_duration).unwrap_or(0));
        let cert_chain = self
            .0
            .sign(&request.csr, &id, Some(ttl))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

struct Io(TlsStream<tokio::net::TcpStream>);

impl Connected for Io {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl tokio::io::AsyncRead for Io {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Io {
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
