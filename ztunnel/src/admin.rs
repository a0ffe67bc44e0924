//! The process's own HTTP servers: admin on 15000, metrics on 15020, readiness
//! on 15021 (`ztunnel-contract` 9.1).

mod dump;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ::http::{Method, StatusCode};
use ambit_runtime::{Readiness, Scope};
use ambit_telemetry::Metrics;
use ambit_telemetry::http::{self, Answer, Routes};
use ambit_telemetry::logging::LogLevels;
use ambit_types::wire;
use http::{json, text};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tracing::info;

use crate::config::Config;
use crate::node::FlowDirectory;

pub(crate) use dump::{Dump, version};

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
    config: &Config,
    readiness: &Readiness,
    scope: &Scope,
) -> Result<(), BindError> {
    let readiness = readiness.clone();
    let routes = Routes::new().route("/healthz/ready", move |request| {
        let answer = http::readiness(request.method(), &readiness);
        async move { answer }
    });
    let addr = config.wildcard(wire::READINESS_PORT);
    serve("readiness", &[addr], routes, scope).await
}

/// Port 15020.
pub(crate) async fn serve_stats(
    config: &Config,
    metrics: Metrics,
    directory: FlowDirectory,
    scope: &Scope,
) -> Result<(), BindError> {
    let metrics = Arc::new(metrics);
    let page = move |request: ::http::Request<_>| {
        directory.tell_bytes();
        let answer = http::metrics(request.headers(), &metrics);
        async move { answer }
    };
    let routes = Routes::new()
        .route("/metrics", page.clone())
        .route("/stats/prometheus", page);
    let addr = config.wildcard(config.stats_port);
    serve("stats", &[addr], routes, scope).await
}

/// Port 15000, loopback only.
pub(crate) async fn serve_admin(
    config: &Config,
    dump: Dump,
    levels: Option<LogLevels>,
    quit: Quit,
    scope: &Scope,
) -> Result<(), BindError> {
    let dump = Arc::new(dump);
    let routes = Routes::new()
        .route("/", |_| async {
            http::typed(StatusCode::OK, "text/html; charset=utf-8", INDEX)
        })
        .route("/config_dump", move |_| {
            let answer = json(&dump.now());
            async move { answer }
        })
        .route("/logging", move |request| {
            let answer = logging(request.method(), request.uri().query(), levels.as_ref());
            async move { answer }
        })
        .route("/quitquitquit", move |request| {
            let answer = quitquitquit(request.method(), &quit);
            async move { answer }
        });
    let mut addrs = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, config.admin_port))];
    if config.pod.ipv6 && has_ipv6_loopback() {
        addrs.push(SocketAddr::from((Ipv6Addr::LOCALHOST, config.admin_port)));
    }
    serve("admin", &addrs, routes, scope).await
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

/// Hosts without IPv6 have no `::1`; that is no reason not to start.
fn has_ipv6_loopback() -> bool {
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
fn logging(method: &Method, query: Option<&str>, levels: Option<&LogLevels>) -> Answer {
    if method != Method::POST {
        return http::status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some(levels) = levels else {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "logging is not ours to change\n",
        );
    };
    let mut changed = Ok(());
    for parameter in query
        .unwrap_or_default()
        .split('&')
        .filter(|p| !p.is_empty())
    {
        changed = match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("reset", _) => levels.reset(),
            ("level", level) => levels.append(&level.replace("%3D", "=").replace("%2C", ",")),
            (other, _) => {
                return text(
                    StatusCode::BAD_REQUEST,
                    format!("unknown parameter {other}\n{USAGE}"),
                );
            }
        };
        if changed.is_err() {
            break;
        }
    }
    match changed {
        Ok(()) => text(
            StatusCode::OK,
            format!("current log level is {}\n", levels.current()),
        ),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n{USAGE}")),
    }
}

const USAGE: &str = "\
usage: POST /logging                            (show the current level)
usage: POST /logging?level=LEVEL                (one of: off, error, warn, info, debug, trace)
usage: POST /logging?level=TARGET=LEVEL,...     (levels of single targets)
usage: POST /logging?reset                      (back to the level of the start)
";

const INDEX: &str = "<!DOCTYPE html>
<title>ztunnel</title>
<h1>ztunnel</h1>
<ul>
<li><a href=\"/config_dump\">/config_dump</a>: everything that is known and configured</li>
<li>/logging: POST shows and changes log levels</li>
<li>/quitquitquit: POST ends the process gracefully</li>
</ul>
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_post_changes_anything() {
        let (quit, mut asked) = Quit::new();
        assert_eq!(quitquitquit(&Method::GET, &quit).status(), 405);
        assert!(asked.try_recv().is_err());
        assert_eq!(quitquitquit(&Method::POST, &quit).status(), 200);
        assert!(asked.try_recv().is_ok());
        assert_eq!(logging(&Method::GET, None, None).status(), 405);
    }
}
