//! One request from its head to the last byte of its response: what is noted
//! on the way, and the response's body, whose end leaves the one record.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use ambit_observe::{Chance, Sampling, SpanId, Tag, Telemetry, TraceContext};
use ambit_route::{Matched, RouteKind};
use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::time::{Instant, Sleep};

use super::body::{BodyError, Replay};
use super::head::Checked;
use super::messages::Messages;
use super::reply::{Flag, GRPC_STATUS, is_grpc};
use super::server::Inner;
use super::web::Web;
use crate::config::{Frontend, Gateway, Target};
use crate::destination::Found;
use crate::dial::Sender;

/// What is known of a request so far.
pub(crate) struct Exchange {
    pub(crate) inner: Arc<Inner>,
    pub(crate) started: Instant,
    pub(crate) wall: SystemTime,
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// As the client sent it, normalised: before any rewrite.
    pub(crate) path: Option<PathAndQuery>,
    pub(crate) authority: HeaderValue,
    /// As the client sent them, less what was taken out.
    pub(crate) request_headers: HeaderMap,
    /// Kept only where somebody reads them.
    pub(crate) response_headers: Option<HeaderMap>,
    pub(crate) response_trailers: Option<HeaderMap>,
    pub(crate) context: Option<TraceContext>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) grpc: bool,
    /// The client speaks gRPC-Web.
    pub(crate) web: Option<Web>,
    pub(crate) frontend: Option<Arc<Frontend>>,
    pub(crate) route: Option<Arc<str>>,
    /// The route is a GRPCRoute.
    pub(crate) grpc_route: bool,
    pub(crate) target: Option<Arc<Target>>,
    pub(crate) endpoint: Option<Arc<ambit_upstream::Endpoint>>,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) flags: SmallVec<[Flag; 2]>,
    pub(crate) details: Option<std::borrow::Cow<'static, str>>,
    pub(crate) transport_failure: Option<String>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) grpc_status: Option<u32>,
    pub(crate) received: u64,
    /// Of gRPC.
    pub(crate) request_messages: u64,
    pub(super) response_messages: Messages,
    /// What dry-run policies would have done, for the span.
    pub(crate) dry_run: Vec<Tag>,
    pub(crate) sent: u64,
    pub(crate) attempts: u32,
    /// From the request's end, or its start, to the response's head.
    pub(crate) upstream_time: Option<Duration>,
}

impl Exchange {
    /// A request whose head has just arrived.
    pub(crate) fn new(
        inner: &Arc<Inner>,
        head: &Parts,
        started: Instant,
        wall: SystemTime,
    ) -> Self {
        Self {
            inner: Arc::clone(inner),
            started,
            wall,
            method: head.method.clone(),
            version: head.version,
            path: None,
            authority: HeaderValue::from_static(""),
            request_headers: HeaderMap::new(),
            response_headers: None,
            response_trailers: None,
            context: None,
            telemetry: Arc::clone(&inner.worker.node.config.load().gateway.telemetry),
            grpc: is_grpc(&head.headers),
            web: None,
            frontend: None,
            route: None,
            grpc_route: false,
            target: None,
            endpoint: None,
            upstream: None,
            flags: SmallVec::new(),
            details: None,
            transport_failure: None,
            status: None,
            grpc_status: None,
            received: 0,
            request_messages: 0,
            response_messages: Messages::default(),
            dry_run: Vec::new(),
            sent: 0,
            attempts: 0,
            upstream_time: None,
        }
    }

    /// The head can be used.
    pub(crate) fn checked(&mut self, checked: &Checked) {
        self.path = Some(checked.target.clone());
        self.authority = checked.authority.clone();
    }

