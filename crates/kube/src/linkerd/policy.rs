//! `policy.linkerd.io` `Server` and `HTTPLocalRateLimitPolicy` (`waypoint-contract` 8.4).

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::IstioStatus;
use crate::core::{IntOrString, LabelSelector};

/// A port of pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "policy.linkerd.io",
    version = "v1beta3",
    kind = "Server",
    root = "LinkerdServer",
    plural = "servers",
    namespaced,
    status = "IstioStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct LinkerdServerSpec {
    /// Which pods.
    pub pod_selector: Option<LabelSelector>,
    /// Which external workloads.
    pub external_workload_selector: Option<LabelSelector>,
    /// Which port of them; a name or a number.
    pub port: Option<IntOrString>,
    /// What it speaks.
    pub proxy_protocol: Option<String>,
    /// What becomes of traffic that no policy allows.
    pub access_policy: Option<String>,
}

/// Requests per second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "policy.linkerd.io",
    version = "v1alpha1",
    kind = "HTTPLocalRateLimitPolicy",
    root = "HttpLocalRateLimitPolicy",
    plural = "httplocalratelimitpolicies",
    namespaced,
    status = "IstioStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct HttpLocalRateLimitPolicySpec {
    /// A `Server`.
    pub target_ref: LinkerdTargetRef,
    /// Of all clients together.
    #[serde(default)]
    pub total: Option<RateLimitAmount>,
    /// Of each client.
    #[serde(default)]
    pub identity: Option<RateLimitAmount>,
    /// Of single clients.
    #[serde(default)]
    pub overrides: Vec<RateLimitOverride>,
}

/// A thing that a policy attaches to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkerdTargetRef {
    /// API group; empty for core.
    #[serde(default)]
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// Requests per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitAmount {
    /// Above zero.
    pub requests_per_second: u32,
}

/// Requests per second of single clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitOverride {
    /// Above zero.
    pub requests_per_second: u32,
    /// Which clients.
    #[serde(default)]
    pub client_refs: Vec<ClientRef>,
}

/// A client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientRef {
    /// API group; empty for core.
    #[serde(default)]
    pub group: String,
    /// `ServiceAccount`.
    pub kind: String,
    /// Unset means the policy's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}
