//! `networking.istio.io` `DestinationRule` (`waypoint-contract` 3.4 and 3.5).

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{IstioStatus, WorkloadSelector};
use crate::scalar::{Percent, ProtoDuration};

/// How a host's backends are reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "DestinationRule",
    plural = "destinationrules",
    shortname = "dr",
    namespaced,
    status = "IstioStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationRuleSpec {
    /// For which host; short names are of the rule's namespace.
    pub host: String,
    /// For all subsets.
    pub traffic_policy: Option<DrTrafficPolicy>,
    /// Parts of the host's backends.
    pub subsets: Vec<DrSubset>,
    /// `.`, `*` or namespaces that see it; empty means all.
    pub export_to: Vec<String>,
    /// Sidecars only.
    pub workload_selector: Option<WorkloadSelector>,
}

/// A part of a host's backends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrSubset {
    /// Its name in routes.
    pub name: String,
    /// All must be present and equal.
    pub labels: BTreeMap<String, String>,
    /// Overrides the rule's, block by block.
    pub traffic_policy: Option<DrTrafficPolicy>,
}

/// How backends are reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrTrafficPolicy {
    /// Which endpoint.
    pub load_balancer: Option<DrLoadBalancer>,
    /// How many connections and requests.
    pub connection_pool: Option<DrConnectionPool>,
    /// When an endpoint is taken out.
    pub outlier_detection: Option<DrOutlierDetection>,
    /// TLS to the endpoint.
    pub tls: Option<DrTls>,
    /// Single ports; each replaces the blocks above as a whole.
    pub port_level_settings: Vec<DrPortPolicy>,
    /// Through a proxy.
    pub tunnel: Option<DrTunnel>,
    /// PROXY protocol to the endpoint.
    pub proxy_protocol: Option<DrProxyProtocol>,
    /// How many requests may be retries.
    pub retry_budget: Option<DrRetryBudget>,
}

/// The settings of one port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrPortPolicy {
    /// Of the service.
    pub port: Option<DrPort>,
    /// Which endpoint.
    pub load_balancer: Option<DrLoadBalancer>,
    /// How many connections and requests.
    pub connection_pool: Option<DrConnectionPool>,
    /// When an endpoint is taken out.
    pub outlier_detection: Option<DrOutlierDetection>,
    /// TLS to the endpoint.
    pub tls: Option<DrTls>,
}

/// A port by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DrPort {
    /// Of the service.
    pub number: u32,
}

/// Which endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrLoadBalancer {
    /// An algorithm without settings.
    pub simple: Option<DrSimpleLb>,
    /// By a hash of the request.
    pub consistent_hash: Option<DrConsistentHash>,
    /// Which localities first.
    pub locality_lb_setting: Option<DrLocalityLb>,
    /// New endpoints get their share by and by.
    pub warmup: Option<DrWarmup>,
    /// The older form of `warmup`.
    pub warmup_duration_secs: Option<ProtoDuration>,
}

/// An algorithm without settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DrSimpleLb {
    /// As `LeastRequest`.
    #[default]
    Unspecified,
    /// The older name of `LeastRequest`.
    LeastConn,
    /// Any.
    Random,
    /// The original destination.
    Passthrough,
    /// In turn.
    RoundRobin,
    /// The better of two.
    LeastRequest,
}

/// By a hash of the request; one key and at most one algorithm.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrConsistentHash {
    /// Of a header.
    pub http_header_name: Option<String>,
    /// Of a cookie.
    pub http_cookie: Option<DrHashCookie>,
    /// Of the client's address.
    pub use_source_ip: Option<bool>,
    /// Of a query parameter.
    pub http_query_parameter_name: Option<String>,
    /// On a ring.
    pub ring_hash: Option<DrRingHash>,
    /// By a table.
    pub maglev: Option<DrMaglev>,
    /// The older place of `ringHash.minimumRingSize`.
    pub minimum_ring_size: Option<u64>,
}

/// A cookie to hash.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrHashCookie {
    /// Its name.
    pub name: String,
    /// Its path, where it is made.
    pub path: Option<String>,
    /// Set: made when it is absent; 0 is a session cookie.
    pub ttl: Option<ProtoDuration>,
    /// Further attributes, where it is made.
    pub attributes: Vec<DrCookieAttribute>,
}

/// An attribute of a cookie.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrCookieAttribute {
    /// `SameSite`, ...
    pub name: String,
    /// May be absent.
    pub value: Option<String>,
}

/// A hash ring.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrRingHash {
    /// 1,024 when unset.
    pub minimum_ring_size: Option<u64>,
}

/// A Maglev table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrMaglev {
    /// A prime up to 5,000,011; 65,537 when unset.
    pub table_size: Option<u64>,
}

/// Which localities first; one of `distribute`, `failover`, `failoverPriority`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrLocalityLb {
    /// Shares.
    pub distribute: Vec<DrDistribute>,
    /// Where to when a region fails.
    pub failover: Vec<DrFailover>,
    /// Labels in the order of their weight, `key` or `key=value`.
    pub failover_priority: Vec<String>,
    /// Whether it is on; unset inherits.
    pub enabled: Option<bool>,
}

/// Shares for traffic from a locality.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrDistribute {
    /// `region/zone/subzone`, with `*`.
    pub from: String,
    /// Percent by locality; 100 in sum.
    pub to: BTreeMap<String, u32>,
}