    /// The destination is known: so is what it wants told, whether its port
    /// translates gRPC-Web, and the request's id.
    pub(crate) fn found(&mut self, gateway: &Gateway, found: &Found<'_>, head: &mut Parts) {
        self.telemetry = match found {
            Found::Service { frontend, .. } => {
                self.frontend = Some(Arc::clone(frontend));
                Arc::clone(&frontend.telemetry)
            }
            Found::Workload { .. } => Arc::clone(&gateway.telemetry),
        };
        self.web = Web::of(found, head);
        self.grpc |= self.web.is_some();
        let sampling = self.telemetry.tracing.as_ref();
        let sampling = sampling.map_or(NEVER, |tracing| tracing.sampling);
        let context = ambit_observe::begin(&mut head.headers, sampling, Chance::draw());
        self.context = Some(context);
    }

    /// Makes gRPC of gRPC-Web, and hands the trace on, as a part of the span of
    /// a try if it has one.
    pub(crate) fn outgoing(&self, headers: &mut HeaderMap, span: Option<SpanId>) {
        if let Some(web) = &self.web {
            web.request(headers);
        }
        self.trace(headers, span);
    }

    fn trace(&self, headers: &mut HeaderMap, span: Option<SpanId>) {
        let (Some(context), Some(tracing)) = (&self.context, &self.telemetry.tracing) else {
            return;
        };
        let span = span.unwrap_or(context.span);
        ambit_observe::inject(headers, tracing.propagation, context, span);
    }

    /// gRPC messages to the client so far.
    pub(crate) fn responses(&self) -> u64 {
        self.response_messages.count()
    }

    /// A try begins: where spans are exported it has one of its own, which is
    /// the backend's parent.
    pub(crate) fn try_begins(&self, headers: &mut HeaderMap) -> Option<Try> {
        let (context, tracing) = self.context.as_ref().zip(self.telemetry.tracing.as_ref())?;
        if !context.sampled {
            return None;
        }
        let span = SpanId(rand::random::<u64>().max(1));
        ambit_observe::inject(headers, tracing.propagation, context, span);
        Some(Try {
            span,
            begun: SystemTime::now(),
        })
    }

    /// It is over, with a status or without.
    pub(crate) fn try_ended(&self, one: Option<Try>, status: Result<StatusCode, &'static str>) {
        if let Some(one) = one {
            self.inner.worker.node.observer.attempt(self, &one, status);
        }
    }

    /// The rule is known.
    pub(crate) fn routed(&mut self, matched: &Matched<'_>) {
        self.route = Some(Arc::clone(&matched.route.object));
        self.grpc_route = matched.route.kind == RouteKind::Grpc;
    }

    /// Keeps what the access log may want.
    pub(crate) fn keep_response(&mut self, headers: &HeaderMap) {
        if self.telemetry.access_log.is_some() {
            self.response_headers = Some(headers.clone());
        }
    }

    /// A gRPC status in a head.
    pub(crate) fn note_grpc(&mut self, headers: &HeaderMap) {
        let status = headers.get(GRPC_STATUS);
        let status = status.and_then(|value| value.to_str().ok());
        if let Some(status) = status.and_then(|value| value.parse().ok()) {
            self.grpc_status = Some(status);
        }
    }

    pub(crate) fn flag(&mut self, flag: Flag) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
    }

    /// Leaves the record.
    pub(crate) fn finish(self) {
        let inner = Arc::clone(&self.inner);
        inner.worker.node.observer.request(&self);
    }
}

/// One try's span.
pub(crate) struct Try {
    pub(crate) span: SpanId,
    pub(crate) begun: SystemTime,
}

/// Where nobody traces.
const NEVER: Sampling = Sampling {
    percent: 0.0,
    by_request_id: false,
};

/// A response that streams from a backend.
pub(crate) struct Streaming {
    incoming: Incoming,
    exchange: Option<Box<Exchange>>,
    held: Option<Held>,
    deadline: Option<Pin<Box<Sleep>>>,
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
}

/// What is kept until the response has ended.
pub(crate) struct Held {
    /// Gives the connection back, or the place on it.
    pub(crate) sender: Option<Sender>,
    pub(crate) give_back: Option<GiveBack>,
    pub(crate) replay: Option<Replay>,
    /// The endpoint's active request and the places in the limits.
    pub(crate) guards: Guards,
}

