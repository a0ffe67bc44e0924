//! One request from its head to the last byte of its response: what is noted
//! on the way, and the response's body, whose end leaves the one record.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::time::{Instant, Sleep};

use super::body::{BodyError, Replay};
use super::reply::{Flag, GRPC_STATUS};
use super::server::Inner;
use crate::config::{Frontend, Target};
use crate::dial::Sender;

/// What is known of a request so far.
pub(crate) struct Exchange {
    pub(crate) inner: Arc<Inner>,
    pub(crate) started: Instant,
    pub(crate) wall: SystemTime,
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// As the client sent it, normalised: before any rewrite.
    pub(crate) path: String,
    pub(crate) authority: HeaderValue,
    pub(crate) user_agent: Option<HeaderValue>,
    pub(crate) forwarded_for: Option<HeaderValue>,
    pub(crate) request_id: Option<HeaderValue>,
    pub(crate) grpc: bool,
    pub(crate) frontend: Option<Arc<Frontend>>,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) target: Option<Arc<Target>>,
    pub(crate) endpoint: Option<Arc<ambit_upstream::Endpoint>>,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) flags: SmallVec<[Flag; 2]>,
    pub(crate) details: Option<std::borrow::Cow<'static, str>>,
    pub(crate) transport_failure: Option<String>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) grpc_status: Option<u32>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) attempts: u32,
    /// From the request's end, or its start, to the response's head.
    pub(crate) upstream_time: Option<Duration>,
}

impl Exchange {
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
        } else if let Some(trailers) = frame.trailers_ref() {
            let status = trailers.get(GRPC_STATUS).and_then(|v| v.to_str().ok());
            exchange.grpc_status = status.and_then(|v| v.parse().ok());
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
