//! Mesh-wide settings (`control-plane-contract` 8.5).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::{LabelSelector, ObjectMeta};

/// The mesh-wide settings and where they came from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshConfig {
    /// Of the ConfigMap; `istio-system/istio` for a bare document without metadata.
    pub metadata: ObjectMeta,
    /// The settings.
    pub spec: MeshConfigSpec,
}

/// The settings that matter in ambient mode. Unset means the contract's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfigSpec {
    /// The trust domain of all identities; `cluster.local` when unset.
    pub trust_domain: Option<String>,
    /// Other trust domains that mean the same mesh.
    pub trust_domain_aliases: Vec<String>,
    /// The namespace whose policies hold for the whole mesh; the system namespace when unset.
    pub root_namespace: Option<String>,
    /// Which namespaces are looked at; empty means all.
    pub discovery_selectors: Vec<LabelSelector>,
    /// Who sees which ServiceEntry.
    pub service_entry_visibility: Option<ServiceEntryVisibility>,
    /// Which services are visible to other clusters; unset means the ambient default.
    pub service_scope_configs: Option<Vec<ScopeConfig>>,
    /// Additional roots of trust.
    pub ca_certificates: Vec<CertificateData>,
    /// For unknown destinations; waypoints and gateways only.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    /// Waypoints only.
    pub default_config: Option<Value>,
    /// Waypoints only.
    pub extension_providers: Option<Value>,
    /// Waypoints only.
    pub default_providers: Option<Value>,
    /// Waypoints only.
    pub enable_auto_mtls: Option<bool>,
    /// Waypoints only.
    pub access_log_file: Option<String>,
    /// Waypoints only.
    pub tracing: Option<Value>,
}

/// Who sees which ServiceEntry (`control-plane-contract` 3.4).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntryVisibility {
    /// `PUBLIC`, `NAMESPACE` or `NONE` where no policy matches.
    pub default: Option<String>,
    /// The first whose rules all match the namespace wins.
    pub policies: Vec<VisibilityPolicy>,
    /// Whether sidecars follow it too; not used.
    pub apply_to_sidecars: Option<bool>,
}

/// One step of [`ServiceEntryVisibility`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VisibilityPolicy {
    /// All must match; none is a catch-all.
    pub rules: Vec<VisibilityRule>,
    /// `PUBLIC`, `NAMESPACE` or `NONE`.
    pub visibility: Option<String>,
}

/// One condition on a ServiceEntry's namespace. An unknown kind of rule never matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VisibilityRule {
    /// The namespace is one of these, by name.
    pub namespaces: Option<Vec<String>>,
    /// The namespace's labels match.
    pub namespace_selector: Option<BTreeMap<String, String>>,
}

/// Which services are visible to other clusters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScopeConfig {
    /// By labels of the namespace.
    pub namespace_selector: Option<LabelSelector>,
    /// By labels of the service.
    pub services_selector: Option<LabelSelector>,
    /// `LOCAL` or `GLOBAL`.
    pub scope: Option<String>,
}

/// A root of trust.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CertificateData {
    /// PEM text.
    pub pem: Option<String>,
    /// Where to fetch a SPIFFE bundle.
    pub spiffe_bundle_url: Option<String>,
    /// For which signers; unset means all.
    pub cert_signers: Vec<String>,
    /// For which trust domains; unset means ours.
    pub trust_domains: Vec<String>,
}

/// What to do with unknown destinations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutboundTrafficPolicy {
    /// `ALLOW_ANY` or `REGISTRY_ONLY`.
    pub mode: Option<String>,
}
