//! The process's own HTTP servers: admin on 15000 (loopback), metrics on
//! 15020, readiness on 15021.

mod dump;
mod explain;
mod tap;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ::http::{Method, StatusCode};
use ambit_runtime::{Readiness, Scope};
use ambit_telemetry::http::{self, Answer, Routes};
use ambit_telemetry::logging::LogLevels;
use ambit_telemetry::{Metrics, ProcessCollector};
use http::text;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tap::Tap;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::node::Node;
use crate::settings::Settings;

/// A server of the process can't be bound.
#[derive(Debug, thiserror::Error)]
#[error("bind the {server} server to {addr}")]
pub(crate) struct BindError {
    server: &'static str,
    addr: SocketAddr,
    source: io::Error,
}

/// Asks the process to end gracefully.
#[derive(Clone)]
pub(crate) struct Quit(mpsc::Sender<()>);

impl Quit {
    pub(crate) fn new() -> (Self, mpsc::Receiver<()>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    fn now(&self) {
        // Full means that somebody asked already.
        let _ = self.0.try_send(());
    }
}

/// Port 15021.
pub(crate) async fn serve_readiness(
    settings: &Settings,
    readiness: &Readiness,
    scope: &Scope,
) -> Result<(), BindError> {
    let readiness = readiness.clone();
    let routes = Routes::new().route("/healthz/ready", move |request| {
        let answer = http::readiness(request.method(), &readiness);
        async move { answer }
    });
    let addr = settings.wildcard(settings.ports.readiness, has_ipv6());
    serve("readiness", &[addr], routes, scope).await
}

/// Port 15020.
pub(crate) async fn serve_stats(
    node: &Arc<Node>,
    runtimes: Vec<Handle>,
    scope: &Scope,
) -> Result<(), BindError> {
    let mut metrics = Metrics::new();
    metrics.register_build("waypoint", env!("CARGO_PKG_VERSION"));
    metrics.register_collector(ProcessCollector::new(runtimes));
    node.observer.register(&mut metrics);
    let metrics = Arc::new(metrics);
    let own = Arc::clone(node);
    let page = move |request: ::http::Request<_>| {
        let wanted = own.config.load().gateway.message.destination_reporter;
        own.observer.report_destination(wanted);
        let answer = http::metrics(request.headers(), &metrics);
        async move { answer }
    };
    let routes = Routes::new()
        .route("/metrics", page.clone())
        .route("/stats/prometheus", page);
    let settings = &node.settings;
    let addr = settings.wildcard(settings.ports.stats, has_ipv6());
    serve("stats", &[addr], routes, scope).await
}

/// Port 15000, loopback only.
pub(crate) async fn serve_admin(
    node: &Arc<Node>,
    levels: LogLevels,
    quit: Quit,
    scope: &Scope,
) -> Result<(), BindError> {
    let tap = Tap::new(token(&node.settings), node, scope);
    let (dumped, explained, recent) = (Arc::clone(node), Arc::clone(node), Arc::clone(node));
    let routes = Routes::new()
        .route("/config_dump", move |_| {
            let answer = http::json(&dump::dump(&dumped));
            async move { answer }
        })
        .route("/explain", move |request| {
            let node = Arc::clone(&explained);
            async move { explained_answer(&node, request).await }
        })
        .route("/requests", move |_| {
            let recent = recent.observer.recorder.recent();
            let recent: Vec<_> = recent.iter().map(|one| &**one).collect();
            let answer = http::json(&recent);
            async move { answer }
        })
        .stream("/tap", move |request| {
            let query = request.uri().query().unwrap_or_default();
            let answer = tap.answer(request.method(), request.headers(), query);
            async move { answer }
        })
        .route("/logging", move |request| {
            let answer = logging(request.method(), request.uri().query(), &levels);
            async move { answer }
        })
        .route("/quitquitquit", move |request| {
            let answer = quitquitquit(request.method(), &quit);
            async move { answer }
        });
    let port = node.settings.ports.admin;
    let ip = node
        .settings
        .ports
        .listen_ip
        .filter(std::net::IpAddr::is_loopback);
    let first = ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
    let mut addrs = vec![SocketAddr::new(first, port)];
    if ip.is_none() && has_ipv6() {
        addrs.push(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    }
    serve("admin", &addrs, routes, scope).await
}

/// The token for `/tap`, new with every start.
fn token(settings: &Settings) -> Option<Arc<str>> {
    let path = settings.tap_token.as_ref()?;
    match tap::leave_token(path) {
        Ok(token) => Some(token),
        Err(error) => {
            warn!(path = %path.display(), %error, "no token file: requests can't be tapped");
            None
        }
    }
}

/// POST with a JSON question.
async fn explained_answer(node: &Node, request: ::http::Request<Incoming>) -> Answer {
    if request.method() != Method::POST {
        return http::status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let body = Limited::new(request.into_body(), MAX_QUESTION);
    let Ok(body) = body.collect().await else {
        return http::status(StatusCode::PAYLOAD_TOO_LARGE);
    };
    match explain::explain(node, &body.to_bytes()) {
        Ok(explained) => http::json(&explained),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

async fn serve(
    server: &'static str,
    addrs: &[SocketAddr],
    routes: Routes,
    scope: &Scope,
) -> Result<(), BindError> {
    for addr in addrs {
        let addr = *addr;
        let listener = TcpListener::bind(addr).await.map_err(|source| BindError {
            server,
            addr,
            source,
        })?;
        info!(%addr, server, "listening");
        let (routes, own) = (routes.clone(), scope.clone());
        scope.spawn(
            server,
            async move { http::serve(listener, routes, &own).await },
        );
    }
    Ok(())
}

/// Of a question to `/explain`.
const MAX_QUESTION: usize = 128 << 10;

/// Hosts without IPv6 have no `::1`; that is no reason not to start.
pub(crate) fn has_ipv6() -> bool {
    std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn quitquitquit(method: &Method, quit: &Quit) -> Answer {
    if method != Method::POST {
        return http::status(StatusCode::METHOD_NOT_ALLOWED);
    }
    quit.now();
    text(StatusCode::OK, "shutdown now\n")
}

/// `reset` first, then `level`, as in `level=LEVEL` or `level=TARGET=LEVEL,..`.
fn logging(method: &Method, query: Option<&str>, levels: &LogLevels) -> Answer {
    if method != Method::POST {
        return http::status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let mut changed = Ok(());
    let parameters = query.unwrap_or_default().split('&');
    for parameter in parameters.filter(|p| !p.is_empty()) {
        changed = match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("reset", _) => levels.reset(),
            ("level", level) => levels.append(&level.replace("%3D", "=").replace("%2C", ",")),
            (other, _) => {
                let why = format!("unknown parameter {other}; use level= or reset\n");
                return text(StatusCode::BAD_REQUEST, why);
            }
        };
        if changed.is_err() {
            break;
        }
    }
    match changed {
        Ok(()) => {
            let current = levels.current();
            text(StatusCode::OK, format!("current log level is {current}\n"))
        }
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