impl Held {
    /// What is released with the end of an upgraded connection instead.
    pub(crate) fn take_guards(&mut self) -> Guards {
        Guards {
            pick: self.guards.pick.take(),
            request: self.guards.request.take(),
        }
    }
}

/// Where an HTTP/1 connection goes after its response.
pub(crate) struct GiveBack {
    pub(crate) key: crate::dial::ConnKey,
    pub(crate) limits: crate::dial::PoolLimits,
}

/// Released with the response's end.
pub(crate) struct Guards {
    pub(crate) pick: Option<ambit_upstream::Pick>,
    pub(crate) request: Option<ambit_upstream::Permit>,
}

impl Streaming {
    pub(crate) fn new(incoming: Incoming, exchange: Box<Exchange>, held: Held) -> Self {
        Self {
            incoming,
            exchange: Some(exchange),
            held: Some(held),
            deadline: None,
            idle: None,
        }
    }

    /// The whole has to be over then.
    pub(crate) fn until(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
    }

    /// No longer than this without a byte.
    pub(crate) fn idle(&mut self, idle: Option<Duration>) {
        self.idle = idle.map(|idle| (idle, Box::pin(tokio::time::sleep(idle))));
    }

    /// Ends a response without a body at once.
    pub(crate) fn finish_now(mut self) {
        self.finish(None);
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.on_frame(&frame);
                if self.incoming.is_end_stream() {
                    self.finish(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.finish(None);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let flag = if error.is_timeout() {
                    Flag::Timeout
                } else if error.is_incomplete_message() || error.is_closed() {
                    Flag::UpstreamClosed
                } else {
                    Flag::UpstreamReset
                };
                self.finish(Some(flag));
                Poll::Ready(Some(Err(BodyError::Http(error))))
            }
            Poll::Pending if self.is_late(cx) => {
                self.finish(Some(Flag::Timeout));
                Poll::Ready(Some(Err(BodyError::Timeout)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let late =
            |sleep: &mut Pin<Box<Sleep>>, cx: &mut Context<'_>| sleep.as_mut().poll(cx).is_ready();
        self.deadline.as_mut().is_some_and(|at| late(at, cx))
            || self.idle.as_mut().is_some_and(|(_, at)| late(at, cx))
    }

    fn on_frame(&mut self, frame: &Frame<Bytes>) {
        if let Some((idle, sleep)) = &mut self.idle {
            sleep.as_mut().reset(Instant::now() + *idle);
        }
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        if let Some(data) = frame.data_ref() {
            exchange.sent += data.len() as u64;
            if exchange.grpc {
                exchange.response_messages.pass(data);
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            let status = trailers.get(GRPC_STATUS).and_then(|v| v.to_str().ok());
            exchange.grpc_status = status.and_then(|v| v.parse().ok());
            exchange.response_trailers = Some(trailers.clone());
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    fn finish(&mut self, failed: Option<Flag>) {
        let held = self.held.take();
        let Some(mut exchange) = self.exchange.take() else {
            return;
        };
        if let Some(flag) = failed {
            exchange.flag(flag);
        }
        if let Some(held) = held {
            if let Some(replay) = &held.replay {
                exchange.received = replay.received();
                exchange.request_messages = replay.messages();
            }
            if let (None, Some(Sender::Http1(connection)), Some(back)) =
                (failed, held.sender, held.give_back)
            {
                let conns = &exchange.inner.worker.conns;
                conns.give_back(&back.key, connection, back.limits);
            }
        }
        exchange.finish();
    }
}

impl Drop for Streaming {
    /// Nobody reads any more: the client is gone.
    fn drop(&mut self) {
        if self.exchange.is_some() {
            let flag = Flag::DownstreamClosed;
            self.finish(Some(flag));
        }
    }
}
