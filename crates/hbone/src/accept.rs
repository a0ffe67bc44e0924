//! Accepted HBONE connections and the tunnels that peers ask for on them.

use std::sync::Arc;

use ambit_identity::{Svid, TlsFault, classify_io, peer_identity};
use ambit_types::{SpiffeId, wire as names};
use http::{Method, Request, Response, StatusCode};
use rustls::server::UnbufferedServerConnection;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::authority::Authority;
use crate::baggage::Baggage;
use crate::config::HboneConfig;
use crate::engine::{DriverEnd, Responder, ServerDriver, server};
use crate::error::{AcceptError, ConnectionError, RequestError, StreamError};
use crate::forwarded::Forwarded;
use crate::gate::HandshakeGate;
use crate::handshake::{Side, accept};
use crate::request::put;
use crate::trace::TraceParent;
use crate::tunnel::Tunnel;

/// A connection of an authenticated peer. Its tunnels live on it: it has to be
/// polled with [`next`](Self::next) until that says it is over.
pub struct ServerConnection {
    driver: ServerDriver<UnbufferedServerConnection>,
    peer: Arc<SpiffeId>,
    over: bool,
    failure: Option<ConnectionError>,
}

/// Makes an HBONE connection of an accepted socket: TLS with a client
/// certificate of our trust domain, then HTTP/2.
///
/// # Errors
/// See [`AcceptError`]; the socket is closed.
///
/// # Cancel safety
/// Dropping the future closes the socket.
pub async fn serve_tls(
    stream: TcpStream,
    svid: &Svid,
    config: &HboneConfig,
    gate: &HandshakeGate,
) -> Result<ServerConnection, AcceptError> {
    let mut slot = gate.enter();
    let handshake = timeout(config.handshake_timeout, handshake(stream, svid, config));
    tokio::select! {
        biased;
        () = slot.cut() => Err(AcceptError::Crowded),
        done = handshake => done.unwrap_or(Err(AcceptError::Timeout)),
    }
}

async fn handshake(
    stream: TcpStream,
    svid: &Svid,
    config: &HboneConfig,
) -> Result<ServerConnection, AcceptError> {
    let wire = accept(stream, svid.server_config_for(&config.trust_domains))
        .await
        .map_err(|error| AcceptError::Tls {
            fault: classify_io(&error),
        })?;
    let certificates = wire.tls().common().peer_certificates();
    let peer = certificates
        .and_then(peer_identity)
        .ok_or(AcceptError::Tls {
            fault: TlsFault::NotSpiffe,
        })?;
    let driver = server(wire, config)
        .await
        .map_err(|source| AcceptError::Http2 { source })?;
    Ok(ServerConnection {
        driver,
        peer: Arc::new(peer),
        over: false,
        failure: None,
    })
}

impl ServerConnection {
    /// Whom the client proved to be.
    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// The next tunnel that the client asks for, `None` when the connection is
    /// over. Meanwhile this drives the connection: bytes of open tunnels, pings,
    /// windows. An error is a request that has been refused already.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost, but nothing moves until the next call.
    pub async fn next(&mut self) -> Option<Result<InboundStream, RequestError>> {
        if self.over {
            return None;
        }
        let end = match std::future::poll_fn(|cx| self.driver.poll_request(cx)).await {
            Ok((head, responder)) => return Some(self.receive(&head, responder)),
            Err(end) => end,
        };
        self.over = true;
        self.failure = match end {
            DriverEnd::Closed => None,
            DriverEnd::Silent => Some(ConnectionError::PingTimeout),
            DriverEnd::Failed(error) => Some(ConnectionError::Io(error)),
        };
        None
    }

    /// How the connection failed, after [`next`](Self::next) gave `None`.
    pub fn failure(&self) -> Option<&ConnectionError> {
        self.failure.as_ref()
    }

    /// Says GOAWAY. Open tunnels go on, and a request that the client sent
    /// before it can have heard is taken (RFC 9113 6.8: not every client tries
    /// again what is refused); `next` gives `None` when the last tunnel has
    /// ended. Dropping the connection cuts them.
    pub fn drain(&mut self) {
        self.driver.go_away();
    }

    fn receive(
        &self,
        head: &Request<()>,
        responder: Responder,
    ) -> Result<InboundStream, RequestError> {
        if head.method() != Method::CONNECT {
            let method = head.method().clone();
            reject(responder, StatusCode::BAD_REQUEST);
            return Err(RequestError::Method { method });
        }
        let text = head.uri().authority().map_or("", |a| a.as_str());
        let Ok(authority) = text.parse() else {
            let authority = text.to_owned();
            reject(responder, StatusCode::BAD_REQUEST);
            return Err(RequestError::Authority { authority });
        };
        let headers = head.headers();
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        Ok(InboundStream {
            authority,
            baggage: Baggage::from_headers(headers),
            forwarded: text(names::FORWARDED).and_then(|value| value.parse().ok()),
            traceparent: text(names::TRACEPARENT).and_then(|value| value.parse().ok()),
            forwarded_network: text(names::X_FORWARDED_NETWORK).map(str::to_owned),
            peer: Arc::clone(&self.peer),
            responder,
        })
    }
}

/// A CONNECT that waits for its answer. Dropping it resets the stream.
pub struct InboundStream {
    /// The target.
    pub authority: Authority,
    /// What the client says about its workload.
    pub baggage: Option<Baggage>,
    /// Whom the client says it speaks for.
    pub forwarded: Option<Forwarded>,
    /// The client's trace.
    pub traceparent: Option<TraceParent>,
    /// `x-forwarded-network`.
    pub forwarded_network: Option<String>,
    peer: Arc<SpiffeId>,
    responder: Responder,
}

impl InboundStream {
    /// Whom the client proved to be.
    pub fn peer(&self) -> &Arc<SpiffeId> {
        &self.peer
    }

    /// Answers 200, with the destination workload's baggage if there is any.
    ///
    /// # Errors
    /// The client is gone, or the baggage can't travel in a header.
    pub fn accept(self, baggage: Option<&str>) -> Result<Tunnel, StreamError> {
        let mut response = Response::new(());
        put(
            response.headers_mut(),
            names::BAGGAGE,
            baggage.unwrap_or_default(),
        )?;
        let stream = self.responder.accept(response)?;
        Ok(Tunnel::accepted(stream, self.peer))
    }

    /// Answers with another status, without a body, and ends the stream. A
    /// number that is no status becomes 503.
    pub fn reject(self, status: u16) {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        reject(self.responder, status);
    }
}

fn reject(responder: Responder, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    responder.reject(response);
}
