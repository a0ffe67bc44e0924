//! First step of every path: connections on the HBONE port, their mutual TLS,
//! and the tunnels that peers ask for on them (`waypoint-contract` 1.1).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{HboneConfig, InboundStream, serve_tls};
use ambit_net::Listener;
use ambit_runtime::{Backoff, DrainMode, seldom};
use tokio::net::TcpStream;
use tracing::{debug, warn};

use crate::node::Worker;
use crate::tunnel;

/// How long connections are still taken after a drain has started: node proxies
/// hear a moment later than this process that another replica is to be used, and
/// what they refuse until then would be a failed request.
pub(crate) fn last_call(deadline: Duration) -> Duration {
    LAST_CALL.min(deadline / 2)
}

/// Takes connections until the [`last_call`] of a drain is over; then the
/// listener is closed, so that new connections go to another replica.
pub(crate) async fn run(worker: Arc<Worker>, listener: Listener) {
    let mut backoff = Backoff::new(SHORT_OF_RESOURCES_FIRST, SHORT_OF_RESOURCES_MAX);
    let drain = worker.drain.clone();
    let mut closing = std::pin::pin!(async {
        if let DrainMode::Graceful { deadline } = drain.started().await {
            tokio::time::sleep(last_call(deadline)).await;
        }
    });
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closing => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff.reset();
                start(&worker, stream, peer);
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                // Descriptors or memory: they come back when connections end.
                let wait = backoff.next_wait();
                if wait <= SHORT_OF_RESOURCES_FIRST {
                    warn!(%error, "connections can't be accepted for now");
                }
                tokio::time::sleep(wait).await;
            }
        }
    }
    // What the kernel has queued here already would be reset with the listener.
    while let Some((stream, peer)) = queued(&listener).await {
        start(&worker, stream, peer);
    }
}

fn start(worker: &Arc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let serving = serve(Arc::clone(worker), stream, peer);
    worker.scope.spawn("hbone", serving);
}

async fn queued(listener: &Listener) -> Option<(TcpStream, SocketAddr)> {
    tokio::select! {
        biased;
        accepted = listener.accept() => accepted.ok(),
        () = std::future::ready(()) => None,
    }
}

/// One connection, start to finish: its tunnels live on it, each in a task.
async fn serve(worker: Arc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let node = Arc::clone(&worker.node);
    let (max, hbone) = {
        let config = node.config.load();
        let gateway = &config.gateway;
        let hbone = HboneConfig {
            accepted_streams: gateway.limits.max_streams,
            trust_domains: Arc::clone(&gateway.trust_domains),
            ..worker.hbone.clone()
        };
        (gateway.limits.max_connections, hbone)
    };
    let Some(_counted) = node.connections.enter(max) else {
        debug!(%peer, max, "connection refused: the limit is reached");
        return;
    };
    let svid = match node.certs.svid(&node.id).await {
        Ok(svid) => svid,
        Err(error) => {
            warn!(%peer, %error, "connection refused: no certificate of our own");
            return;
        }
    };
    let accepted = serve_tls(stream, &svid, &hbone, &worker.gate).await;
    drop(svid);
    let mut connection = match accepted {
        Ok(connection) => connection,
        Err(error) => {
            debug!(%peer, reason = ?error.reason(), %error, "connection refused");
            return;
        }
    };
    let drain = worker.drain.clone();
    let draining = std::pin::pin!(drain.started());
    let mut draining = seldom(draining);
    let mut drained = false;
    // Who comes after the drain has started is told to go when served once.
    let mut served = drain.mode().is_none();
    loop {
        let next = tokio::select! {
            biased;
            _ = &mut draining, if !drained && served => {
                connection.drain();
                drained = true;
                continue;
            }
            next = connection.next() => next,
        };
        match next {
            Some(Ok(stream)) => {
                served = true;
                begin(&worker, stream, peer);
            }
            Some(Err(error)) => {
                debug!(%peer, reason = ?error.reason(), %error, "request refused");
            }
            None => break,
        }
    }
    if let Some(error) = connection.failure() {
        debug!(%peer, %error, "connection failed");
    }
}

fn begin(worker: &Arc<Worker>, stream: InboundStream, peer: SocketAddr) {
    let serving = tunnel::serve(Arc::clone(worker), stream, peer);
    worker.scope.spawn("tunnel", serving);
}

/// The connection was gone before it was accepted; the next one may be fine.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}

/// See [`last_call`].
const LAST_CALL: Duration = Duration::from_secs(6);
const SHORT_OF_RESOURCES_FIRST: Duration = Duration::from_millis(10);
const SHORT_OF_RESOURCES_MAX: Duration = Duration::from_secs(1);
