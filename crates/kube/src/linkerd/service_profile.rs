//! `linkerd.io` `ServiceProfile` (`waypoint-contract` 8.1).

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::IstioStatus;
use crate::scalar::{ProtoDuration, Weight};

/// Routes, retries and shares of a service; its name is the service's FQDN.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "linkerd.io",
    version = "v1alpha2",
    kind = "ServiceProfile",
    plural = "serviceprofiles",
    shortname = "sp",
    namespaced,
    status = "IstioStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceProfileSpec {
    /// The first that matches wins.
    pub routes: Vec<ProfileRoute>,
    /// One for the service.
    pub retry_budget: Option<ProfileRetryBudget>,
    /// Shares of other services.
    pub dst_overrides: Vec<DstOverride>,
    /// Ports without detection.
    pub opaque_ports: Vec<String>,
}

/// A route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProfileRoute {
    /// For metrics.
    pub name: String,
    /// When it matches.
    pub condition: ProfileCondition,
    /// What is a failure.
    #[serde(default)]
    pub response_classes: Vec<ProfileResponseClass>,
    /// Failures are tried again.
    #[serde(default)]
    pub is_retryable: bool,
    /// Of the response's head.
    #[serde(default)]
    pub timeout: Option<ProtoDuration>,
}

/// When a route matches; everything that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProfileCondition {
    /// The whole path.
    pub path_regex: Option<String>,
    /// The method.
    pub method: Option<String>,
    /// All of them.
    pub all: Vec<Self>,
    /// One of them.
    pub any: Vec<Self>,
    /// Not this.
    pub not: Option<Box<Self>>,
}

/// What a response means.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProfileResponseClass {
    /// For which responses.
    pub condition: ProfileResponseCondition,
    /// Whether it is a failure.
    #[serde(default)]
    pub is_failure: bool,
}

/// For which responses; everything that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProfileResponseCondition {
    /// The status.
    pub status: Option<StatusRange>,
    /// All of them.
    pub all: Vec<Self>,
    /// One of them.
    pub any: Vec<Self>,
    /// Not this.
    pub not: Option<Box<Self>>,
}

/// A range of statuses, both ends included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusRange {
    /// 100 when unset.
    pub min: Option<u32>,
    /// 599 when unset.
    pub max: Option<u32>,
}

/// How many requests may be retries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProfileRetryBudget {
    /// Retries for each request; 0.2 when unset.
    pub retry_ratio: Option<f64>,
    /// 10 when unset.
    pub min_retries_per_second: Option<u32>,
    /// 10 s when unset.
    pub ttl: Option<ProtoDuration>,
}

/// A share of another service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DstOverride {
    /// `host:port`.
    pub authority: String,
    /// Relative; 0 is none.
    pub weight: Weight,
}
