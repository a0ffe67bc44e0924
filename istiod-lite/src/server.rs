//! Puts the control plane together, and takes it apart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_authn::TokenVerifier;
use ambit_ca::CertificateAuthority;
use ambit_compile::{Compiler, Settings};
use ambit_proto::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use ambit_proto::enrolment::enrolment_server::EnrolmentServer;
use ambit_runtime::{Readiness, Scope};
use ambit_telemetry::{Metrics, http as telemetry_http};
use ambit_types::NamespacedName;
use ambit_xds::{AdsServer, Publisher};
use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tracing::{error, info, warn};

use crate::args::Args;
use crate::callers::{Authenticator, Readers};
use crate::certificates::Certificates;
use crate::configuration::{Configuration, types};
use crate::directory::Directory;
use crate::enrolment::Agents;
use crate::http::{Views, routes};
use crate::listener::{ServerNames, ServerTls, accept};
use crate::metrics::ControlMetrics;
use crate::page::Page;
use crate::redirection::Redirections;
use crate::roots::RootBundle;
use crate::source::{Cluster, Source};
use crate::waypoints::Waypoints;

/// A control plane that runs.
pub struct ControlPlane {
    secure: SocketAddr,
    http: SocketAddr,
    readiness: Readiness,
    scope: Scope,
    /// Configuration, streams and the accepting of connections: ends first.
    active: Scope,
    /// Connections that are open.
    connections: Scope,
}

/// What the parts share.
struct Parts {
    args: Args,
    source: Source,
    trust_domain: Arc<str>,
    authority: Arc<CertificateAuthority>,
    roots: Arc<RootBundle>,
    metrics: Arc<ControlMetrics>,
    directory: Directory,
    publisher: Publisher,
    page: Page,
    waypoints: Waypoints,
}

impl ControlPlane {
    /// Starts everything; it becomes ready when the manifests are read.
    ///
    /// # Errors
    /// What can't work whatever the manifests say: addresses in use, keys or
    /// state that can't be read, a CA that doesn't fit.
    pub async fn start(args: Args) -> anyhow::Result<Self> {
        let secure = bind(args.listen).await?;
        let http = bind(args.http).await?;
        let (secure_at, http_at) = (secure.local_addr()?, http.local_addr()?);
        let mut registry = Metrics::new();
        let source = Source::open(&args).await?;
        let watching = source.watching(&mut registry);
        let parts = Parts::load(args, source, ControlMetrics::register(&mut registry))?;
        let tokens = parts.token_verifier()?;
        let redirections = parts.redirections()?;
        let names = ServerNames::new(&parts.args.server_name, secure_at);
        let tls = ServerTls::new(Arc::clone(&parts.authority), names)?;
        let tls = Arc::new(tls);
        parts.roots.write().context("write the root bundle")?;

        let readiness = Readiness::new();
        let scope = Scope::new("control plane");
        let active = scope.child("active");
        let connections = scope.child("connections");
        let streams = parts.discovery(&active);
        let (reports, reported) = mpsc::channel(REPORTS);
        let (objects, changes) = mpsc::channel(CHANGES);
        parts.source.run(&active, objects);
        let configuration = parts.configuration(redirections, &readiness);
        active.spawn("configuration", configuration.run(changes, reported));
        active.spawn("root", keep_root(parts.root_keeper(&tls)));

        let authenticator = parts.authenticator(tokens);
        let agents = parts.agents(reports, &active);
        let incoming = accept(secure, tls, Arc::clone(&parts.metrics), &active);
        let router = grpc_server()
            .add_service(InterceptedService::new(
                streams.clone(),
                authenticator.of("xds"),
            ))
            .add_service(IstioCertificateServiceServer::with_interceptor(
                parts.certificates(),
                authenticator.of("ca"),
            ))
            .add_service(EnrolmentServer::with_interceptor(
                agents,
                authenticator.of("enrolment"),
            ));
        let ending = active.token();
        let serving = router
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async move {
                ending.cancelled().await
            });
        connections.spawn("grpc", async move {
            if let Err(error) = serving.await {
                error!(%error, "the gRPC server has ended");
            }
        });
        let views = Views {
            readiness: readiness.clone(),
            registry,
            metrics: parts.metrics,
            authority: parts.authority,
            page: parts.page,
            watching,
            waypoints: parts.waypoints,
            streams,
        };
        let http_scope = scope.clone();
        scope.spawn("http", async move {
            telemetry_http::serve(http, routes(views), &http_scope).await;
        });
        info!(%secure_at, %http_at, "listening");
        Ok(Self {
            secure: secure_at,
            http: http_at,
            readiness,
            scope,
            active,
            connections,
        })
    }

    /// Where xDS, certificates and enrolment are.
    pub fn secure_address(&self) -> SocketAddr {
        self.secure
    }

    /// Where readiness, metrics and debugging are.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// What isn't ready yet.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Goes away: no new connections, every stream ends cleanly, each
    /// connection is told to go elsewhere; what is left at the deadline is cut.
    pub async fn finish(self, deadline: Duration) {
        self.active.cancel();
        let cut = self.connections.finish(deadline).await;
        if cut > 0 {
            warn!("connections cut at the deadline");
        }
        self.scope.finish(Duration::ZERO).await;
    }
}

