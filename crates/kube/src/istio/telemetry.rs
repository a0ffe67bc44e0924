//! `telemetry.istio.io` `Telemetry` (`waypoint-contract` 6.5).

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{IstioStatus, PolicyTargetReference, WorkloadSelector};
use crate::scalar::ProtoDuration;

/// Which signals are recorded, and how.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "telemetry.istio.io",
    version = "v1",
    kind = "Telemetry",
    plural = "telemetries",
    shortname = "telemetry",
    namespaced,
    status = "IstioStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct TelemetrySpec {
    /// Which workloads, by label; unset means all of the namespace.
    pub selector: Option<WorkloadSelector>,
    /// The one thing that it attaches to; the older form of `target_refs`.
    pub target_ref: Option<PolicyTargetReference>,
    /// The things that it attaches to.
    pub target_refs: Vec<PolicyTargetReference>,
    /// Spans.
    pub tracing: Vec<TelemetryTracing>,
    /// Metrics.
    pub metrics: Vec<TelemetryMetrics>,
    /// Access logs.
    pub access_logging: Vec<TelemetryAccessLogging>,
}

/// A provider of the mesh configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TelemetryProvider {
    /// Its name.
    pub name: String,
}

/// For which side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TelemetryMode {
    /// Both.
    #[default]
    ClientAndServer,
    /// Of the caller; doesn't apply at a waypoint.
    Client,
    /// Of the callee; applies at a waypoint.
    Server,
}

/// For which side, as a match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TelemetryModeMatch {
    /// For which side.
    pub mode: TelemetryMode,
}

/// Spans.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TelemetryTracing {
    /// For which side.
    #[serde(rename = "match")]
    pub matches: Option<TelemetryModeMatch>,
    /// Where to; none inherits.
    pub providers: Vec<TelemetryProvider>,
    /// Percent; unset inherits.
    pub random_sampling_percentage: Option<f64>,
    /// No spans, propagation goes on.
    pub disable_span_reporting: Option<bool>,
    /// Further tags, by name.
    pub custom_tags: BTreeMap<String, TelemetryTag>,
    /// The request id carries the decision; true when unset.
    pub use_request_id_for_trace_sampling: Option<bool>,
    /// Istio's own tags; true when unset.
    pub enable_istio_tags: Option<bool>,
    /// No trace headers are added.
    pub disable_context_propagation: Option<bool>,
}

/// The value of a tag; one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TelemetryTag {
    /// Itself.
    pub literal: Option<TagLiteral>,
    /// An environment variable of the proxy.
    pub environment: Option<TagSource>,
    /// A request header.
    pub header: Option<TagSource>,
    /// Envoy's format text.
    pub formatter: Option<TagLiteral>,
}

/// A text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TagLiteral {
    /// It.
    pub value: String,
}

/// A name whose value is looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TagSource {
    /// It.
    pub name: String,
    /// Where there is none.
    pub default_value: Option<String>,
}

/// Metrics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TelemetryMetrics {
    /// Where to; none inherits.
    pub providers: Vec<TelemetryProvider>,
    /// Changes, in order.
    pub overrides: Vec<MetricsOverride>,
    /// How often TCP metrics are brought up to date.
    pub reporting_interval: Option<ProtoDuration>,
}

/// A change to metrics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsOverride {
    /// Which; unset means all.
    #[serde(rename = "match")]
    pub matches: Option<MetricSelector>,
    /// Not recorded.
    pub disabled: Option<bool>,
    /// By tag.
    pub tag_overrides: BTreeMap<String, TagOverride>,
}

/// Which metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricSelector {
    /// `REQUEST_COUNT`, ..., `ALL_METRICS`.
    pub metric: Option<String>,
    /// By its own name.
    pub custom_metric: Option<String>,
    /// For which side.
    pub mode: TelemetryMode,
}

/// A change to a tag.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TagOverride {
    /// What to do.
    pub operation: TagOperation,
    /// CEL.
    pub value: Option<String>,
}

/// What to do with a tag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TagOperation {
    /// Sets it.
    #[default]
    Upsert,
    /// Takes it away.
    Remove,
}

/// Access logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TelemetryAccessLogging {
    /// For which side.
    #[serde(rename = "match")]
    pub matches: Option<TelemetryModeMatch>,
    /// Where to; none inherits.
    pub providers: Vec<TelemetryProvider>,
    /// Nothing is written.
    pub disabled: Option<bool>,
    /// What is written.
    pub filter: Option<AccessLogFilter>,
}

/// What is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AccessLogFilter {
    /// CEL; holds for what is written.
    pub expression: String,
}
