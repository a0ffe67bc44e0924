//! First step of every path: connections on the HBONE port, their mutual TLS,
//! and the tunnels that peers ask for on them (`waypoint-contract` 1.1).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{HboneConfig, InboundStream, serve_tls};
use ambit_net::Listener;
use ambit_runtime::{Backoff, seldom};
use tokio::net::TcpStream;
use tracing::{debug, warn};

use crate::node::Worker;
use crate::tunnel;

/// Takes connections until the last call of a drain is over; then the listener
/// is closed, so that new connections go to another replica, and those that are
/// there get their GOAWAY (`waypoint-contract` 9, row 34).
pub(crate) async fn run(worker: Arc<Worker>, listener: Listener) {
    let mut backoff = Backoff::new(SHORT_OF_RESOURCES_FIRST, SHORT_OF_RESOURCES_MAX);
    let closing = worker.closing.clone();
    let mut closing = std::pin::pin!(closing.started());
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut closing => break,
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
    // Told to go any earlier, a peer that hasn't heard of another replica would
    // come back to us, and be refused by the connection that tells it to go.
    let closing = worker.closing.clone();
    let closing = std::pin::pin!(closing.started());
    let mut closing = seldom(closing);
    let mut closed = false;
    loop {
        let next = tokio::select! {
            biased;
            _ = &mut closing, if !closed => {
                connection.drain();
                closed = true;
                continue;
            }
            next = connection.next() => next,
        };
        match next {
            Some(Ok(stream)) => begin(&worker, stream, peer),
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

const SHORT_OF_RESOURCES_FIRST: Duration = Duration::from_millis(10);
const SHORT_OF_RESOURCES_MAX: Duration = Duration::from_secs(1);
