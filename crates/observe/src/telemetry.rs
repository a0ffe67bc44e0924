//! From `ambit.waypoint.v1.Telemetry` to what requests are observed with
//! (`waypoint-contract` 6.5).

use std::sync::Arc;
use std::time::Duration;

use ambit_proto::waypoint as pb;
use http::HeaderName;

use crate::access::{AccessLog, Encoding, InvalidAccessLog};
use crate::overrides::{InvalidOverride, MetricOverrides};
use crate::propagate::{Propagation, Sampling};
use crate::record::Record;
use crate::spans::Tag;

/// How the requests of a gateway, or of one frontend, are observed.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    /// Lines are written by this; none: no access log.
    pub access_log: Option<Arc<AccessLog>>,
    /// Traces.
    pub tracing: Option<Arc<Tracing>>,
    /// For [`Ends::overrides`](crate::Ends::overrides).
    pub metrics: Option<Arc<MetricOverrides>>,
}

/// How requests are traced.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// Which are sampled.
    pub sampling: Sampling,
    /// Which headers are written.
    pub propagation: Propagation,
    /// Where spans go; none: nowhere, contexts are propagated all the same.
    pub collector: Option<Collector>,
    /// Custom tags.
    pub tags: Vec<SpanTag>,
    /// Also the tags `istio.*`.
    pub istio_tags: bool,
}

/// A collector.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Collector {
    /// `namespace/hostname` of a Backend.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// Set: OTLP over HTTP to this path ([`http_exporter`](crate::http_exporter));
    /// otherwise gRPC ([`exporter`](crate::exporter)).
    pub http_path: Option<String>,
    /// For one export.
    pub timeout: Duration,
    /// Sent with each export.
    pub headers: Vec<(String, String)>,
}

/// A tag that a resource asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanTag {
    name: String,
    value: TagValue,
    default: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TagValue {
    Literal(String),
    Header(HeaderName),
}

/// Why telemetry can't be configured so.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidTelemetry {
    /// The access log.
    #[error("telemetry")]
    AccessLog(#[from] InvalidAccessLog),
    /// Metrics.
    #[error("telemetry")]
    Metrics(#[from] InvalidOverride),
    /// The share of requests.
    #[error("telemetry.tracing.sampling: {0} is not between 0 and 100")]
    Sampling(f64),
    /// A propagation number that isn't in the contract.
    #[error("telemetry.tracing.propagation: {0} is unknown")]
    Propagation(i32),
    /// A collector's port.
    #[error("telemetry.tracing.otlp.port: {0} is not a port")]
    Port(u32),
    /// OTLP over HTTP to something that is no path.
    #[error("telemetry.tracing.otlp.http_path: {0:?} is not an absolute path")]
    Path(String),
    /// A tag without value, or with a header that isn't one.
    #[error("telemetry.tracing.tags: {0:?} has no usable value")]
    Tag(String),
}

impl Telemetry {
    /// Reads a gateway's telemetry.
    ///
    /// # Errors
    /// The field that can't be used.
    pub fn decode(wire: &pb::Telemetry) -> Result<Self, InvalidTelemetry> {
        Self::default().overlaid(wire)
    }

    /// With what a frontend says, signal by signal, in place of the gateway's.
    ///
    /// # Errors
    /// The field that can't be used.
    pub fn overlaid(&self, wire: &pb::Telemetry) -> Result<Self, InvalidTelemetry> {
        let access_log = match &wire.access_log {
            None => self.access_log.clone(),
            Some(log) if log.disabled => None,
            Some(log) => {
                let encoding = if log.json {
                    Encoding::Json
                } else {
                    Encoding::Text
                };
                Some(Arc::new(AccessLog::new(
                    encoding,
                    &log.format,
                    &log.filter,
                )?))
            }
        };
        let tracing = match &wire.tracing {
            None => self.tracing.clone(),
            Some(tracing) => Some(Arc::new(read_tracing(tracing)?)),
        };
        let metrics = if wire.metrics.is_empty() && !wire.metrics_disabled {
            self.metrics.clone()
        } else {
            MetricOverrides::decode(&wire.metrics, wire.metrics_disabled)?
        };
        Ok(Self {
            access_log,
            tracing,
            metrics,
        })
    }
}

fn read_tracing(wire: &pb::Tracing) -> Result<Tracing, InvalidTelemetry> {
    if !(0.0..=100.0).contains(&wire.sampling) {
        return Err(InvalidTelemetry::Sampling(wire.sampling));
    }
    let propagation = pb::Propagation::try_from(wire.propagation)
        .map_err(|_| InvalidTelemetry::Propagation(wire.propagation))?;
    let collector = match &wire.otlp {
        Some(otlp) if !wire.disabled => Some(read_collector(otlp)?),
        _ => None,
    };
    let tags = wire.tags.iter().map(read_tag);
    Ok(Tracing {
        sampling: Sampling {
            percent: if wire.disabled { 0.0 } else { wire.sampling },
            ..Sampling::default()
        },
        propagation: Propagation::from_wire(propagation, wire.disable_propagation),
        collector,
        tags: tags.collect::<Result<_, _>>()?,
        istio_tags: !wire.disable_istio_tags,
    })
}

fn read_collector(wire: &pb::OtlpExporter) -> Result<Collector, InvalidTelemetry> {
    let path = wire.http_path.clone();
    if !path.is_empty() && (!path.starts_with('/') || path.parse::<http::Uri>().is_err()) {
        return Err(InvalidTelemetry::Path(path));
    }
    let port = u16::try_from(wire.port).ok().filter(|port| *port != 0);
    Ok(Collector {
        http_path: (!path.is_empty()).then_some(path),
        service: wire.service.clone(),
        port: port.ok_or(InvalidTelemetry::Port(wire.port))?,
        timeout: match wire.timeout_ms {
            0 => Duration::from_secs(10),
            ms => Duration::from_millis(ms),
        },
        headers: wire
            .headers
            .iter()
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect(),
    })
}

fn read_tag(wire: &pb::SpanTag) -> Result<SpanTag, InvalidTelemetry> {
    use pb::span_tag::Value;
    let invalid = || InvalidTelemetry::Tag(wire.name.clone());
    let value = match wire.value.as_ref().ok_or_else(invalid)? {
        Value::Literal(text) => TagValue::Literal(text.clone()),
        // A waypoint's environment is not the workload's: only the default holds.
        Value::Environment(_) => TagValue::Literal(wire.default_value.clone()),
        Value::Header(name) => {
            TagValue::Header(HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?)
        }
    };
    Ok(SpanTag {
        name: wire.name.clone(),
        value,
        default: wire.default_value.clone(),
    })
}

impl Tracing {
    /// The custom tags of one request; those without value are left out.
    pub fn tags_of(&self, record: &Record<'_>) -> Vec<Tag> {
        let value = |tag: &SpanTag| {
            let text = match &tag.value {
                TagValue::Literal(text) => text.clone(),
                TagValue::Header(name) => record
                    .request_header(name.as_str())
                    .unwrap_or(&tag.default)
                    .to_owned(),
            };
            (!text.is_empty()).then(|| (tag.name.clone().into(), text))
        };
        self.tags.iter().filter_map(value).collect()
    }
}

#[cfg(test)]
mod tests;
