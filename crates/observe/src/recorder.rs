//! The requests of the last moments, for `ambit tap` and `observe`: a ring that
//! keeps summaries, and subscribers with a filter. Nobody who watches can slow a
//! request down: a subscriber that doesn't keep up loses entries and is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use ambit_telemetry::{EndLabels, ServiceLabels};
use ambit_types::SpiffeId;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast;

use crate::expr::Expression;
use crate::flags::ResponseFlags;
use crate::propagate::TraceId;
use crate::record::{Record, RequestProtocol};

/// Entries that a slow subscriber can lag behind.
const LAG: usize = 256;
/// Most subscribers at once.
const MAX_SUBSCRIBERS: usize = 16;
/// Longest text of an entry in bytes.
const MAX_TEXT: usize = 512;

/// What is kept of a request. No header values and no query: they can be secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Unix milliseconds.
    pub start: u64,
    /// Milliseconds.
    pub duration: u64,
    /// `http`, `grpc` or `tcp`.
    pub protocol: &'static str,
    /// Method.
    pub method: String,
    /// Without its query.
    pub path: String,
    /// `Host` or `:authority`.
    pub authority: String,
    /// 0 without an answer.
    pub status: u16,
    /// `grpc-status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u16>,
    /// Response flags.
    pub flags: String,
    /// Response code details.
    pub details: String,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// The client's identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_principal: Option<String>,
    /// The client's workload.
    pub source_workload: String,
    /// Its namespace.
    pub source_namespace: String,
    /// The chosen endpoint's workload.
    pub destination_workload: String,
    /// Its namespace.
    pub destination_namespace: String,
    /// The service that was routed to.
    pub destination_service: String,
    /// The chosen endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_host: Option<String>,
    /// Route and rule.
    pub route: String,
    /// The request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

impl From<&Record<'_>> for Summary {
    fn from(record: &Record<'_>) -> Self {
        Self::from(&Kept::new(record, String::new()))
    }
}

/// Texts of a [`Kept`], in their order.
#[derive(Clone, Copy)]
enum Part {
    Method,
    Path,
    Authority,
    Details,
    Route,
    RequestId,
}

/// A request as the ring holds it. Most are never looked at, so nothing is
/// made into text before somebody does.
#[derive(Debug, Clone)]
struct Kept {
    start: SystemTime,
    duration: Duration,
    protocol: RequestProtocol,
    status: u16,
    grpc_status: Option<u16>,
    flags: ResponseFlags,
    bytes_received: u64,
    bytes_sent: u64,
    peer: Option<SpiffeId>,
    source: Arc<EndLabels>,
    destination: Arc<EndLabels>,
    service: Option<Arc<ServiceLabels>>,
    upstream: Option<SocketAddr>,
    trace: Option<TraceId>,
    /// The parts one behind the other.
    text: String,
    /// Where each part ends.
    ends: [usize; 6],
    has_id: bool,
}

impl Kept {
    /// Reuses the allocation of `text`.
    fn new(record: &Record<'_>, mut text: String) -> Self {
        text.clear();
        let id = record.request_header("x-request-id");
        let path = record.path.split('?').next().unwrap_or_default();
        let parts = [
            record.method,
            path,
            record.authority,
            record.details,
            record.route,
            id.unwrap_or_default(),
        ];
        let ends = parts.map(|part| {
            text.push_str(cut(part));
            text.len()
        });
        Self {
            start: record.start,
            duration: record.duration,
            protocol: record.protocol,
            status: record.status,
            grpc_status: record.grpc_status,
            flags: record.flags,
            bytes_received: record.bytes_received,
            bytes_sent: record.bytes_sent,
            peer: record.peer.cloned(),
            source: Arc::clone(&record.ends.source),
            destination: Arc::clone(&record.ends.destination),
            service: record.ends.service.clone(),
            upstream: record.upstream_host,
            trace: record.trace_id,
            text,
            ends,
            has_id: id.is_some(),
        }
    }

    fn part(&self, part: Part) -> String {
        let at = part as usize;
        let end = |at: usize| self.ends.get(at).copied().unwrap_or_default();
        let start = at.checked_sub(1).map_or(0, end);
        self.text.get(start..end(at)).unwrap_or_default().to_owned()
    }
}

