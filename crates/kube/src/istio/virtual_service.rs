//! `networking.istio.io` `VirtualService` (`waypoint-contract` 3.1 to 3.3).

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::IstioStatus;
use crate::scalar::{Percent, ProtoDuration, StringMatch};

/// How requests to hosts are routed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "VirtualService",
    plural = "virtualservices",
    shortname = "vs",
    namespaced,
    status = "IstioStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualServiceSpec {
    /// For which hosts; none makes it a delegate.
    pub hosts: Vec<String>,
    /// `mesh` or gateways; empty means `mesh`.
    pub gateways: Vec<String>,
    /// HTTP routes; the first that matches wins.
    pub http: Vec<VsHttpRoute>,
    /// TLS passthrough routes.
    pub tls: Vec<VsTlsRoute>,
    /// TCP routes.
    pub tcp: Vec<VsTcpRoute>,
    /// `.`, `*` or namespaces that see it; empty means all.
    pub export_to: Vec<String>,
}

/// An HTTP route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsHttpRoute {
    /// For logs and metrics.
    pub name: Option<String>,
    /// Any of them; none matches all.
    #[serde(rename = "match")]
    pub matches: Vec<VsHttpMatch>,
    /// Weighted destinations.
    pub route: Vec<VsDestinationWeight>,
    /// Answers with a redirect.
    pub redirect: Option<VsRedirect>,
    /// Answers by itself.
    pub direct_response: Option<VsDirectResponse>,
    /// Another VirtualService has the routes.
    pub delegate: Option<VsDelegate>,
    /// Changes path and authority.
    pub rewrite: Option<VsRewrite>,
    /// Of the whole request.
    pub timeout: Option<ProtoDuration>,
    /// When and how often to try again.
    pub retries: Option<VsRetry>,
    /// Delays and aborts.
    pub fault: Option<VsFault>,
    /// A copy goes here.
    pub mirror: Option<VsDestination>,
    /// Copies go here.
    pub mirrors: Vec<VsMirror>,
    /// Share that is mirrored, a whole percent; the oldest form.
    #[serde(alias = "mirror_percent")]
    pub mirror_percent: Option<u32>,
    /// Share that is mirrored.
    pub mirror_percentage: Option<Percent>,
    /// Cross-origin requests.
    pub cors_policy: Option<VsCors>,
    /// Header changes.
    pub headers: Option<VsHeaders>,
}

/// All that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsHttpMatch {
    /// For logs and metrics.
    pub name: Option<String>,
    /// The path, without the query.
    pub uri: Option<StringMatch>,
    /// The scheme.
    pub scheme: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// The Host header as sent, with port.
    pub authority: Option<StringMatch>,
    /// By name; also `@request.auth.claims...`.
    pub headers: BTreeMap<String, StringMatch>,
    /// Must not hold.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// By name.
    pub query_params: BTreeMap<String, StringMatch>,
    /// Exact and prefix only.
    pub ignore_uri_case: bool,
    /// The service's port.
    pub port: Option<u32>,
    /// Sidecars only.
    pub source_labels: BTreeMap<String, String>,
    /// Sidecars only.
    pub source_namespace: Option<String>,
    /// Must have `mesh` where set.
    pub gateways: Vec<String>,
    /// A name prefix of statistics; not used.
    pub stat_prefix: Option<String>,
}

/// Where to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VsDestination {
    /// A host; short names are of the VirtualService's namespace.
    pub host: String,
    /// Of a DestinationRule.
    #[serde(default)]
    pub subset: Option<String>,
    /// Which port; may be left out where the service has one only.
    #[serde(default)]
    pub port: Option<VsPort>,
}

/// A port by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct VsPort {
    /// Of the service.
    pub number: u32,
}

/// A destination with its share.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VsDestinationWeight {
    /// Where to.
    pub destination: VsDestination,
    /// Relative; 0 is none where there are several.
    #[serde(default)]
    pub weight: i32,
    /// Header changes for this destination.
    #[serde(default)]
    pub headers: Option<VsHeaders>,
}

/// A redirect.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsRedirect {
    /// The path; `%PREFIX()%` isn't part of it.
    pub uri: Option<String>,
    /// The host.
    pub authority: Option<String>,
    /// The port.
    pub port: Option<u32>,
    /// `FROM_PROTOCOL_DEFAULT` or `FROM_REQUEST_PORT`.
    pub derive_port: Option<VsDerivePort>,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// 301 when unset.
    pub redirect_code: Option<u32>,
}

/// Where the port of a redirect comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VsDerivePort {
    /// 80 and 443.
    #[default]
    FromProtocolDefault,
    /// As the request had it.
    FromRequestPort,
}

/// An answer without a backend.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VsDirectResponse {
    /// 200 to 599.
    pub status: u32,
    /// The body.
    #[serde(default)]
    pub body: Option<VsBody>,
}

/// A body; one of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsBody {
    /// Text.
    pub string: Option<String>,
    /// Base64.
    pub bytes: Option<String>,
}

