//! The async shell of the server: one task a stream, under a tower service.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::codec::{BufferSettings, Streaming};
use tonic::server::NamedService;
use tonic::{Extensions, Status};
use tonic_prost::ProstDecoder;
use tracing::{debug, info, warn};

use ambit_proto::discovery::DeltaDiscoveryRequest;
use ambit_runtime::{Scope, sleep_maybe};

use super::body::{Outbox, Outgoing, StreamBody};
use super::peer::{Admission, NodeInfo, ServerObserver};
use super::publish::Publisher;
use super::status::{Connection, ConnectionStatus, Connections};
use super::stream::{Heard, Next, Stream};

/// The ADS service; add it to a tonic server. Clones share their streams.
#[derive(Clone)]
pub struct AdsServer {
    inner: Arc<Inner>,
}

struct Inner {
    publisher: Publisher,
    admission: Arc<dyn Admission>,
    observer: Arc<dyn ServerObserver>,
    connections: Arc<Connections>,
    scope: Scope,
}

impl AdsServer {
    /// Serves what the publisher publishes. Streams are tasks of `scope`:
    /// cancelling it ends them cleanly.
    pub fn new(
        publisher: Publisher,
        admission: Arc<dyn Admission>,
        observer: Arc<dyn ServerObserver>,
        scope: &Scope,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                publisher,
                admission,
                observer,
                connections: Arc::default(),
                scope: scope.child("ads"),
            }),
        }
    }

    /// The streams that are open now.
    pub fn connections(&self) -> Vec<ConnectionStatus> {
        self.inner.connections.all()
    }
}

impl NamedService for AdsServer {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl tower::Service<Request<Body>> for AdsServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != DELTA_METHOD {
            return ready(Ok(
                Status::unimplemented("only delta ADS is served").into_http()
            ));
        }
        let (parts, body) = request.into_parts();
        let decoder = ProstDecoder::new(BufferSettings::default());
        let requests = Streaming::new_request(decoder, body, None, Some(MAX_REQUEST));
        let (outbox, body) = StreamBody::new();
        let inner = Arc::clone(&self.inner);
        self.inner.scope.spawn("ads stream", async move {
            let outcome = inner.converse(parts.extensions, requests, &outbox).await;
            if let Err(status) = outcome {
                debug!(code = ?status.code(), message = status.message(), "stream ended");
                // A client that doesn't read misses its status: nothing is lost.
                let _ = timeout(FAREWELL, outbox.send(Err(status))).await;
            }
        });
        let mut response = Response::new(Body::new(body));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, grpc);
        ready(Ok(response))
    }
}

type Requests = Streaming<DeltaDiscoveryRequest>;

impl Inner {
    /// A stream from its first request to its end.
    async fn converse(
        &self,
        call: Extensions,
        mut requests: Requests,
        outbox: &Outbox,
    ) -> Result<(), Status> {
        let first = timeout(FIRST_REQUEST, requests.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no first request"))??;
        let Some(mut first) = first else {
            return Ok(());
        };
        let node = NodeInfo::parse(first.node.take())?;
        let admitted = self.admission.admit(&call, &node)?;
        let Some((snapshot, publications)) = self.publisher.follow() else {
            return Err(Status::unavailable("the configuration isn't loaded yet"));
        };
        let connection = self
            .connections
            .enter(Arc::clone(&node.id), &admitted, MAX_STREAMS)
            .ok_or_else(|| Status::resource_exhausted("too many streams"))?;
        let home = node.metadata("NODE_NAME").map(Arc::from);
        let (caller, audience) = (&admitted.caller, admitted.audience.as_deref());
        info!(node = %node.id, %caller, audience, connection = connection.id, "stream opened");
        let stream = Stream::new(snapshot, home, admitted, rand::random(), Instant::now());
        self.observer.opened(&node);
        let mut live = Live {
            inner: self,
            node: &node,
            connection,
            stream,
        };
        let ended = live.hear(&first);
        let ended = match ended {
            Ok(()) => live.run(requests, publications, outbox).await,
            Err(status) => Err(status),
        };
        self.observer.closed(&node);
        info!(node = %node.id, connection = live.connection.id, "stream closed");
        ended
    }
}

struct Live<'a> {
    inner: &'a Inner,
    node: &'a NodeInfo,
    connection: Connection,
    stream: Stream,
}

