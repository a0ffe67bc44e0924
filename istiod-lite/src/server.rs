//! Puts the control plane together, and takes it apart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_authn::TokenVerifier;
use ambit_ca::CertificateAuthority;
use ambit_cluster::lease::{self, Leadership, Lock, RELEASE, Timing};
use ambit_cluster::{ReviewLimits, RootSecret, TokenReviewer, WebhookConfigs};
use ambit_compile::{Compiler, Settings};
use ambit_proto::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use ambit_proto::enrolment::enrolment_server::EnrolmentServer;
use ambit_runtime::{CancellationToken, Readiness, Scope};
use ambit_telemetry::{Metrics, http as telemetry_http};
use ambit_types::NamespacedName;
use ambit_xds::{AdsServer, Publisher};
use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tracing::{error, info, warn};

use crate::args::Args;
use crate::authority::{Choice, Chosen, Keeping, keep};
use crate::callers::{Authenticator, Readers, Tokens};
use crate::certificates::Certificates;
use crate::configuration::{Configuration, types};
use crate::directory::Directory;
use crate::duties::Duties;
use crate::enrolment::Agents;
use crate::http::{Views, routes};
use crate::listener::{ServerNames, ServerTls, accept};
use crate::metrics::ControlMetrics;
use crate::page::Page;
use crate::redirection::Redirections;
use crate::roots::RootBundle;
use crate::source::{Cluster, Source};
use crate::waypoints::Waypoints;
use crate::webhook::{self, Preview, Webhook};
use crate::write_metrics::WriteMetrics;
use crate::writers::{Setting, Writers};

/// A control plane that runs.
pub struct ControlPlane {
    secure: SocketAddr,
    http: SocketAddr,
    webhook: Option<SocketAddr>,
    readiness: Readiness,
    scope: Scope,
    /// Configuration, streams and the accepting of connections: ends first.
    active: Scope,
    /// Connections that are open.
    connections: Scope,
    /// What is written to a cluster.
    writing: Option<Scope>,
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
        let webhook = bind_webhook(&args).await?;
        let webhook_at = webhook.as_ref().map(TcpListener::local_addr).transpose()?;
        let (secure_at, http_at) = (secure.local_addr()?, http.local_addr()?);
        let mut registry = Metrics::new();
        let source = Source::open(&args).await?;
        let watching = source.watching(&mut registry);
        let writing = Arc::new(WriteMetrics::register(&mut registry));
        let (authority, keeping) = authority(&args, &source).await?;
        let metrics = ControlMetrics::register(&mut registry);
        let parts = Parts::load(args, source, authority, metrics)?;
        let tokens = parts.tokens()?;
        let redirections = parts.redirections()?;
        let tls = Arc::new(parts.server_tls(secure_at)?);
        parts.roots.write().context("write the root bundle")?;

        let readiness = Readiness::new();
        let scope = Scope::new("control plane");
        let active = scope.child("active");
        let connections = scope.child("connections");
        let writing = parts.writing(writing, &scope.child("writing"), active.token());
        let streams = parts.discovery(&active);
        let (reports, reported) = mpsc::channel(REPORTS);
        let (objects, changes) = mpsc::channel(CHANGES);
        parts.source.run(&active, objects);
        let (writing, writers) = writing.unzip();
        let (asks, previews) = mpsc::channel(PREVIEWS);
        let configuration = parts.configuration(redirections, &readiness, previews, writers);
        active.spawn("configuration", configuration.run(changes, reported));
        let judge = webhook.map(|listener| (listener, asks));
        parts.start_beside(keeping, &tls, judge, (&active, writing.as_ref()));

        let authenticator = parts.authenticator(tokens);
        let agents = parts.agents(reports, &active);
        let incoming = accept(secure, tls, Arc::clone(&parts.metrics), &active);
        let router = grpc_server()
            .add_service(authenticator.guard("xds", streams.clone()))
            .add_service(authenticator.guard(
                "ca",
                IstioCertificateServiceServer::new(parts.certificates()),
            ))
            .add_service(authenticator.guard("enrolment", EnrolmentServer::new(agents)));
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
            webhook: webhook_at,
            readiness,
            scope,
            active,
            connections,
            writing,
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

