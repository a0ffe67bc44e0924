//! `networking.istio.io` `ServiceEntry`.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{IstioCondition, WorkloadEntrySpec};

/// A service that Kubernetes doesn't know.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource,
)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "ServiceEntry",
    plural = "serviceentries",
    shortname = "se",
    namespaced,
    status = "ServiceEntryStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntrySpec {
    /// DNS names.
    pub hosts: Vec<String>,
    /// Virtual addresses or CIDRs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// Whether the service is part of the mesh.
    pub location: Location,
    /// How its endpoints are found.
    pub resolution: Resolution,
    /// Endpoints, written out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<WorkloadEntrySpec>,
    /// Endpoints, by label of pods and workload entries of the same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<SelectorLabels>,
    /// Visibility for sidecars; ignored in ambient mode.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub export_to: Vec<String>,
    /// Identities to expect of the endpoints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
}

/// A port of a service entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// The service's port.
    pub number: u32,
    /// Its protocol, as Istio names them.
    #[serde(default)]
    pub protocol: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// The endpoints' port; 0 means `number`.
    #[serde(default)]
    pub target_port: u32,
}

/// Whether a service is part of the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// It isn't.
    #[default]
    MeshExternal,
    /// It is.
    MeshInternal,
}

/// How endpoints are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// They aren't: connections go to the original address.
    #[default]
    None,
    /// From `endpoints` or `workloadSelector`.
    Static,
    /// By asking DNS.
    Dns,
    /// By asking DNS, all answers in turn.
    DnsRoundRobin,
    /// By asking DNS for the host of the request.
    DynamicDns,
}

/// Workloads by label, as the networking group writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SelectorLabels {
    /// All must be present and equal.
    pub labels: BTreeMap<String, String>,
}

/// What controllers say about a service entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntryStatus {
    /// Conditions by controllers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<IstioCondition>,
    /// Addresses that were allocated for the hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<ServiceEntryAddress>,
}

/// An address that was allocated for a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntryAddress {
    /// The address.
    pub value: String,
    /// The host.
    pub host: String,
}