impl From<&Kept> for Summary {
    fn from(kept: &Kept) -> Self {
        let since = kept.start.duration_since(SystemTime::UNIX_EPOCH);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (source, destination) = (&kept.source, &kept.destination);
        let service = kept.service.as_ref();
        Self {
            start: millis(since.unwrap_or_default()),
            duration: millis(kept.duration),
            protocol: kept.protocol.as_str(),
            method: kept.part(Part::Method),
            path: kept.part(Part::Path),
            authority: kept.part(Part::Authority),
            status: kept.status,
            grpc_status: kept.grpc_status,
            flags: kept.flags.to_string(),
            details: kept.part(Part::Details),
            bytes_received: kept.bytes_received,
            bytes_sent: kept.bytes_sent,
            source_principal: kept.peer.as_ref().map(ToString::to_string),
            source_workload: source.workload.to_string(),
            source_namespace: source.namespace.to_string(),
            destination_workload: destination.workload.to_string(),
            destination_namespace: destination.namespace.to_string(),
            destination_service: service.map_or_else(String::new, |s| s.hostname.to_string()),
            upstream_host: kept.upstream.map(|host| host.to_string()),
            route: kept.part(Part::Route),
            request_id: kept.has_id.then(|| kept.part(Part::RequestId)),
            trace_id: kept.trace.map(|id| id.to_string()),
        }
    }
}

/// Keeps and distributes summaries. Clones share them.
#[derive(Debug, Clone)]
pub struct Recorder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    capacity: usize,
    ring: Mutex<VecDeque<Kept>>,
    subscribers: Mutex<Vec<Subscriber>>,
    /// Their number, to be asked without the lock.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Subscriber {
    filter: Option<Expression>,
    sender: broadcast::Sender<Arc<Summary>>,
}

/// A stream of summaries.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Arc<Summary>>,
}

/// One entry of a stream.
#[derive(Debug, Clone)]
pub enum Observed {
    /// A request.
    Request(Arc<Summary>),
    /// So many were lost because the reader was slow.
    Lost(u64),
}

/// There are as many subscribers as there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_SUBSCRIBERS} subscribers watch already")]
pub struct TooManySubscribers;

impl Recorder {
    /// Keeps the last `capacity` requests; 0 keeps none and only distributes.
    pub fn new(capacity: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                capacity,
                ring: Mutex::default(),
                subscribers: Mutex::default(),
                count: AtomicUsize::new(0),
            }),
        }
    }

    /// Records a request.
    pub fn record(&self, record: &Record<'_>) {
        let watched = self.inner.count.load(Ordering::Relaxed) > 0;
        if self.inner.capacity == 0 && !watched {
            return;
        }
        if watched {
            let summary = Arc::new(Summary::from(record));
            let mut subscribers = self.inner.subscribers.lock();
            subscribers.retain(|one| {
                one.sender.receiver_count() > 0 && {
                    if one.filter.as_ref().is_none_or(|f| f.holds(record)) {
                        // Nobody listens any more: gone next time.
                        let _ = one.sender.send(Arc::clone(&summary));
                    }
                    true
                }
            });
            self.inner.count.store(subscribers.len(), Ordering::Relaxed);
        }
        if self.inner.capacity > 0 {
            let mut ring = self.inner.ring.lock();
            let mut text = String::new();
            if ring.len() >= self.inner.capacity
                && let Some(oldest) = ring.pop_front()
            {
                text = oldest.text;
            }
            ring.push_back(Kept::new(record, text));
        }
    }

    /// The last requests, the oldest first.
    pub fn recent(&self) -> Vec<Arc<Summary>> {
        // Made into text without the lock: requests wait for it.
        let kept: Vec<Kept> = self.inner.ring.lock().iter().cloned().collect();
        kept.iter().map(|one| Arc::new(one.into())).collect()
    }

    /// Watches what comes from now on; the filter decides what is sent.
    ///
    /// # Errors
    /// If there are too many subscribers.
    pub fn subscribe(
        &self,
        filter: Option<Expression>,
    ) -> Result<Subscription, TooManySubscribers> {
        let mut subscribers = self.inner.subscribers.lock();
        subscribers.retain(|one| one.sender.receiver_count() > 0);
        if subscribers.len() >= MAX_SUBSCRIBERS {
            return Err(TooManySubscribers);
        }
        let (sender, receiver) = broadcast::channel(LAG);
        subscribers.push(Subscriber { filter, sender });
        self.inner.count.store(subscribers.len(), Ordering::Relaxed);
        Ok(Subscription { receiver })
    }
}

impl Subscription {
    /// The next entry; none when the recorder is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Observed> {
        match self.receiver.recv().await {
            Ok(summary) => Some(Observed::Request(summary)),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(Observed::Lost(lost)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests;