type Publications = tokio::sync::broadcast::Receiver<super::publish::Publication>;

impl Live<'_> {
    async fn run(
        &mut self,
        mut requests: Requests,
        mut publications: Publications,
        outbox: &Outbox,
    ) -> Result<(), Status> {
        let mut sending: Option<(Outgoing, Instant)> = None;
        loop {
            let wake = match &sending {
                Some((_, since)) => Some(*since + WRITE_PATIENCE),
                None => self.advance(&mut sending),
            };
            tokio::select! {
                request = requests.next() => match request {
                    Some(request) => self.hear(&request?)?,
                    None => return Ok(()),
                },
                publication = publications.recv() => match publication {
                    Ok(publication) => self.stream.on_publication(&publication)?,
                    Err(RecvError::Lagged(_)) => return Err(self.behind()),
                    Err(RecvError::Closed) => return Ok(()),
                },
                permit = outbox.reserve(), if sending.is_some() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some((outgoing, _)) = sending.take() {
                        self.pushed(&outgoing);
                        permit.send(Ok(outgoing));
                    }
                }
                () = sleep_maybe(wake) => if sending.is_some() {
                    self.inner.observer.write_timeout();
                    return Err(Status::unavailable("the client doesn't read"));
                },
            }
        }
    }

    /// Takes the next response, if there is one; else says when to look again.
    fn advance(&mut self, sending: &mut Option<(Outgoing, Instant)>) -> Option<Instant> {
        let now = Instant::now();
        let (next, converged) = self.stream.next(now);
        if let Some(after) = converged {
            self.inner.observer.converged(after);
        }
        self.connection.update(self.stream.status());
        match next {
            Next::Send(outgoing) => {
                *sending = Some((outgoing, now));
                Some(now + WRITE_PATIENCE)
            }
            Next::Idle(until) => until,
        }
    }

    fn hear(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        let type_url = request.type_url.as_str();
        match self.stream.on_request(request)? {
            Heard::Ack | Heard::Subscription => {}
            Heard::Nack(reason) => {
                let resource = first_rejected(&reason);
                warn!(node = %self.node.id, type_url, resource, reason, "resources rejected by the node");
                self.inner.observer.rejected(self.node, type_url, resource);
            }
            Heard::StaleNonce => {
                debug!(node = %self.node.id, type_url, "stale nonce");
                self.inner.observer.stale_nonce(type_url);
            }
        }
        Ok(())
    }

    fn pushed(&self, outgoing: &Outgoing) {
        let count = outgoing.resources.as_slice().len();
        let bytes = outgoing.encoded_len();
        debug!(
            node = %self.node.id,
            type_url = %outgoing.type_url,
            changed = count,
            removed = outgoing.removed.len(),
            "response"
        );
        self.inner.observer.pushed(&outgoing.type_url, count, bytes);
    }

    fn behind(&self) -> Status {
        self.inner.observer.fell_behind();
        Status::unavailable("too far behind, start over")
    }
}

/// A rejection is `NAME: WHY; NAME: WHY` (`ztunnel-contract` 4.1). The name of
/// a client that says something else is empty.
fn first_rejected(reason: &str) -> &str {
    reason.split_once(": ").map_or("", |(name, _)| name)
}

const DELTA_METHOD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// A request carries a name and a version for each resource that a client
/// holds: 4 MiB, as upstream takes, end at some fifty thousand workloads.
const MAX_REQUEST: usize = 16 << 20;
const MAX_STREAMS: usize = 20_000;
const FIRST_REQUEST: Duration = Duration::from_secs(10);
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
const FAREWELL: Duration = Duration::from_secs(5);
