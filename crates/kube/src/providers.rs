//! `meshConfig.extensionProviders`: who decides, records or traces (`waypoint-contract` 4.5 and section 6).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::scalar::ProtoDuration;

/// A provider; one of its kinds is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtensionProvider {
    /// How policies name it.
    pub name: String,
    /// Authorization over HTTP.
    pub envoy_ext_authz_http: Option<ExtAuthzHttp>,
    /// Authorization over gRPC.
    pub envoy_ext_authz_grpc: Option<ExtAuthzGrpc>,
    /// Spans by OTLP.
    pub opentelemetry: Option<OpenTelemetryProvider>,
    /// Access log in a file.
    pub envoy_file_access_log: Option<FileAccessLog>,
    /// Metrics to be scraped.
    pub prometheus: Option<Value>,
    /// Not supported.
    pub zipkin: Option<Value>,
    /// Not supported.
    pub lightstep: Option<Value>,
    /// Not supported.
    pub datadog: Option<Value>,
    /// Not supported.
    pub stackdriver: Option<Value>,
    /// Not supported.
    pub opencensus: Option<Value>,
    /// Not supported.
    pub skywalking: Option<Value>,
    /// Not supported.
    pub envoy_http_als: Option<Value>,
    /// Not supported.
    pub envoy_tcp_als: Option<Value>,
    /// Not supported.
    pub envoy_otel_als: Option<Value>,
    /// Not supported.
    pub sds: Option<Value>,
}

impl ExtensionProvider {
    /// The word of a kind that isn't supported, if that is what it is.
    pub fn unsupported(&self) -> Option<&'static str> {
        [
            ("zipkin", &self.zipkin),
            ("lightstep", &self.lightstep),
            ("datadog", &self.datadog),
            ("stackdriver", &self.stackdriver),
            ("opencensus", &self.opencensus),
            ("skywalking", &self.skywalking),
            ("envoyHttpAls", &self.envoy_http_als),
            ("envoyTcpAls", &self.envoy_tcp_als),
            ("envoyOtelAls", &self.envoy_otel_als),
            ("sds", &self.sds),
        ]
        .into_iter()
        .find_map(|(word, value)| value.as_ref().map(|_| word))
    }
}

/// The body of a request, sent along.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtAuthzBody {
    /// At most this.
    pub max_request_bytes: u32,
    /// What is above it is left out instead of refused.
    pub allow_partial_message: bool,
    /// As bytes, not text (gRPC).
    pub pack_as_bytes: bool,
}

/// Authorization over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtAuthzHttp {
    /// `[namespace/]host`.
    pub service: String,
    /// Its port.
    pub port: u32,
    /// 600 s upstream.
    pub timeout: Option<ProtoDuration>,
    /// An error lets the request through.
    pub fail_open: bool,
    /// The status of an error; 403 when unset.
    pub status_on_error: Option<Value>,
    /// Before the path.
    pub path_prefix: Option<String>,
    /// The older form of the next.
    pub include_headers_in_check: Vec<String>,
    /// Sent along.
    pub include_request_headers_in_check: Vec<String>,
    /// Sent along, by name.
    pub include_additional_headers_in_check: BTreeMap<String, String>,
    /// Sent along.
    pub include_request_body_in_check: Option<ExtAuthzBody>,
    /// Of the answer, to the backend.
    pub headers_to_upstream_on_allow: Vec<String>,
    /// Of the answer, to the client.
    pub headers_to_downstream_on_deny: Vec<String>,
    /// Of the answer, to the client.
    pub headers_to_downstream_on_allow: Vec<String>,
    /// Routes are chosen again.
    pub clear_route_cache: bool,
}

/// Authorization over gRPC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtAuthzGrpc {
    /// `[namespace/]host`.
    pub service: String,
    /// Its port.
    pub port: u32,
    /// 600 s upstream.
    pub timeout: Option<ProtoDuration>,
    /// An error lets the request through.
    pub fail_open: bool,
    /// The status of an error; 403 when unset.
    pub status_on_error: Option<Value>,
    /// Sent along.
    pub include_request_body_in_check: Option<ExtAuthzBody>,
    /// Routes are chosen again.
    pub clear_route_cache: bool,
}

/// Spans by OTLP.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenTelemetryProvider {
    /// `[namespace/]host`.
    pub service: String,
    /// Its port.
    pub port: u32,
    /// Characters of a path in a tag.
    pub max_tag_length: Option<u32>,
    /// Set: over HTTP; otherwise gRPC.
    pub http: Option<OtlpHttp>,
    /// Over gRPC.
    pub grpc: Option<OtlpGrpc>,
    /// What the spans say of where they are from; not used.
    pub resource_detectors: Option<Value>,
    /// A sampler of another product; not supported.
    pub dynatrace_sampler: Option<Value>,
}

/// OTLP over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OtlpHttp {
    /// Such as `/v1/traces`.
    pub path: String,
    /// Of one export.
    pub timeout: Option<ProtoDuration>,
    /// Sent along.
    pub headers: Vec<OtlpHeader>,
}

/// OTLP over gRPC.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OtlpGrpc {
    /// Of one export.
    pub timeout: Option<ProtoDuration>,
    /// Sent along.
    pub initial_metadata: Vec<OtlpHeader>,
}

/// A header of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OtlpHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Option<String>,
    /// An environment variable that has it; not supported.
    pub env_name: Option<String>,
}

/// Access log in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FileAccessLog {
    /// `/dev/stdout` or `/dev/stderr`.
    pub path: String,
    /// Unset means the default text.
    pub log_format: Option<LogFormat>,
    /// Not used.
    pub omit_empty_values: Option<bool>,
}

/// A format; one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogFormat {
    /// Envoy's format text.
    pub text: Option<String>,
    /// JSON of these words; empty means the default words.
    pub labels: Option<Value>,
}
