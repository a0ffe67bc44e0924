//! The HTTP server of one inner connection (`waypoint-contract` 1.5, 7.2).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::Tunnel;
use ambit_net::{Chunk, DuplexIo};
use ambit_runtime::seldom;
use ambit_telemetry::EndLabels;
use ambit_types::SpiffeId;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::debug;

use super::activity::{Active, Activity, Body};
use super::guard::Guard;
use super::parting::Parting;
use super::request;
use crate::config::Limits;
use crate::destination::Destination;
use crate::node::Worker;
use crate::protocol::Spoken;
use crate::spawn::OnScope;

/// What all requests of an inner connection have in common. The destination is
/// a matter of the connection; routes and policies are looked up per request.
pub(crate) struct Inner {
    pub(crate) worker: Arc<Worker>,
    /// Whom the outer TLS proved.
    pub(crate) peer: Arc<SpiffeId>,
    /// The TCP peer of the HBONE port.
    pub(crate) source: SocketAddr,
    /// The address that the client meant.
    pub(crate) dialled: SocketAddr,
    pub(crate) destination: Destination,
    pub(crate) spoken: Spoken,
    /// Of a ClientHello that is passed through.
    pub(crate) sni: Option<Box<str>>,
    /// Of the client, for metrics.
    pub(crate) labels: Arc<EndLabels>,
}

/// Serves an inner connection to its end.
pub(crate) async fn serve(inner: Arc<Inner>, tunnel: Tunnel, read: Option<Chunk>) {
    let io = DuplexIo::with_read(tunnel, read);
    let worker = Arc::clone(&inner.worker);
    let io = Parting::new(io, worker.scope.clone());
    let limits = worker.node.config.load().gateway.limits;
    let drain = worker.drain.clone();
    let draining = pin!(drain.started());
    let mut draining = seldom(draining);
    let spoken = inner.spoken;
    let activity = Arc::new(Activity::default());
    let noted = Arc::clone(&activity);
    let stalled = pin!(activity.stalled(limits.connection_idle, &worker.node.memory));
    let mut stalled = seldom(stalled);
    let idle = pin!(activity.idle(limits.connection_idle));
    let mut idle = seldom(idle);
    let service = service_fn(move |request| handle(Arc::clone(&inner), noted.begin(), request));
    let ended = if spoken == Spoken::Http2 {
        let connection = engine(&worker, &limits).serve_connection(TokioIo::new(io), service);
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            _ = &mut draining => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = &mut stalled => {
                debug!("inner connection given up: the client takes nothing");
                return;
            }
            () = &mut idle => {
                // GOAWAY; a request that is on its way is still answered.
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = activity.idle(Some(GOODBYE)) => Ok(()),
                }
            }
        }
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // That would be a timer for each request; idle connections are
            // ended below, and the guard bounds heads that have begun.
            .header_read_timeout(None)
            .max_headers(limits.header_count)
            .max_buf_size(buffer(limits.header_bytes))
            .serve_connection(TokioIo::new(Guard::new(io, limits.header_timeout)), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        // Ended at once, an idle connection could meet a request on its way.
        // The next answer says `connection: close`; this is for who is silent.
        let goodbye = async {
            draining.await;
            activity.idle(Some(GOODBYE)).await;
        };
        let goodbye = pin!(goodbye);
        let mut goodbye = seldom(goodbye);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = &mut goodbye => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = &mut idle => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = &mut stalled => {
                debug!("inner connection given up: the client takes nothing");
                return;
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "inner connection ended");
    }
}

/// HTTP/2 within its bounds.
fn engine(worker: &Worker, limits: &Limits) -> http2::Builder<OnScope> {
    let mut builder = http2::Builder::new(OnScope(worker.scope.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.header_bytes)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    builder
}

async fn handle(
    inner: Arc<Inner>,
    active: Active,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let http1 = request.version() == Version::HTTP_11;
    let worker = Arc::clone(&inner.worker);
    let mut response = request::handle(inner, request).await;
    if http1
        && worker.drain.mode().is_some()
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    Ok(response.map(|body| Body::new(body, active)))
}

/// The read buffer has to hold a whole head; a body passes through it.
fn buffer(header_bytes: u32) -> usize {
    usize::try_from(header_bytes)
        .unwrap_or(usize::MAX)
        .max(MIN_BUFFER)
}

/// hyper's minimum.
const MIN_BUFFER: usize = 8192;
/// Resets of streams that nobody looked at yet (CVE-2023-44487), and of those
/// that we reset for a peer's fault (CVE-2025-8671).
const PENDING_RESETS: usize = 20;
const LOCAL_RESETS: usize = 1024;
/// Unread bytes that one request, and one connection, may hold.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
const SEND_BUFFER: usize = 256 << 10;
const PING: Duration = Duration::from_secs(30);
/// Between our GOAWAY on an idle connection and its end.
const GOODBYE: Duration = Duration::from_secs(1);
const PONG: Duration = Duration::from_secs(20);
