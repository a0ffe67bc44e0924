//! What a request leaves behind: metrics, access log, spans
//! (`waypoint-contract` sections 6 and 1.10).
//!
//! A request that has ended is one [`Record`], borrowed from the one who served
//! it, and is shown to each of these:
//! [`SeriesCache::series`] and [`Series::count`] (metrics),
//! [`AccessLog::line`], [`server_span`] with [`SpanQueue::push`], and
//! [`Recorder::record`]. At its beginning [`begin`] gives it an id and a place in
//! a trace, and [`inject`] hands that on. What the waypoint answers itself is a
//! [`LocalReply`].
//!
//! Left out on purpose: where lines and spans go (the program opens files and
//! connections), and every decision about a request.

mod access;
mod expr;
mod flags;
mod metrics;
mod overrides;
mod propagate;
mod record;
mod recorder;
mod reply;
mod spans;
mod telemetry;

pub use access::{AccessLog, DEFAULT_FORMAT, Encoding, InvalidAccessLog, InvalidOperator};
pub use expr::{Attribute, Expression, InvalidExpression, Value};
pub use flags::{ResponseFlag, ResponseFlags};
pub use metrics::{
    BUCKETS, DEFAULT_LIMIT, Ends, MetricOptions, RequestMetrics, Series, SeriesCache, TcpGuard,
};
pub use overrides::{InvalidOverride, MetricOverrides};
pub use propagate::{
    Chance, Parent, Propagation, REQUEST_ID, Sampling, SpanId, TraceContext, TraceId, begin,
    decided, extract, inject,
};
pub use record::{Record, RequestProtocol};
pub use recorder::{Observed, Recorder, Subscription, Summary, TooManySubscribers};
pub use reply::{LocalReply, grpc_message, grpc_status, is_grpc};
pub use spans::{
    Exporter, ExporterError, IstioTags, Post, SpanExport, SpanQueue, Tag, client_span, exporter,
    http_exporter, server_span, span_queue,
};
pub use telemetry::{Collector, InvalidTelemetry, SpanTag, Telemetry, Tracing};

#[cfg(test)]
mod tests;
