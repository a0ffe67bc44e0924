//! The life of the process: start in the contract's order, run until somebody
//! ends it, drain (`ztunnel-contract` section 10).

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::HandshakeGate;
use ambit_net::PodSockets;
use ambit_netns::NetNs;
use ambit_runtime::{
    DataThreads, DrainMode, DrainTrigger, Env, Readiness, ReadyGuard, Scope, ShutdownSignal,
    Signals, drain, keep_trimmed,
};
use ambit_telemetry::logging::{self, Format, LogLevels};
use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::admin::{self, Dump, Quit};
use crate::certificates::{self, Needed};
use crate::cli::{self, Command};
use crate::config::Config;
use crate::discovery::{self, Discovery};
use crate::dns;
use crate::enrol::Enrolment;
use crate::enrol::board::Board;
use crate::enrol::session::{self, Chain, End};
use crate::flow::Telling;
use crate::metrics::{self, XdsMetrics};
use crate::node::{ControlPlane, FlowDirectory, Node};
use crate::settings;
use crate::start::{DataThread, PodStarter};

/// The whole program: arguments and environment in, exit status out.
pub fn main(args: impl Iterator<Item = String>, env: &dyn Env) -> ExitCode {
    let result = match cli::parse(args) {
        Ok(Command::Proxy) => proxy(env),
        Ok(Command::Version) => say(&format!("{:#}\n", admin::version(None))),
        Ok(Command::Help) => say(cli::HELP),
        Err(unknown) => Err(unknown.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Logging may not be there yet, or any more.
            let _ = writeln!(std::io::stderr(), "ztunnel: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn proxy(env: &dyn Env) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut config = Config::from_env(env, cores)?;
    let ipv6 = settings::kernel_has_ipv6();
    config.pod.ipv6 &= ipv6;
    let config = Arc::new(config);
    let format = if config.log_json {
        Format::Json
    } else {
        Format::Plain
    };
    let (levels, _flush) = logging::install(&config.log_filter, format)?;
    let ran = run(&config, levels, ipv6);
    if let Err(failure) = &ran {
        error!(error = format!("{failure:#}"), "ztunnel ends");
    }
    ran
}

fn run(config: &Arc<Config>, levels: LogLevels, ipv6: bool) -> anyhow::Result<()> {
    announce(config);
    if !ipv6 {
        info!("the kernel has no IPv6: IPV6_ENABLED counts as false");
    }
    ambit_identity::install().context("install the crypto provider")?;
    raise_descriptor_limit();
    let sockets = settings::pod_sockets(config);
    preflight(&sockets)?;
    let threads = DataThreads::start(config.worker_threads).context("start the data threads")?;
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .context("start the control thread's runtime")?;
    control.block_on(serve(config, levels, sockets, &threads))
}

/// The effective configuration, as one record of many lines, and what of it
/// isn't built yet.
fn announce(config: &Config) {
    match serde_saphyr::to_string(&config.dump()) {
        Ok(yaml) => info!(
            "version: {}\nrunning with config:\n{yaml}",
            env!("CARGO_PKG_VERSION")
        ),
        Err(error) => warn!(%error, "the configuration can't be shown"),
    }
    for left_out in config.left_out() {
        warn!("{left_out}");
    }
}

/// Every connection needs descriptors: the soft limit goes up to the hard one.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}

/// Without these two privileges no pod could be served: better to say so now.
fn preflight(sockets: &PodSockets) -> anyhow::Result<()> {
    let own = NetNs::current().context("open our own network namespace")?;
    own.run_on_thread(|| ())
        .context("enter a network namespace: needs CAP_SYS_ADMIN")?;
    let probe = PodSockets {
        netns: None,
        port_reuse: true,
        ..sockets.clone()
    };
    probe
        .bind(
            0,
            ambit_net::ListenOptions {
                transparent: false,
                ..Default::default()
            },
        )
        .context("mark a socket (PACKET_MARK): needs CAP_NET_ADMIN")?;
    Ok(())
}

/// The control thread: everything but the bytes.
async fn serve(
    config: &Arc<Config>,
    levels: LogLevels,
    sockets: PodSockets,
    threads: &DataThreads,
) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("install signal handlers")?;
    let scope = Scope::new("control");
    let (closing, closing_watch) = drain();
    let (trigger, drain_watch) = drain();
    let readiness = Readiness::new();
    let ready_state = readiness.register("state manager");
    let ready_pods = readiness.register("workload proxy manager");
    let mut ready_proxy = vec![readiness.register("proxy")];
    ready_proxy.extend(config.dns_proxy.then(|| readiness.register("dns proxy")));
    admin::serve_readiness(config, &readiness, &scope).await?;
    scope.spawn("trim", keep_trimmed(readiness.clone()));

    let Known {
        node,
        board,
        xds_metrics,
        mut complete,
    } = know(config, &scope, ready_state)?;
    let directory = FlowDirectory::default();
    let (quit, asked_to_quit) = Quit::new();
    let dump = Dump {
        node: Arc::clone(&node),
        config: Arc::clone(config),
        board: board.clone(),
        directory: directory.clone(),
    };
    admin::serve_admin(config, dump, Some(levels), quit, &scope).await?;
    let registry = metrics::registry(
        config,
        &node,
        &board,
        &xds_metrics,
        threads.runtimes().to_vec(),
    );
    admin::serve_stats(config, registry, directory.clone(), &scope).await?;

    let connections = Scope::new("connections");
    let background = Scope::new("background");
    let starter = PodStarter {
        node,
        threads: data_threads(threads, config.limits.half_open),
        sockets,
        hbone: settings::hbone(config),
        directory,
        connections: connections.clone(),
        background: background.clone(),
        closing: closing_watch.clone(),
        drain: drain_watch,
        trust_domain: trust_domain(config),
    };
    if let Some(own) = settings::own_workload(config) {
        let started = starter.start_own(&own).await;
        started.context("listen on this process's own HBONE port")?;
    }
    let (broken, broke) = oneshot::channel();
    let zds_socket = config.pod.zds_socket.clone();
    scope.spawn("node agent", async move {
        // The view first: a pod that is served before its policies are known
        // would be open or refused, and both would be wrong.
        if complete.wait_for(|complete| *complete).await.is_err() {
            return;
        }
        let enrolment = Enrolment::new(starter, board);
        if let End::Broken(error) =
            session::run(&zds_socket, enrolment, ready_pods, closing_watch).await
        {
            // The receiver lives as long as this task.
            let _ = broken.send(error);
        }
    });
    ready_proxy.iter().for_each(ReadyGuard::ready);
    info!("started");

    let end = wait_for_end(&mut signals, asked_to_quit, broke).await;
    let served = Served {
        connections,
        background,
        control: scope,
        closing,
        trigger,
    };
    served.drain(config.drain_deadline, &mut signals).await;
    end
}

/// What the process knows, and what keeps it up to date.
struct Known {
    node: Arc<Node>,
    board: Board,
    xds_metrics: XdsMetrics,
    /// Turns true when the view is complete for the first time.
    complete: watch::Receiver<bool>,
}

/// The view and its sources, the certificates and those who need them.
fn know(config: &Config, scope: &Scope, ready: ReadyGuard) -> anyhow::Result<Known> {
    let (mut writer, state) = ambit_state::new(discovery::state_config(config));
    discovery::load_static(config.local_xds.as_ref(), &mut writer)?;
    let control_plane = ControlPlane::new(config.xds.is_some());
    let xds_metrics = XdsMetrics::default();
    let discovery = Discovery {
        writer,
        control_plane: control_plane.clone(),
        metrics: xds_metrics.clone(),
        ready,
    };
    let complete = discovery.start(config, scope).context("xDS client")?;

    let certs = certificates::store(config, scope).context("certificate client")?;
    let node = Arc::new(Node {
        state: state.clone(),
        certs: certs.clone(),
        telling: Telling::default(),
        sockets: ambit_telemetry::SocketsOpen::default(),
        limits: config.limits,
        network: config.node.network.as_str().into(),
        response_baggage: config.pod.response_baggage,
        localhost_app_tunnel: config.pod.localhost_app_tunnel,
        authz_info: config.authz_info_logging,
        control_plane,
        dns: dns::Settings::of(config),
    });
    let board = Board::default();
    let needed = Needed {
        state,
        board: board.clone(),
        certs,
        trust_domain: trust_domain(config),
        own: settings::own_identity(config),
    };
    scope.spawn("certificates", needed.follow());
    Ok(Known {
        node,
        board,
        xds_metrics,
        complete,
    })
}

/// The threads, each with a bound of half-open handshakes for all pods.
fn data_threads(threads: &DataThreads, half_open: usize) -> Vec<DataThread> {
    let thread = |runtime: &Handle| DataThread {
        runtime: runtime.clone(),
        gate: HandshakeGate::new(half_open),
    };
    threads.runtimes().iter().map(thread).collect()
}

fn trust_domain(config: &Config) -> Arc<str> {
    config.node.trust_domain.as_str().into()
}

async fn wait_for_end(
    signals: &mut Signals,
    mut asked_to_quit: mpsc::Receiver<()>,
    broke: oneshot::Receiver<ambit_redirect::zds::ZdsError>,
) -> anyhow::Result<()> {
    tokio::select! {
        signal = signals.next() => info!(?signal, "shutting down"),
        _ = asked_to_quit.recv() => info!("shutting down: asked to on the admin port"),
        Ok(error) = broke => {
            let error = Chain(&error).to_string();
            anyhow::bail!("the node agent broke its protocol: {error}");
        }
    }
    Ok(())
}

/// What must end, in the order in which it does.
struct Served {
    connections: Scope,
    background: Scope,
    control: Scope,
    closing: DrainTrigger,
    trigger: DrainTrigger,
}

impl Served {
    /// Hands the ports over, lets open connections end, then cuts them. A
    /// second SIGINT cuts them now.
    async fn drain(self, deadline: Duration, signals: &mut Signals) {
        let open = self.connections.active();
        info!(open, ?deadline, "draining");
        self.closing.start(DrainMode::Graceful { deadline });
        // A peer that is told to go away comes back at once, to the same port:
        // by then it must be another's.
        tokio::time::sleep(HANDED_OVER.min(deadline / 4)).await;
        self.trigger.start(DrainMode::Graceful { deadline });
        let cut = tokio::select! {
            cut = self.connections.finish(deadline) => cut,
            () = second_interrupt(signals) => {
                self.trigger.start(DrainMode::Immediate);
                self.connections.cancel();
                self.connections.finish(CLEAN_UP).await
            }
        };
        self.background.cancel();
        self.background.finish(CLEAN_UP).await;
        self.control.cancel();
        self.control.finish(CLEAN_UP).await;
        info!(cut, "drained");
    }
}

async fn second_interrupt(signals: &mut Signals) {
    while signals.next().await != ShutdownSignal::Interrupt {}
}

/// For every thread to have handed its ports over.
const HANDED_OVER: Duration = Duration::from_millis(100);
/// Cancelled tasks only have to be dropped.
const CLEAN_UP: Duration = Duration::from_secs(1);