    /// Where the validation webhook is, if there is one.
    pub fn webhook_address(&self) -> Option<SocketAddr> {
        self.webhook
    }

    /// What isn't ready yet.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Goes away: no new connections, every stream ends cleanly, each
    /// connection is told to go elsewhere; what is left at the deadline is cut.
    pub async fn finish(self, deadline: Duration) {
        self.active.cancel();
        if let Some(writing) = self.writing {
            // Leases are given back.
            writing.finish(deadline.min(RELEASE)).await;
        }
        let cut = self.connections.finish(deadline).await;
        if cut > 0 {
            warn!("connections cut at the deadline");
        }
        self.scope.finish(Duration::ZERO).await;
    }
}

impl Parts {
    fn load(
        args: Args,
        source: Source,
        authority: Arc<CertificateAuthority>,
        metrics: ControlMetrics,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&args.state_dir)
            .with_context(|| format!("state directory {}", args.state_dir.display()))?;
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

    /// Our own judgement where keys are given; the cluster's otherwise.
    fn tokens(&self) -> anyhow::Result<Tokens> {
        let Args {
            jwks,
            token_issuer,
            token_audience,
            ..
        } = &self.args;
        let audiences = token_audience.clone();
        if let (Some(jwks), Some(issuer)) = (jwks, token_issuer) {
            return TokenVerifier::new(jwks, issuer, audiences, &self.trust_domain)
                .context("public keys of the token issuer")
                .map(Tokens::Keys);
        }
        let cluster = self.source.cluster();
        let cluster = cluster.context("neither keys of tokens nor a cluster to ask")?;
        let client = cluster.connection.client.clone();
        let reviewer = TokenReviewer::new(client, audiences, ReviewLimits::default());
        Ok(Tokens::Cluster(reviewer))
    }

