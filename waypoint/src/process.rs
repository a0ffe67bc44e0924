//! The life of the process: start, run until somebody ends it, drain.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{HandshakeGate, HboneConfig, Pool};
use ambit_net::{BoundListener, ListenOptions, PodSockets, Transparent};
use ambit_observe::SpanExport;
use ambit_runtime::{
    DataThreads, DrainMode, DrainTrigger, DrainWatch, Env, Readiness, Scope, Signals, drain,
    keep_trimmed,
};
use ambit_telemetry::logging::{self, Format, LogLevels};
use ambit_types::Locality;
use ambit_upstream::Local;
use ambit_xds::NoMetrics;
use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{error, info};

use crate::accept;
use crate::admin::{self, Quit};
use crate::config::{Config, Store};
use crate::dial::{Conns, Dialer};
use crate::discovery;
use crate::keys::{self, Keys};
use crate::memory::Memory;
use crate::node::{Gauge, Node, Worker};
use crate::observer::Observer;
use crate::resolve;
use crate::settings::Settings;
use crate::spans;
use crate::upkeep;

/// The whole program: arguments and environment in, exit status out.
pub fn main(mut args: impl Iterator<Item = String>, env: &dyn Env) -> ExitCode {
    let result = match args.next().as_deref() {
        None | Some("proxy") => proxy(env),
        Some("version") => say(&format!("waypoint {}\n", env!("CARGO_PKG_VERSION"))),
        Some("help") => say(HELP),
        Some(other) => Err(anyhow::anyhow!("unknown command {other:?}\n{HELP}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Logging may not be there yet, or any more.
            let _ = writeln!(std::io::stderr(), "waypoint: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn proxy(env: &dyn Env) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let settings = Arc::new(Settings::from_env(env, cores)?);
    let format = if settings.log_json {
        Format::Json
    } else {
        Format::Plain
    };
    let (levels, _flush) = logging::install(&settings.log_filter, format)?;
    let ran = run(&settings, levels);
    if let Err(failure) = &ran {
        error!(error = format!("{failure:#}"), "waypoint ends");
    }
    ran
}

fn run(settings: &Arc<Settings>, levels: LogLevels) -> anyhow::Result<()> {
    let shown = crate::settings::shown(settings);
    let version = env!("CARGO_PKG_VERSION");
    info!(version, settings = shown, "waypoint starts");
    ambit_identity::install().context("install the crypto provider")?;
    let threads = DataThreads::start(settings.threads).context("start the data threads")?;
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .context("start the control thread's runtime")?;
    control.block_on(serve(settings, levels, &threads))
}

/// The control thread: everything but the bytes.
async fn serve(
    settings: &Arc<Settings>,
    levels: LogLevels,
    threads: &DataThreads,
) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("install signal handlers")?;
    let scope = Scope::new("control");
    let ((trigger, drain_watch), (last_call, closing)) = (drain(), drain());
    let readiness = Readiness::new();
    let configured = readiness.register("configuration");
    let listening = readiness.register("listener");
    admin::serve_readiness(settings, &readiness, &scope).await?;

    let (node, export) = node(settings, &scope)?;
    node.certs.prefetch(&node.id);
    let store = Store::new(
        Arc::clone(&node.config),
        Arc::new(local(settings)),
        Arc::clone(&node.keys),
        Arc::clone(&node.resolver),
    );
    resolve::start(&node.resolver, &scope);
    spans::start(&node, export, &scope);
    scope.spawn("trim", keep_trimmed(readiness.clone()));
    keys::start(&node.keys, &scope);
    upkeep::start(&node, &scope);
    discovery::start(settings, store, configured, Arc::new(NoMetrics), &scope)
        .context("xDS client")?;
    let (quit, asked_to_quit) = Quit::new();
    admin::serve_admin(&node, levels, quit, &scope).await?;
    admin::serve_stats(&node, threads.runtimes().to_vec(), &scope).await?;

    let served = Served {
        connections: Scope::new("connections"),
        background: Scope::new("background"),
        control: scope,
        trigger,
        last_call,
    };
    listen(&node, threads, &served, (&drain_watch, &closing))?;
    listening.ready();
    info!("started");
    wait_for_end(&mut signals, asked_to_quit).await;
    listening.not_ready();
    served.drain(settings.drain, &mut signals).await;
    Ok(())
}

fn node(settings: &Arc<Settings>, scope: &Scope) -> anyhow::Result<(Arc<Node>, SpanExport)> {
    let id = settings.pod.identity().context("our identity")?;
    let (observer, export) = Observer::start().context("start the access log")?;
    let certs = discovery::certificates(settings, scope).context("certificate client")?;
    let node = Node {
        settings: Arc::clone(settings),
        id,
        config: Arc::new(ArcSwap::from_pointee(Config::default())),
        certs,
        keys: Arc::new(Keys::new()),
        resolver: Arc::default(),
        observer,
        connections: Gauge::default(),
        memory: Memory::new(settings.limits.memory),
    };
    Ok((Arc::new(node), export))
}

/// Where we run, for preferences of locality.
fn local(settings: &Settings) -> Local {
    let pod = &settings.pod;
    let [region, zone, subzone] = &pod.locality;
    Local {
        locality: Locality {
            region: region.as_str().into(),
            zone: zone.as_str().into(),
            subzone: subzone.as_str().into(),
        },
        node: pod.node.as_str().into(),
        network: pod.network.as_str().into(),
        cluster_id: pod.cluster_id.as_str().into(),
        labels: Vec::new(),
    }
}

/// Binds the HBONE port once a thread, here, so that an error is known before
/// anything runs.
fn listen(
    node: &Arc<Node>,
    threads: &DataThreads,
    served: &Served,
    drain: (&DrainWatch, &DrainWatch),
) -> anyhow::Result<()> {
    let sockets = PodSockets {
        transparent: Transparent::Never,
        ipv6: admin::has_ipv6(),
        ..PodSockets::default()
    };
    let options = ListenOptions {
        ip: node.settings.ports.listen_ip,
        keepalive: false,
        transparent: false,
        ..ListenOptions::default()
    };
    let mut bound = Vec::new();
    for _ in threads.runtimes() {
        bound.push(sockets.bind(node.settings.ports.hbone, options)?);
    }
    for (runtime, listener) in threads.runtimes().iter().zip(bound) {
        start(node, runtime, listener, &sockets, served, drain);
    }
    Ok(())
}

fn start(
    node: &Arc<Node>,
    runtime: &Handle,
    listener: BoundListener,
    sockets: &PodSockets,
    served: &Served,
    (drain, closing): (&DrainWatch, &DrainWatch),
) {
    let (node, sockets) = (Arc::clone(node), sockets.clone());
    let gate = HandshakeGate::new(node.settings.limits.half_open);
    let (connections, background) = (served.connections.clone(), served.background.clone());
    let (drain, closing) = (drain.clone(), closing.clone());
    let scope = served.background.clone();
    scope.spawn_on(runtime, "listener", async move {
        let listener = match listener.register() {
            Ok(listener) => listener,
            Err(error) => {
                error!(%error, "a data thread can't listen");
                return;
            }
        };
        let hbone = HboneConfig {
            handshake_timeout: node.settings.limits.handshake,
            send_buffer: SEND_BUFFER,
            ..HboneConfig::default()
        };
        // What an endpoint may send ahead of a slow client is memory here.
        let dialled = HboneConfig {
            stream_window: DIALLED_STREAM_WINDOW,
            connection_window: DIALLED_CONNECTION_WINDOW,
            frame_size: DIALLED_FRAME_SIZE,
            ..hbone.clone()
        };
        let dialer = Dialer {
            pool: Pool::new(dialled, sockets.clone(), &background),
            certs: node.certs.clone(),
            id: node.id.clone(),
            own_ip: node.ip(),
            baggage: node.baggage(),
            sockets,
        };
        let worker = Worker {
            conns: Conns::new(&background),
            watch: node.observer.watch(),
            node,
            hbone,
            gate,
            dialer,
            scope: connections,
            background,
            drain,
            closing,
        };
        accept::run(Arc::new(worker), listener).await;
    });
}

async fn wait_for_end(signals: &mut Signals, mut asked_to_quit: mpsc::Receiver<()>) {
    tokio::select! {
        signal = signals.next() => info!(?signal, "shutting down"),
        _ = asked_to_quit.recv() => info!("shutting down: asked to on the admin port"),
    }
}

/// What must end, in the order in which it does.
struct Served {
    connections: Scope,
    background: Scope,
    control: Scope,
    trigger: DrainTrigger,
    /// Starts when the last call is over.
    last_call: DrainTrigger,
}

impl Served {
    /// Takes connections a little longer: node proxies hear a moment later than
    /// we that another replica is to be used, and what is refused until then
    /// would be a failed request. Then lets open requests end, then cuts them.
    /// A second signal cuts them now.
    async fn drain(self, deadline: Duration, signals: &mut Signals) {
        let open = self.connections.active();
        info!(open, ?deadline, "draining");
        self.trigger.start(DrainMode::Graceful { deadline });
        let late = LAST_CALL.min(deadline / 2);
        let left = deadline.saturating_sub(late);
        let quiet = async {
            tokio::time::sleep(late).await;
            self.last_call.start(DrainMode::Graceful { deadline: left });
            self.connections.finish(left).await
        };
        let cut = tokio::select! {
            cut = quiet => cut,
            signal = signals.next() => {
                info!(?signal, "second signal: ending now");
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

const HELP: &str = "\
usage: waypoint [proxy | version | help]
  proxy    serve (the default); configured by the environment of a waypoint
           pod, see docs/waypoint.md
  version  print the version
  help     print this text
";
/// How long connections and tunnels are still taken in a drain, where that is
/// no more than half of it.
const LAST_CALL: Duration = Duration::from_secs(6);
/// Cancelled tasks only have to be dropped.
const CLEAN_UP: Duration = Duration::from_secs(1);

/// Bytes that one tunnel to an endpoint may carry towards us unread: as many as
/// one stream of HTTP/2 inside of it. A slow client's tunnel leaves the rest of
/// the connection's to the others.
const DIALLED_STREAM_WINDOW: u32 = 256 << 10;
/// Bytes that all tunnels of a connection to an endpoint may carry so.
const DIALLED_CONNECTION_WINDOW: u32 = 4 << 20;
/// The largest piece in which they come: it is read whole, and held whole as long
/// as a byte of it is.
const DIALLED_FRAME_SIZE: u32 = 64 << 10;
/// Bytes that one tunnel may have waiting for the socket: as many as an HTTP
/// engine hands on at a time.
const SEND_BUFFER: usize = 128 << 10;
