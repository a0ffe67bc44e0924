//! The node agent: decides which pods of its node are enrolled, redirects them
//! and hands them to the node's proxy.
//!
//! Owns the order of things: the proxy listens first, then the rules go in,
//! then the control plane is told; and the other way round. What the rules are
//! and how proxies are spoken to is `ambit-redirect`'s; who is enrolled is
//! decided by `ambit-compile`'s pure function.
//!
//! It ends without undoing anything: rules and proxies stay in force, and its
//! successor takes over what it finds.

mod agent;
mod annotate;
mod args;
mod board;
mod cni;
mod finder;
mod install;
mod inventory;
mod metrics;
mod probes;
mod report;
mod sole;
mod worker;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use ambit_channel::{ChannelConfig, RootSource, TokenSource};
use ambit_cluster::node::NodeSource;
use ambit_kube::Change;
use ambit_netns::NetNs;
use ambit_redirect::zds::{ZdsConfig, ZdsServer};
use ambit_redirect::{Probes, Redirector};
use ambit_runtime::{Readiness, ReadyGuard, Scope, Signals};
use ambit_source::DirSource;
use ambit_telemetry::{Metrics, http};
use anyhow::Context;
pub use args::{Args, CniArgs, Command, KubeletUid, OnExit};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::service::{Interceptor, interceptor::InterceptedService};
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::agent::Agent;
use crate::annotate::{ApiServer, PodWriter};
use crate::board::{Audience, Board};
use crate::finder::Finder;
use crate::inventory::Inventory;
use crate::metrics::AgentMetrics;
use crate::worker::Tools;

/// Runs the agent until a signal ends it, or does what is asked for instead.
///
/// # Errors
/// If a socket can't be bound, there is no way to the API server, or the
/// control plane's address is wrong.
pub async fn run(args: Args) -> anyhow::Result<()> {
    if let Some(Command::UninstallCni) = args.command {
        let guest = install::Guest::of(&args).context("--cni-bin-dir is needed")?;
        return Ok(guest.leave()?);
    }
    anyhow::ensure!(!args.node.is_empty(), "--node or NODE_NAME is needed");
    let mut signals = Signals::new().context("listen for signals")?;
    let socket = args.zds_socket.clone();
    // Until this function ends.
    let _sole = tokio::select! {
        sole = sole::agent_of(&socket) => {
            sole.with_context(|| format!("the lock beside {}", socket.display()))?
        }
        _ = signals.next() => return Ok(()),
    };
    let scope = Scope::new("node-agent");
    let channel = match &args.control_plane {
        Some(address) => {
            let channel = ambit_channel::connect(&channel(&args, address));
            Some(channel.context("the control plane")?)
        }
        None => None,
    };
    let cluster = match &args.from {
        Some(_) => None,
        None => {
            let cluster = ambit_cluster::connect(args.kubeconfig.as_deref()).await;
            Some(cluster.context("the Kubernetes API")?)
        }
    };
    let source = match (&args.from, &cluster) {
        (Some(directory), _) => Source::Directory(DirSource::new(directory)),
        (None, Some(cluster)) => {
            Source::Cluster(NodeSource::new(cluster.client.clone(), args.node.clone()))
        }
        (None, None) => anyhow::bail!("no source of objects"),
    };
    let annotations = cluster
        .clone()
        .map(|cluster| Arc::new(ApiServer(cluster)) as Arc<dyn PodWriter>);
    let outward = Outward {
        channel,
        annotations,
        source,
    };
    let ending = install::Ending::new(&args, cluster).await;
    let agent = start(args, outward, &scope).await?;
    signals.next().await;
    info!("ending; rules and proxies stay as they are");
    let end = async {
        scope.finish(Duration::ZERO).await;
        if let Some(ending) = ending {
            ending.run(&agent).await;
        }
    };
    tokio::select! {
        () = end => {}
        _ = signals.next() => {}
    }
    Ok(())
}

/// Where objects come from.
enum Source {
    Directory(DirSource),
    Cluster(NodeSource),
}

/// Whom the agent talks to, besides the node.
struct Outward<I> {
    channel: Option<InterceptedService<Channel, I>>,
    annotations: Option<Arc<dyn PodWriter>>,
    source: Source,
}

