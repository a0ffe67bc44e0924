//! Spans (`waypoint-contract` 6.4) and their way to an OTLP collector: a bounded
//! queue, batches, one task. A full queue drops spans and counts them; requests
//! never wait for a collector.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ambit_runtime::CancellationToken;
use bytes::Bytes;
use opentelemetry::trace::{
    SpanContext, SpanId as OtelSpanId, SpanKind, Status, TraceFlags, TraceId as OtelTraceId,
    TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::Channel;

use crate::flags::ResponseFlag;
use crate::propagate::{SpanId, TraceContext};
use crate::record::{Record, RequestProtocol};

/// Spans that wait for export.
const QUEUE: usize = 2_048;
/// Spans of one export.
const BATCH: usize = 512;
/// Longest wait for a batch to fill.
const LINGER: Duration = Duration::from_secs(1);

/// A tag with its value.
pub type Tag = (Cow<'static, str>, String);

/// Istio's tags of both ends and of the proxy itself (6.4); made once a frontend.
#[derive(Debug, Clone, Default)]
pub struct IstioTags {
    /// The proxy's, for example `istio.mesh_id`.
    pub own: Vec<(&'static str, String)>,
}

/// The server span of a request: name `HOST:PORT/PATH*`, tags of 6.4.
pub fn server_span(
    record: &Record<'_>,
    context: &TraceContext,
    operation: &str,
    istio: Option<&IstioTags>,
    custom: &[Tag],
) -> SpanData {
    let mut attributes = http_tags(record);
    if let Some(istio) = istio {
        let own = istio.own.iter();
        attributes.extend(own.map(|(name, value)| KeyValue::new(*name, value.clone())));
        attributes.extend(end_tags("source", record));
        attributes.extend(end_tags("destination", record));
    }
    for (name, value) in custom {
        attributes.push(KeyValue::new(name.clone().into_owned(), value.clone()));
    }
    let ids = Ids {
        span: context.span,
        parent: context.parent,
        remote: true,
    };
    let time = (record.start, record.start + record.duration);
    span(
        context,
        ids,
        SpanKind::Server,
        operation,
        time,
        attributes,
        failed(record),
    )
}

/// The client span of one upstream try.
pub fn client_span(
    context: &TraceContext,
    span_id: SpanId,
    operation: &str,
    time: (SystemTime, SystemTime),
    tags: &[(&'static str, String)],
    error: Option<&str>,
) -> SpanData {
    let tags = tags.iter();
    let attributes = tags.map(|(name, value)| KeyValue::new(*name, value.clone()));
    let ids = Ids {
        span: span_id,
        parent: Some(context.span),
        remote: false,
    };
    let attributes = attributes.collect();
    let error = error.map(str::to_owned);
    span(
        context,
        ids,
        SpanKind::Client,
        operation,
        time,
        attributes,
        error,
    )
}

struct Ids {
    span: SpanId,
    parent: Option<SpanId>,
    remote: bool,
}

#[expect(clippy::too_many_arguments, reason = "the parts of one wire message")]
fn span(
    context: &TraceContext,
    ids: Ids,
    kind: SpanKind,
    name: &str,
    (start_time, end_time): (SystemTime, SystemTime),
    attributes: Vec<KeyValue>,
    error: Option<String>,
) -> SpanData {
    let otel = |id: SpanId| OtelSpanId::from_bytes(id.0.to_be_bytes());
    SpanData {
        span_context: SpanContext::new(
            OtelTraceId::from_bytes(context.trace.0.to_be_bytes()),
            otel(ids.span),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        ),
        parent_span_id: ids.parent.map_or(OtelSpanId::INVALID, otel),
        parent_span_is_remote: ids.remote && ids.parent.is_some(),
        span_kind: kind,
        name: name.to_owned().into(),
        start_time,
        end_time,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: error.map_or(Status::Unset, Status::error),
        instrumentation_scope: InstrumentationScope::builder("ambit-waypoint").build(),
    }
}

fn failed(record: &Record<'_>) -> Option<String> {
    let reset = record.status == 0 && record.protocol != RequestProtocol::Tcp;
    let failed =
        record.status >= 500 || reset || record.flags.contains(ResponseFlag::FaultInjected);
    failed.then(|| record.details.to_owned())
}

fn http_tags(record: &Record<'_>) -> Vec<KeyValue> {
    let header = |name: &str| record.request_header(name).unwrap_or("-").to_owned();
    let path = record.original_path();
    let scheme = record.request_header("x-forwarded-proto").unwrap_or("http");
    let mut tags = vec![
        KeyValue::new("component", "proxy"),
        KeyValue::new("http.method", record.method.to_owned()),
        KeyValue::new(
            "http.url",
            bounded(format!("{scheme}://{}{path}", record.authority)),
        ),
        KeyValue::new("http.status_code", record.status.to_string()),
        KeyValue::new("http.protocol", record.version.to_owned()),
        KeyValue::new("upstream_cluster", record.upstream_cluster.to_owned()),
        KeyValue::new("upstream_cluster.name", record.upstream_cluster.to_owned()),
        KeyValue::new("response_flags", record.flags.to_string()),
        KeyValue::new("response_size", record.bytes_sent.to_string()),
        KeyValue::new("request_size", record.bytes_received.to_string()),
        KeyValue::new("guid:x-request-id", header("x-request-id")),
        KeyValue::new("user_agent", bounded(header("user-agent"))),
    ];
    if let Some(peer) = record.downstream_remote {
        tags.push(KeyValue::new("peer.address", peer.ip().to_string()));
    }
    if let Some(host) = record.upstream_host {
        tags.push(KeyValue::new("upstream_address", host.to_string()));
    }
    if let Some(status) = record.grpc_status {
        tags.push(KeyValue::new("grpc.status_code", status.to_string()));
    }
    if failed(record).is_some() {
        tags.push(KeyValue::new("error", "true"));
    }
    tags
}

/// Tags hold at most 256 bytes, as Envoy cuts them.
fn bounded(mut text: String) -> String {
    let mut end = text.len().min(256);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

fn end_tags(side: &'static str, record: &Record<'_>) -> Vec<KeyValue> {
    let end = match side {
        "source" => &record.ends.source,
        _ => &record.ends.destination,
    };
    let parts = [
        ("workload", &end.workload),
        ("namespace", &end.namespace),
        ("cluster_id", &end.cluster),
        ("canonical_service", &end.canonical_service),
        ("canonical_revision", &end.canonical_revision),
        ("app", &end.canonical_service),
        ("app_version", &end.canonical_revision),
    ];
    let filled = parts.into_iter().filter(|(_, value)| !value.is_empty());
    filled
        .map(|(name, value)| KeyValue::new(format!("istio.{side}_{name}"), value.to_string()))
        .collect()
}

/// Where data threads leave their spans. Clones share the queue.
#[derive(Debug, Clone)]
pub struct SpanQueue {
    sender: mpsc::Sender<SpanData>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    dropped: AtomicU64,
    exported: AtomicU64,
    failed: AtomicU64,
}

impl SpanQueue {
    /// Leaves a span; drops it if the queue is full.
    pub fn push(&self, span: SpanData) {
        if self.sender.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spans that found the queue full.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Spans that a collector has taken.
    pub fn exported(&self) -> u64 {
        self.counts.exported.load(Ordering::Relaxed)
    }

    /// Spans that no collector took.
    pub fn failed(&self) -> u64 {
        self.counts.failed.load(Ordering::Relaxed)
    }
}

/// The other end of the queue.
#[derive(Debug)]
pub struct SpanExport {
    receiver: mpsc::Receiver<SpanData>,
    counts: Arc<Counts>,
}

/// A queue for spans.
pub fn span_queue() -> (SpanQueue, SpanExport) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let counts = Arc::new(Counts::default());
    let queue = SpanQueue {
        sender,
        counts: Arc::clone(&counts),
    };
    (queue, SpanExport { receiver, counts })
}

/// A collector can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// The exporter couldn't be built.
    #[error("build the OTLP exporter")]
    Build(#[from] opentelemetry_otlp::ExporterBuildError),
    /// A header that can't be sent.
    #[error("tracing.otlp.headers: {0:?} can't be sent")]
    Header(String),
}

/// How spans go to a collector.
#[derive(Debug)]
pub struct Exporter(Way);

enum Way {
    Grpc(Box<SpanExporter>),
    Http(Post, ResourceAttributesWithSchema),
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc(_) => "Grpc",
            Self::Http(..) => "Http",
        })
    }
}

/// Sends one body by POST with `content-type: application/x-protobuf` to the
/// collector's path; true if the answer was 2xx. Bounded in time by the caller.
pub type Post = Box<dyn Fn(Bytes) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// An OTLP exporter over HTTP; the transport is the caller's matter.
pub fn http_exporter(post: Post, resource: &[(&'static str, String)]) -> Exporter {
    Exporter(Way::Http(
        post,
        ResourceAttributesWithSchema::from(&to_resource(resource)),
    ))
}

fn to_resource(resource: &[(&'static str, String)]) -> Resource {
    let attributes = resource.iter();
    let attributes = attributes.map(|(name, value)| KeyValue::new(*name, value.clone()));
    Resource::builder_empty()
        .with_attributes(attributes)
        .build()
}

impl Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> bool {
        match &self.0 {
            Way::Grpc(exporter) => match exporter.export(batch).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::debug!(%error, "spans not exported");
                    false
                }
            },
            Way::Http(post, resource) => {
                let request = ExportTraceServiceRequest {
                    resource_spans: group_spans_by_resource_and_scope(batch, resource),
                };
                post(request.encode_to_vec().into()).await
            }
        }
    }
}

/// An OTLP exporter over gRPC on a channel that the caller made: its transport
/// is the caller's matter. Must be called inside a runtime.
///
/// # Errors
/// If a header can't be sent.
pub fn exporter(
    channel: Channel,
    timeout: Duration,
    headers: &[(String, String)],
    resource: &[(&'static str, String)],
) -> Result<Exporter, ExporterError> {
    let mut metadata = MetadataMap::new();
    for (name, value) in headers {
        let invalid = || ExporterError::Header(name.clone());
        let key = MetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes());
        let value = MetadataValue::try_from(value.as_str());
        metadata.insert(key.map_err(|_| invalid())?, value.map_err(|_| invalid())?);
    }
    let mut exporter = SpanExporter::builder()
        .with_tonic()
        .with_channel(channel)
        .with_timeout(timeout)
        .with_metadata(metadata)
        .build()?;
    exporter.set_resource(&to_resource(resource));
    Ok(Exporter(Way::Grpc(Box::new(exporter))))
}

impl SpanExport {
    /// Exports batches until every queue handle is gone or `stop` is cancelled;
    /// then what is left, once. A failed batch is counted and gone.
    pub async fn run(mut self, exporter: Exporter, stop: CancellationToken) -> Self {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let first = stop.run_until_cancelled(self.receiver.recv()).await;
            let ended = match first {
                Some(Some(span)) => {
                    batch.push(span);
                    let filled = tokio::time::timeout(LINGER, self.fill(&mut batch));
                    stop.run_until_cancelled(filled).await.is_none()
                }
                Some(None) | None => true,
            };
            if ended {
                while let Ok(span) = self.receiver.try_recv() {
                    batch.push(span);
                }
            }
            while !batch.is_empty() {
                let rest = batch.split_off(batch.len().min(BATCH));
                self.export(&exporter, std::mem::replace(&mut batch, rest))
                    .await;
            }
            if ended {
                return self;
            }
        }
    }

    /// Cancel safe: what was received is in the batch.
    async fn fill(&mut self, batch: &mut Vec<SpanData>) {
        while batch.len() < BATCH {
            match self.receiver.recv().await {
                Some(span) => batch.push(span),
                None => return,
            }
        }
    }

    async fn export(&self, exporter: &Exporter, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        let to = if exporter.export(batch).await {
            &self.counts.exported
        } else {
            &self.counts.failed
        };
        to.fetch_add(count, Ordering::Relaxed);
    }
}