impl Parts {
    fn load(args: Args, source: Source, metrics: ControlMetrics) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&args.state_dir)
            .with_context(|| format!("state directory {}", args.state_dir.display()))?;
        let authority = match &args.ca_dir {
            Some(dir) => CertificateAuthority::plugged_in(dir),
            None => CertificateAuthority::self_signed(&args.state_dir, &args.trust_domain),
        };
        let authority = Arc::new(authority.context("certificate authority")?);
        let roots = RootBundle::new(Arc::clone(&authority), args.root_bundle());
        Ok(Self {
            trust_domain: args.trust_domain.as_str().into(),
            authority,
            roots: Arc::new(roots),
            metrics: Arc::new(metrics),
            directory: Directory::default(),
            publisher: Publisher::new(types()),
            page: Page::default(),
            waypoints: Waypoints::default(),
            source,
            args,
        })
    }

    /// None where the cluster is asked about tokens.
    fn token_verifier(&self) -> anyhow::Result<Option<TokenVerifier>> {
        let Args {
            jwks,
            token_issuer,
            token_audience,
            ..
        } = &self.args;
        let (Some(jwks), Some(issuer)) = (jwks, token_issuer) else {
            return Ok(None);
        };
        let audiences = token_audience.clone();
        TokenVerifier::new(jwks, issuer, audiences, &self.trust_domain)
            .context("public keys of the token issuer")
            .map(Some)
    }

    fn redirections(&self) -> anyhow::Result<Redirections> {
        Ok(match &self.source {
            Source::Directory(_) => Redirections::load(&self.args.state_dir)?,
            Source::Cluster(_) => Redirections::annotated(),
        })
    }

    fn discovery(&self, scope: &Scope) -> AdsServer {
        let readers = Readers {
            trusted: self.args.trusted_node_account.clone(),
            open: self.args.open_discovery,
            directory: self.directory.clone(),
        };
        AdsServer::new(
            self.publisher.clone(),
            Arc::new(readers),
            Arc::clone(&self.metrics) as Arc<dyn ambit_xds::ServerObserver>,
            scope,
        )
    }

    fn configuration(&self, redirections: Redirections, readiness: &Readiness) -> Configuration {
        let settings = Settings {
            cluster_id: self.args.cluster_id.as_str().into(),
            trust_domain: Some(Arc::clone(&self.trust_domain)),
            revision: self.args.revision.as_str().into(),
            system_namespace: self.args.system_namespace.as_str().into(),
            redirection_annotations: self.source.cluster().is_some(),
            ..Settings::default()
        };
        Configuration {
            compiler: Compiler::new(settings),
            wanted: self.source.cluster().map(Cluster::wanted),
            redirections,
            directory: self.directory.clone(),
            roots: Arc::clone(&self.roots),
            publisher: self.publisher.clone(),
            page: self.page.clone(),
            stale_page: None,
            waypoints: self.waypoints.clone(),
            metrics: Arc::clone(&self.metrics),
            ready: readiness.register("configuration"),
        }
    }

    fn authenticator(&self, tokens: Option<TokenVerifier>) -> Authenticator {
        Authenticator::new(
            tokens,
            Arc::clone(&self.trust_domain),
            self.args.cluster_id.clone(),
            Arc::clone(&self.metrics),
        )
    }

    fn certificates(&self) -> Certificates {
        Certificates {
            authority: Arc::clone(&self.authority),
            directory: self.directory.clone(),
            trust_domain: Arc::clone(&self.trust_domain),
            trusted: self.args.trusted_node_account.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    fn agents(&self, reports: mpsc::Sender<crate::enrolment::Report>, scope: &Scope) -> Agents {
        let trusted: Vec<NamespacedName> = self.args.trusted_agent_account.clone();
        Agents {
            directory: self.directory.clone(),
            trusted,
            reports,
            metrics: Arc::clone(&self.metrics),
            scope: scope.child("agents"),
        }
    }

    fn root_keeper(&self, tls: &Arc<ServerTls>) -> RootKeeper {
        RootKeeper {
            authority: Arc::clone(&self.authority),
            roots: Arc::clone(&self.roots),
            tls: Arc::clone(tls),
        }
    }
}

struct RootKeeper {
    authority: Arc<CertificateAuthority>,
    roots: Arc<RootBundle>,
    tls: Arc<ServerTls>,
}

impl RootKeeper {
    fn look(&self) -> anyhow::Result<()> {
        if self.authority.rotate_if_due(SystemTime::now())? {
            self.roots.write()?;
            self.tls.renew()?;
        }
        Ok(())
    }
}

/// Renews the root when it is due; looks once an hour.
async fn keep_root(keeper: RootKeeper) {
    let keeper = Arc::new(keeper);
    loop {
        let looking = Arc::clone(&keeper);
        let looked = tokio::task::spawn_blocking(move || looking.look()).await;
        if !matches!(looked, Ok(Ok(()))) {
            error!(outcome = ?looked, "root not renewed");
        }
        tokio::time::sleep(ROOT_CHECK).await;
    }
}

fn grpc_server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_connection_age(CONNECTION_AGE)
        .max_connection_age_grace(CONNECTION_GRACE)
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))
}

const REPORTS: usize = 64;
/// A batch may hold a page of pods.
const CHANGES: usize = 8;
const ROOT_CHECK: Duration = Duration::from_secs(60 * 60);
/// What clients send is small.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Of one connection; a node's certificate requests come in bursts.
const STREAMS: u32 = 1024;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// A caller proves again who it is at least this often, and replicas stay
/// evenly loaded; what it holds it isn't sent again.
const CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
const CONNECTION_GRACE: Duration = Duration::from_secs(10);