/// A VirtualService by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsDelegate {
    /// Its name.
    pub name: String,
    /// Its namespace; unset means the root's own.
    pub namespace: Option<String>,
}

/// A rewrite.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsRewrite {
    /// Replaces the matched prefix or the whole path.
    pub uri: Option<String>,
    /// Becomes the Host header.
    pub authority: Option<String>,
    /// Excludes `uri`.
    pub uri_regex_rewrite: Option<VsRegexRewrite>,
}

/// A rewrite by regular expression.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsRegexRewrite {
    /// RE2.
    #[serde(rename = "match")]
    pub pattern: String,
    /// With `\1`.
    pub rewrite: String,
}

/// When and how often to try again (3.3).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsRetry {
    /// Tries after the first; 0 is none.
    pub attempts: i32,
    /// Of one try.
    pub per_try_timeout: Option<ProtoDuration>,
    /// Words of 5.2 and status codes, with commas.
    pub retry_on: Option<String>,
    /// Also other localities.
    pub retry_remote_localities: Option<bool>,
    /// Not the same host; true when unset.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// Base of the backoff; 25 ms when unset.
    pub backoff: Option<ProtoDuration>,
}

/// Injected faults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsFault {
    /// A delay before the request is forwarded.
    pub delay: Option<VsDelay>,
    /// An error instead of a forward.
    pub abort: Option<VsAbort>,
}

/// An injected delay.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsDelay {
    /// How long.
    pub fixed_delay: Option<ProtoDuration>,
    /// Not supported by any version.
    pub exponential_delay: Option<ProtoDuration>,
    /// Share of requests; unset is none.
    pub percentage: Option<Percent>,
    /// The older form of it, whole percent.
    pub percent: Option<i32>,
}

/// An injected error.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsAbort {
    /// 200 to 599.
    pub http_status: Option<i32>,
    /// A gRPC status by name.
    pub grpc_status: Option<String>,
    /// Not supported.
    pub http2_error: Option<String>,
    /// Share of requests; unset is none.
    pub percentage: Option<Percent>,
    /// The older form of it, whole percent.
    pub percent: Option<i32>,
}

/// A copy of requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VsMirror {
    /// Where to.
    pub destination: VsDestination,
    /// Share; 100 when unset.
    #[serde(default)]
    pub percentage: Option<Percent>,
}

/// Cross-origin requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsCors {
    /// Exact; the oldest form.
    pub allow_origin: Vec<String>,
    /// Any of them.
    pub allow_origins: Vec<StringMatch>,
    /// Methods.
    pub allow_methods: Vec<String>,
    /// Request headers.
    pub allow_headers: Vec<String>,
    /// Response headers.
    pub expose_headers: Vec<String>,
    /// How long a preflight may be remembered.
    pub max_age: Option<ProtoDuration>,
    /// With cookies.
    pub allow_credentials: Option<bool>,
    /// `FORWARD` or `IGNORE`.
    pub unmatched_preflights: Option<VsUnmatchedPreflights>,
}

/// What becomes of a preflight that doesn't match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VsUnmatchedPreflights {
    /// As `Forward`.
    #[default]
    Unspecified,
    /// Goes to the backend.
    Forward,
    /// Answered without permission.
    Ignore,
}

/// Header changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsHeaders {
    /// Of the request.
    pub request: Option<VsHeaderOperations>,
    /// Of the response.
    pub response: Option<VsHeaderOperations>,
}

/// Header changes of one direction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsHeaderOperations {
    /// Replaces.
    pub set: BTreeMap<String, String>,
    /// Appends.
    pub add: BTreeMap<String, String>,
    /// Removes.
    pub remove: Vec<String>,
}

/// A TLS passthrough route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsTlsRoute {
    /// Any of them.
    #[serde(rename = "match")]
    pub matches: Vec<VsTlsMatch>,
    /// Weighted destinations.
    pub route: Vec<VsDestinationWeight>,
}

/// All that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsTlsMatch {
    /// Names in the ClientHello.
    pub sni_hosts: Vec<String>,
    /// Sidecars only.
    pub destination_subnets: Vec<String>,
    /// The service's port.
    pub port: Option<u32>,
    /// Sidecars only.
    pub source_labels: BTreeMap<String, String>,
    /// Must have `mesh` where set.
    pub gateways: Vec<String>,
    /// Sidecars only.
    pub source_namespace: Option<String>,
}

/// A TCP route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsTcpRoute {
    /// Any of them; none matches all.
    #[serde(rename = "match")]
    pub matches: Vec<VsTcpMatch>,
    /// Weighted destinations.
    pub route: Vec<VsDestinationWeight>,
}

/// All that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VsTcpMatch {
    /// Sidecars only.
    pub destination_subnets: Vec<String>,
    /// The service's port.
    pub port: Option<u32>,
    /// Sidecars only; the older form.
    pub source_subnet: Option<String>,
    /// Sidecars only.
    pub source_labels: BTreeMap<String, String>,
    /// Must have `mesh` where set.
    pub gateways: Vec<String>,
    /// Sidecars only.
    pub source_namespace: Option<String>,
}