    fn server_tls(&self, listen: SocketAddr) -> anyhow::Result<ServerTls> {
        let args = &self.args;
        let own = (args.system_namespace.as_str(), args.revision.as_str());
        let names = ServerNames::new(&args.server_name, listen, own);
        ServerTls::new(Arc::clone(&self.authority), names)
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

    /// Writing to the cluster, if there is one, and the scope that it ends in.
    fn writing(
        &self,
        metrics: Arc<WriteMetrics>,
        scope: &Scope,
        stop: CancellationToken,
    ) -> Option<(Scope, Writers)> {
        let cluster = self.source.cluster()?;
        let args = &self.args.writing;
        let writers = Writers::new(Setting {
            client: cluster.connection.client.clone(),
            namespace: self.args.system_namespace.clone(),
            identity: args.identity(),
            revision: self.args.revision.clone(),
            elections: args.leader_election,
            timing: Timing::default(),
            statuses: args.write_statuses,
            ranges: args.ranges(),
            waypoints: self.waypoints.clone(),
            metrics,
            scope: scope.clone(),
            stop,
        });
        Some((scope.clone(), writers))
    }

    fn settings(&self) -> Settings {
        Settings {
            cluster_id: self.args.cluster_id.as_str().into(),
            trust_domain: Some(Arc::clone(&self.trust_domain)),
            revision: self.args.revision.as_str().into(),
            system_namespace: self.args.system_namespace.as_str().into(),
            waypoint_image: self.args.writing.waypoint_image.as_str().into(),
            redirection_annotations: self.source.cluster().is_some(),
            ..Settings::default()
        }
    }

    fn configuration(
        &self,
        redirections: Redirections,
        readiness: &Readiness,
        previews: mpsc::Receiver<Preview>,
        writers: Option<Writers>,
    ) -> Configuration {
        Configuration {
            compiler: Compiler::new(self.settings()),
            previews,
            wanted: self.source.cluster().map(Cluster::wanted),
            redirections,
            directory: self.directory.clone(),
            roots: Arc::clone(&self.roots),
            publisher: self.publisher.clone(),
            page: self.page.clone(),
            stale_page: None,
            waypoints: self.waypoints.clone(),
            writers,
            metrics: Arc::clone(&self.metrics),
            ready: readiness.register("configuration"),
        }
    }

    fn authenticator(&self, tokens: Tokens) -> Authenticator {
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

    /// What goes on beside the configuration: the authority's keeping, the webhook
    /// and the duties in the cluster.
    fn start_beside(
        &self,
        keeping: Keeping,
        tls: &Arc<ServerTls>,
        webhook: Option<(TcpListener, mpsc::Sender<Preview>)>,
        (scope, writing): (&Scope, Option<&Scope>),
    ) {
        let changed = self.on_new_root(tls);
        let authority = Arc::clone(&self.authority);
        scope.spawn("root", keep(authority, keeping, changed));
        if let Some((listener, asks)) = webhook {
            let judge = Webhook::new(self.settings(), asks, Arc::clone(&self.metrics));
            webhook::serve(listener, Arc::clone(tls), judge, scope);
        }
        if let Some(writing) = writing
            && let Some(duties) = self.duties(writing, scope.token())
        {
            duties.start(scope);
        }
    }

    /// What a new root means for us: the bundle, and our own certificate.
    fn on_new_root(&self, tls: &Arc<ServerTls>) -> Arc<dyn Fn() + Send + Sync> {
        let (roots, tls) = (Arc::clone(&self.roots), Arc::clone(tls));
        Arc::new(move || {
            let written = roots.write().context("write the root bundle");
            if let Err(error) = written.and_then(|()| tls.renew()) {
                error!(error = format!("{error:#}"), "the new root isn't published");
            }
        })
    }

    /// What is done in the cluster, where there is one.
    fn duties(&self, writing: &Scope, stop: CancellationToken) -> Option<Duties> {
        let cluster = self.source.cluster()?;
        let client = cluster.connection.client.clone();
        let (revision, namespace) = (&self.args.revision, &self.args.system_namespace);
        let leader = if self.args.writing.leader_election {
            let lock = Lock {
                namespace: namespace.clone(),
                name: lease::name::NAMESPACES.to_owned(),
                identity: self.args.writing.identity(),
            };
            lease::elect(&client, lock, Timing::default(), writing, stop)
        } else {
            Leadership::always()
        };
        Some(Duties {
            client,
            leader,
            roots: Arc::clone(&self.roots),
            metrics: Arc::clone(&self.metrics),
            webhooks: WebhookConfigs::of(revision, namespace),
        })
    }
}

/// The authority, and where its root is kept.
async fn authority(
    args: &Args,
    source: &Source,
) -> anyhow::Result<(Arc<CertificateAuthority>, Keeping)> {
    std::fs::create_dir_all(&args.state_dir)
        .with_context(|| format!("state directory {}", args.state_dir.display()))?;
    let secret = source.cluster().map(|cluster| {
        let client = cluster.connection.client.clone();
        RootSecret::new(client, &args.system_namespace, ROOT_SECRET)
    });
    let choice = Choice {
        ca_dir: args.ca_dir.as_deref(),
        state_dir: &args.state_dir,
        secret,
        trust_domain: &args.trust_domain,
        lifetimes: args.lifetimes(),
    };
    let Chosen { authority, keeping } = choice.open().await.context("certificate authority")?;
    Ok((authority, keeping))
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

async fn bind_webhook(args: &Args) -> anyhow::Result<Option<TcpListener>> {
    match args.webhook_address() {
        Some(address) => bind(address).await.map(Some),
        None => Ok(None),
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))
}

const REPORTS: usize = 64;
/// Questions of the webhook that wait; more go without an answer.
const PREVIEWS: usize = 16;
const ROOT_SECRET: &str = "istio-ca-secret";
/// A batch may hold a page of pods.
const CHANGES: usize = 8;
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