async fn start<I>(args: Args, outward: Outward<I>, scope: &Scope) -> anyhow::Result<Agent>
where
    I: Interceptor + Clone + Send + Sync + 'static,
{
    let readiness = Readiness::new();
    let told = [
        outward.channel.as_ref().map(|_| Audience::ControlPlane),
        outward.annotations.as_ref().map(|_| Audience::Annotations),
    ];
    let board = Board::new(&told.into_iter().flatten().collect::<Vec<_>>());
    let node = match &args.node_netns {
        Some(path) => NetNs::open(path),
        None => NetNs::current(),
    };
    let node = node.context("the node's own network namespace")?;
    let proc = match outward.source {
        Source::Directory(_) => args.proc.clone(),
        Source::Cluster(_) => Some(args.proc.clone().unwrap_or_else(|| "/proc".into())),
    };
    let zds = bind_zds(&args.zds_socket)?;
    let mut registry = Metrics::new();
    registry.register_build("node-agent", env!("CARGO_PKG_VERSION"));
    let metrics = AgentMetrics::register(&mut registry, board.clone(), zds.handle());
    let tools = Tools {
        zds: zds.handle(),
        redirector: Redirector::new(),
        board: board.clone(),
        metrics: metrics.clone(),
        finder: Finder::new(node.id(), proc.clone(), args.netns_dir.clone()),
        drain_bound: args.drain_bound,
    };
    let inventory = Inventory::new(args.node.clone(), args.ipv6, &args.exclude_namespaces);
    let (agent, settled) = Agent::new(inventory, tools, scope.child("pods"));

    serve_http(&args, registry, readiness.clone(), scope).await?;
    let cni = cni::bind(&args.cni_socket)
        .with_context(|| format!("CNI socket {}", args.cni_socket.display()))?;
    let plugin = cni::serve(cni, agent.clone(), metrics, scope.child("cni"));
    scope.spawn("cni", plugin);
    if let Some(kubelet) = args.kubelet_uid {
        let uid = probes::kubelet(kubelet, proc.as_deref());
        let probes = Probes::new(node, uid);
        scope.spawn("probes", probes::run(probes, board.clone()));
    }
    let guest = install::Guest::of(&args);
    let installed = guest.as_ref().map(|_| readiness.register("cni plugin"));
    // Neither proxies nor the control plane may hear half of what is there.
    let (settling, zds_scope) = (readiness.register("settled"), scope.child("zds"));
    let report = outward
        .channel
        .map(|channel| report::run(channel, args.node.clone(), board.clone()));
    let annotations = outward
        .annotations
        .map(|writer| annotate::run(writer, agent.clone(), board));
    let after = scope.clone();
    scope.spawn("outward", async move {
        until_settled(settled).await;
        settling.ready();
        after.spawn("zds", zds.run(zds_scope));
        if let Some(report) = report {
            after.spawn("report", report);
        }
        if let Some(annotations) = annotations {
            after.spawn("annotations", annotations);
        }
        // Whoever holds pods must know them first.
        if let Some((guest, installed)) = guest.zip(installed) {
            after.spawn("cni plugin", guest.stay(installed));
        }
    });
    let (sender, receiver) = mpsc::channel(CHANGES);
    let synced = readiness.register("source");
    scope.spawn("changes", take_changes(receiver, agent.clone(), synced));
    match outward.source {
        Source::Directory(source) => source.run(&scope.child("source"), sender),
        Source::Cluster(source) => source.run(&scope.child("source"), sender),
    }
    info!(node = args.node, "node agent started");
    Ok(agent)
}

async fn take_changes(mut changes: mpsc::Receiver<Vec<Change>>, agent: Agent, synced: ReadyGuard) {
    while let Some(batch) = changes.recv().await {
        if batch.contains(&Change::Synced) {
            synced.ready();
        }
        agent.apply(batch);
    }
}

/// Waits until every pod that was there at the start has been looked at.
async fn until_settled(mut settled: mpsc::Receiver<()>) {
    loop {
        match timeout(SETTLE_WARNING, settled.recv()).await {
            Ok(Some(())) => {}
            Ok(None) => return,
            Err(_) => warn!("still looking at the pods that were there at the start"),
        }
    }
}

fn bind_zds(path: &Path) -> anyhow::Result<ZdsServer> {
    ZdsServer::bind(path, ZdsConfig::default())
        .with_context(|| format!("ZDS socket {}", path.display()))
}

async fn serve_http(
    args: &Args,
    registry: Metrics,
    readiness: Readiness,
    scope: &Scope,
) -> anyhow::Result<()> {
    let listener = bind_http(args.http)
        .await
        .with_context(|| format!("health and metrics on {}", args.http))?;
    let registry = Arc::new(registry);
    let routes = http::Routes::new()
        .route("/healthz", async |_| http::text(StatusCode::OK, "ok"))
        .route("/readyz", move |request| {
            let answer = http::readiness(request.method(), &readiness);
            async move { answer }
        })
        .route("/metrics", move |request| {
            let answer = http::metrics(request.headers(), &registry);
            async move { answer }
        });
    let connections = scope.child("http");
    scope.spawn("http", async move {
        http::serve(listener, routes, &connections).await;
    });
    Ok(())
}

/// A kernel without IPv6 has no `[::]`.
async fn bind_http(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

fn channel(args: &Args, address: &str) -> ChannelConfig {
    ChannelConfig {
        address: address.to_owned(),
        root: RootSource::Path(args.root_ca.clone()),
        alt_hostname: args.alt_hostname.clone(),
        token: TokenSource::File(args.token_file.clone()),
        cluster_id: args.cluster_id.clone(),
        headers: Vec::new(),
    }
}

/// Batches of changes that wait.
const CHANGES: usize = 16;
const SETTLE_WARNING: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