/// Where to when a region fails.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrFailover {
    /// A region.
    pub from: String,
    /// Another.
    pub to: String,
}

/// New endpoints get their share by and by.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrWarmup {
    /// How long it takes.
    pub duration: Option<ProtoDuration>,
    /// Share at the start; 10 when unset.
    pub minimum_percent: Option<f64>,
    /// 1 (linear) when unset.
    pub aggression: Option<f64>,
}

/// How many connections and requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrConnectionPool {
    /// Of connections.
    pub tcp: Option<DrTcpSettings>,
    /// Of requests.
    pub http: Option<DrHttpSettings>,
}

/// Bounds of connections; 0 is unset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrTcpSettings {
    /// At once.
    pub max_connections: Option<i32>,
    /// 10 s when unset.
    pub connect_timeout: Option<ProtoDuration>,
    /// Keepalive.
    pub tcp_keepalive: Option<DrKeepalive>,
    /// How long one may live.
    pub max_connection_duration: Option<ProtoDuration>,
    /// 1 h when unset, 0 is off.
    pub idle_timeout: Option<ProtoDuration>,
}

/// TCP keepalive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrKeepalive {
    /// How many unanswered.
    pub probes: Option<u32>,
    /// Idle time before the first.
    pub time: Option<ProtoDuration>,
    /// Between them.
    pub interval: Option<ProtoDuration>,
}

/// Bounds of requests; 0 is unset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrHttpSettings {
    /// Requests that wait for a connection.
    pub http1_max_pending_requests: Option<i32>,
    /// Requests at once, HTTP/1 too.
    pub http2_max_requests: Option<i32>,
    /// On one connection.
    pub max_requests_per_connection: Option<i32>,
    /// Retries at once.
    pub max_retries: Option<i32>,
    /// 1 h when unset, 0 is off.
    pub idle_timeout: Option<ProtoDuration>,
    /// `DEFAULT`, `DO_NOT_UPGRADE` or `UPGRADE`.
    pub h2_upgrade_policy: Option<DrH2Upgrade>,
    /// As the client.
    pub use_client_protocol: Option<bool>,
    /// Streams of one connection.
    pub max_concurrent_streams: Option<i32>,
    /// HTTP/2 pings.
    pub http2_keep_alive: Option<Value>,
}

/// Whether HTTP/1.1 becomes HTTP/2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DrH2Upgrade {
    /// As the mesh says.
    #[default]
    Default,
    /// No.
    DoNotUpgrade,
    /// Yes.
    Upgrade,
}

/// When an endpoint is taken out (5.5).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrOutlierDetection {
    /// The oldest form of `consecutive5xxErrors`.
    pub consecutive_errors: Option<i32>,
    /// Local errors are counted apart.
    pub split_external_local_origin_errors: Option<bool>,
    /// In a row.
    pub consecutive_local_origin_failures: Option<u32>,
    /// In a row.
    pub consecutive_gateway_errors: Option<u32>,
    /// In a row.
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    /// Between looks.
    pub interval: Option<ProtoDuration>,
    /// Of the first ejection.
    pub base_ejection_time: Option<ProtoDuration>,
    /// At most this share is out.
    pub max_ejection_percent: Option<i32>,
    /// Below this share of healthy ones, ejection is off.
    pub min_health_percent: Option<i32>,
}

/// TLS to the endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrTls {
    /// Which kind.
    pub mode: DrTlsMode,
    /// A file.
    pub client_certificate: Option<String>,
    /// A file.
    pub private_key: Option<String>,
    /// A file; unset means the system's.
    pub ca_certificates: Option<String>,
    /// A Secret.
    pub credential_name: Option<String>,
    /// Names to expect.
    pub subject_alt_names: Vec<String>,
    /// Name to ask for; the host when unset.
    pub sni: Option<String>,
    /// Accept any certificate.
    pub insecure_skip_verify: Option<bool>,
    /// A file of revoked certificates.
    pub ca_crl: Option<String>,
}

/// Which kind of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DrTlsMode {
    /// None.
    #[default]
    Disable,
    /// Without a client certificate.
    Simple,
    /// With a client certificate.
    Mutual,
    /// The mesh's.
    IstioMutual,
}

/// Through a proxy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrTunnel {
    /// `CONNECT` or `POST`; the former when unset.
    pub protocol: Option<String>,
    /// Where the proxy connects to.
    pub target_host: String,
    /// Where the proxy connects to.
    pub target_port: u32,
}

/// PROXY protocol to the endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrProxyProtocol {
    /// `V1` or `V2`; the former when unset.
    pub version: Option<DrProxyVersion>,
}

/// Version of the PROXY protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DrProxyVersion {
    /// Text.
    #[default]
    V1,
    /// Binary.
    V2,
}

/// How many requests may be retries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrRetryBudget {
    /// 20 when unset; bare or in a map, as both are written.
    #[schemars(with = "f64")]
    pub percent: Option<DrBudgetPercent>,
    /// 3 when unset.
    pub min_retry_concurrency: Option<u32>,
    /// 0 when unset.
    pub budget_interval: Option<ProtoDuration>,
}

/// A percentage, bare or as `{value: 20}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DrBudgetPercent {
    /// `20`.
    Bare(f64),
    /// `{value: 20}`.
    Map(Percent),
}

impl DrBudgetPercent {
    /// The number.
    pub fn value(self) -> f64 {
        match self {
            Self::Bare(value) | Self::Map(Percent { value }) => value,
        }
    }
}
