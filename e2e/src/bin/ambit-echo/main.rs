//! The application of the demo and the tests: an HTTP service that says what it
//! was asked, does what its query tells it to, and may call others; gRPC,
//! WebSocket and TCP echoes. It knows nothing of the mesh.
//!
//! `ambit-echo serve --http=8080 --tcp=9000 --upstream=cart:80`
//! `ambit-echo ask http://cart.shop/ --count=3`
#![allow(
    clippy::indexing_slicing,
    reason = "indexing a JSON value answers null"
)]

mod ask;
mod body;
mod call;
mod grpc;
mod http;
mod tcp;
mod websocket;
mod wishes;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

pub(crate) use ambit_e2e::serving::detach;
use anyhow::{Context, Result};
use clap::{Args, Parser};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

#[derive(Parser)]
enum Arguments {
    /// Serves until it is killed.
    Serve(Serve),
    /// Asks a service, and prints what it answered.
    Ask(ask::Ask),
}

#[derive(Args)]
struct Serve {
    /// Port of HTTP/1.1, HTTP/2, gRPC and WebSocket; may be repeated.
    #[arg(long, alias = "h2c")]
    http: Vec<u16>,
    /// Port of the same over TLS.
    #[arg(long, requires = "tls_cert", requires = "tls_key")]
    tls: Option<u16>,
    /// Certificate chain, PEM.
    #[arg(long)]
    tls_cert: Option<PathBuf>,
    /// Key, PEM.
    #[arg(long)]
    tls_key: Option<PathBuf>,
    /// Port of the TCP echo.
    #[arg(long)]
    tcp: Option<u16>,
    /// Port of a TCP echo of lines, each behind the pod's name.
    #[arg(long)]
    tcp_named: Option<u16>,
    /// Port of a TCP echo that first says the pod's name.
    #[arg(long)]
    tcp_server_first: Option<u16>,
    /// First sends a greeting on the TCP port, as server-first protocols do.
    #[arg(long)]
    greeting: Option<String>,
    /// Service that `/call` asks, as NAME:PORT.
    #[arg(long)]
    upstream: Vec<String>,
    /// How long it goes on after SIGTERM: new connections are still served, and
    /// each answer of HTTP/1.1 is its connection's last.
    #[arg(long, default_value = "0s")]
    drain: humantime::Duration,
    /// Has a line echoed by ADDRESS:PORT as the very first thing that it does.
    #[arg(long)]
    hello: Option<SocketAddr>,
}

/// What every connection knows.
pub(crate) struct Service {
    pub(crate) pod: String,
    pub(crate) namespace: String,
    pub(crate) upstreams: Vec<String>,
    /// Requests with an id: how many, and the last.
    pub(crate) seen: Mutex<HashMap<String, Seen>>,
    /// It was asked to end.
    pub(crate) ending: watch::Receiver<bool>,
}

/// The requests with one id.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) count: u64,
    pub(crate) last: Value,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let serve = match Arguments::parse() {
        Arguments::Serve(serve) => serve,
        Arguments::Ask(ask) => return ask.run().await,
    };
    if let Some(to) = serve.hello {
        tcp::say_hello(to)
            .await
            .with_context(|| format!("say hello to {to}"))?;
    }
    let (end, ending) = watch::channel(false);
    let service = Arc::new(Service {
        ending,
        pod: environment("POD_NAME"),
        namespace: environment("POD_NAMESPACE"),
        upstreams: serve.upstream,
        seen: Mutex::default(),
    });
    let mut servers = tokio::task::JoinSet::new();
    for port in serve.http {
        servers.spawn(http::serve(listen(port).await?, Arc::clone(&service), None));
    }
    if let (Some(port), Some(certificate), Some(key)) = (serve.tls, serve.tls_cert, serve.tls_key) {
        let tls = ambit_e2e::serving::tls(&certificate, &key)?;
        servers.spawn(http::serve(
            listen(port).await?,
            Arc::clone(&service),
            Some(tls),
        ));
    }
    let greeting = serve.greeting.unwrap_or_default();
    if let Some(port) = serve.tcp {
        servers.spawn(tcp::serve(listen(port).await?, greeting));
    }
    if let Some(port) = serve.tcp_server_first {
        let greeting = format!("{}\n", service.pod);
        servers.spawn(tcp::serve(listen(port).await?, greeting));
    }
    if let Some(port) = serve.tcp_named {
        servers.spawn(tcp::serve_named(listen(port).await?, Arc::clone(&service)));
    }
    // The first process of a container gets no signal that it doesn't ask for.
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = async {
        match servers.join_next().await {
            Some(ended) => ended?,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = ended => return ended,
        _ = terminate.recv() => end.send_replace(true),
    };
    // `servers` are still served: who comes hasn't heard yet.
    tokio::time::sleep(serve.drain.into()).await;
    Ok(())
}

async fn listen(port: u16) -> Result<TcpListener> {
    let any = SocketAddr::from(([0, 0, 0, 0], port));
    TcpListener::bind(any)
        .await
        .with_context(|| format!("listen on {port}"))
}

#[allow(
    clippy::disallowed_methods,
    reason = "an application reads its environment"
)]
pub(crate) fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
