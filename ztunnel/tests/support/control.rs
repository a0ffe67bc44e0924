//! A certificate service and a discovery service that follow the contracts, in
//! the test's process.

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
use ambit_proto::security::{
    Action, Authorization, Clause, Match, Rule, Scope as Scope_, StringMatch, string_match,
};
use ambit_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE, workload as pb};
use ambit_runtime::Scope;
use ambit_xds::{
    Admission, Admitted, AdsServer, Batch, NoObserver, NodeInfo, Publisher, TypeDelta, Update,
};
use anyhow::Result;
use prost::Message;
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
            let over = Box::pin(tasks.token().cancelled_owned());
            tasks.spawn("tls", async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = accepted
                        .send(Ok::<_, std::io::Error>(Io { stream, over }))
                        .await;
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
struct Io {
    stream: TlsStream<TcpStream>,
    /// Ends it with its server: tonic's connections outlive theirs.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

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
        if self.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Cx<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Cx<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Cx<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A discovery service whose content the test chooses, and which it can take
/// away and bring back.
pub(crate) struct Discovery {
    publisher: Publisher,
    at: SocketAddr,
    ns: NetNs,
    authority: Arc<CertificateAuthority>,
    scope: Scope,
    running: Option<Scope>,
    version: u64,
}

struct Anybody;

impl Admission for Anybody {
    fn admit(&self, _: &tonic::Extensions, node: &NodeInfo) -> Result<Admitted, Status> {
        Ok(Admitted::everything(Arc::clone(&node.id)))
    }
}

impl Discovery {
    pub(crate) fn start(scope: &Scope, ns: &NetNs, ip: IpAddr, ca: &CaServer) -> Result<Self> {
        let publisher = Publisher::new([AUTHORIZATION_TYPE, ADDRESS_TYPE]);
        let mut discovery = Self {
            publisher,
            at: SocketAddr::new(ip, 15010),
            ns: ns.clone(),
            authority: Arc::clone(&ca.authority),
            scope: scope.clone(),
            running: None,
            version: 0,
        };
        discovery.come()?;
        Ok(discovery)
    }

    pub(crate) fn address(&self) -> String {
        format!("https://{}", self.at)
    }

    /// The service answers (again).
    pub(crate) fn come(&mut self) -> Result<()> {
        let scope = self.scope.child("discovery");
        let server = AdsServer::new(
            self.publisher.clone(),
            Arc::new(Anybody),
            Arc::new(NoObserver),
            &scope,
        );
        let router = tonic::transport::Server::builder().add_service(server);
        serve_tls(&scope, &self.ns, self.at, &self.authority, router)?;
        self.running = Some(scope);
        Ok(())
    }

    /// The service is gone.
    pub(crate) async fn leave(&mut self) {
        if let Some(scope) = self.running.take() {
            scope.cancel();
            scope.finish(Duration::from_secs(5)).await;
        }
    }

    pub(crate) fn publish(&mut self, workloads: &[pb::Workload], policies: &[Authorization]) {
        self.version += 1;
        let version = self.version.to_string();
        let update = |name: String, body: Vec<u8>| Update {
            name: name.into(),
            version: version.clone(),
            body: body.into(),
            ..Update::default()
        };
        let addresses = workloads.iter().map(|workload| {
            let kind = pb::address::Type::Workload(workload.clone());
            let address = pb::Address { r#type: Some(kind) };
            update(workload.uid.clone(), address.encode_to_vec())
        });
        let policies = policies.iter().map(|policy| {
            update(
                format!("{}/{}", policy.namespace, policy.name),
                policy.encode_to_vec(),
            )
        });
        let delta = |type_url: &str, changed: Vec<Update>| TypeDelta {
            type_url: type_url.to_owned(),
            changed,
            removed: Vec::new(),
        };
        self.publisher.publish(Batch {
            types: vec![
                delta(AUTHORIZATION_TYPE, policies.collect()),
                delta(ADDRESS_TYPE, addresses.collect()),
            ],
        });
    }
}

/// A DENY of one principal.
pub(crate) fn deny(name: &str, principal: &str) -> Authorization {
    let principal = StringMatch {
        match_type: Some(string_match::MatchType::Exact(principal.to_owned())),
    };
    let matched = Match {
        principals: vec![principal],
        ..Match::default()
    };
    Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: Scope_::WorkloadSelector.into(),
        action: Action::Deny.into(),
        rules: vec![Rule {
            clauses: vec![Clause {
                matches: vec![matched],
            }],
        }],
        ..Authorization::default()
    }
}
