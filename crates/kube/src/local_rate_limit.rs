//! `ambit.mesh` `LocalRateLimit`: requests per time, counted by each waypoint replica for itself.
//!
//! ```yaml
//! apiVersion: ambit.mesh/v1alpha1
//! kind: LocalRateLimit
//! metadata: {name: checkout, namespace: shop}
//! spec:
//!   targetRefs: [{kind: Service, name: checkout}]
//!   limits:
//!   - name: partners
//!     match: {principals: ["*/ns/partners/*"]}
//!     requests: 20
//!     unit: Second
//!     burst: 40
//!     per: Client
//!   - requests: 500
//!     unit: Minute
//! ```

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::IstioStatus;
use crate::scalar::{ProtoDuration, StringMatch};

/// Requests per time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "ambit.mesh",
    version = "v1alpha1",
    kind = "LocalRateLimit",
    plural = "localratelimits",
    shortname = "lrl",
    namespaced,
    status = "IstioStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct LocalRateLimitSpec {
    /// Services, routes or waypoints of the same namespace; 1 to 16.
    pub target_refs: Vec<RateLimitTarget>,
    /// The first that matches a request decides; none that matches lets it through. 1 to 64.
    pub limits: Vec<RateLimitRule>,
    /// Percent of the requests above the limit that are refused; the rest is only counted. 100 when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced_percent: Option<f64>,
    /// `x-ratelimit-limit`, `-remaining` and `-reset` in responses. False when unset.
    #[serde(default)]
    pub response_headers: bool,
    /// gRPC calls get RESOURCE_EXHAUSTED (8) instead of UNAVAILABLE (14). True when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_resource_exhausted: Option<bool>,
}

/// A thing that limits attach to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitTarget {
    /// API group; empty for core. The group of the kind when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `Service`, `ServiceEntry`, `HTTPRoute`, `GRPCRoute` or `Gateway`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// A port's name of a Service, or a rule's name of a route; unset means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// One bucket, or one a client.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitRule {
    /// For metrics and logs; its position when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For which requests; unset means all.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<RateLimitMatch>,
    /// How many in each `unit` or `interval`; 1 to 1,000,000,000.
    pub requests: u32,
    /// `Second` when neither is set; excludes `interval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<RateLimitUnit>,
    /// A time of one's own, 50 ms to 24 h; excludes `unit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<ProtoDuration>,
    /// How many at once, after a pause; `requests` when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Who shares the bucket.
    #[serde(default)]
    pub per: RateLimitPer,
    /// Other amounts for single clients; they have buckets of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<RateLimitClientOverride>,
}

/// For which requests; all that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RateLimitMatch {
    /// One of these peers, written as in AuthorizationPolicy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<String>,
    /// All of these headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<RateLimitHeader>,
}

/// A header and how its value is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitHeader {
    /// Its name.
    pub name: String,
    /// Its value; unset means that it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<StringMatch>,
}

/// A unit of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RateLimitUnit {
    /// 1 s.
    #[default]
    Second,
    /// 60 s.
    Minute,
    /// 3,600 s.
    Hour,
}

/// Who shares a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RateLimitPer {
    /// All clients.
    #[default]
    Target,
    /// Each client identity has its own; those without one share one.
    Client,
}

/// Another amount for some clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitClientOverride {
    /// One of these peers, written as in AuthorizationPolicy.
    pub principals: Vec<String>,
    /// As the rule's.
    pub requests: u32,
    /// As the rule's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}
