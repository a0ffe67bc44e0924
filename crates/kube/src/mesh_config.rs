//! Mesh-wide settings (`control-plane-contract` 8.5).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::{LabelSelector, ObjectMeta};
use crate::{DrKeepalive, DrLocalityLb, ExtensionProvider, ProtoDuration, TelemetryTag, VsRetry};

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
    /// Settings of proxies.
    pub default_config: Option<DefaultConfig>,
    /// Who decides, records or traces, by name.
    pub extension_providers: Vec<ExtensionProvider>,
    /// Providers that are used where nothing else names one.
    pub default_providers: Option<DefaultProviders>,
    /// Whether services in the mesh are dialled with mutual TLS; always so in ambient mode.
    pub enable_auto_mtls: Option<bool>,
    /// `/dev/stdout`; empty or unset: no access log.
    pub access_log_file: Option<String>,
    /// Envoy's format text, or a JSON object as text.
    pub access_log_format: Option<String>,
    /// `TEXT` or `JSON`.
    pub access_log_encoding: Option<String>,
    /// Whether requests are traced at all; unset means where a provider says so.
    pub enable_tracing: Option<bool>,
    /// Trace settings; the place is `defaultConfig.tracing`.
    pub tracing: Option<Value>,
    /// What is done to paths (`waypoint-contract` 4.7).
    pub path_normalization: Option<PathNormalizationConfig>,
    /// Where a VirtualService says nothing of retries (3.3).
    pub default_http_retry_policy: Option<VsRetry>,
    /// Of a connection to a backend; 10 s when unset.
    pub connect_timeout: Option<ProtoDuration>,
    /// Bound of sniffing.
    pub protocol_detection_timeout: Option<ProtoDuration>,
    /// Of an HBONE connection without streams.
    pub hbone_idle_timeout: Option<ProtoDuration>,
    /// Of connections to backends.
    pub tcp_keepalive: Option<DrKeepalive>,
    /// Which localities first.
    pub locality_lb_setting: Option<DrLocalityLb>,
    /// Who sees a VirtualService without `exportTo`.
    pub default_virtual_service_export_to: Vec<String>,
    /// Who sees a DestinationRule without `exportTo`.
    pub default_destination_rule_export_to: Vec<String>,
    /// Who sees a Service without `exportTo`.
    pub default_service_export_to: Vec<String>,
    /// `DO_NOT_UPGRADE` or `UPGRADE`.
    pub h2_upgrade_policy: Option<String>,
}

/// Settings of proxies that matter at a waypoint; the rest is kept as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultConfig {
    /// Sampling and tags.
    pub tracing: Option<TracingConfig>,
    /// Proxies in front.
    pub gateway_topology: Option<GatewayTopology>,
    /// Headers that the proxy adds.
    pub proxy_headers: Option<ProxyHeaders>,
    /// `ISTIO_META_...`; also the settings that are Ambit's own, `AMBIT_...`.
    pub proxy_metadata: BTreeMap<String, String>,
    /// Worker threads.
    pub concurrency: Option<u32>,
    /// How long a drain takes.
    pub drain_duration: Option<ProtoDuration>,
    /// How long the whole end takes.
    pub termination_drain_duration: Option<ProtoDuration>,
    /// Not used.
    pub discovery_address: Option<Value>,
    /// Not used.
    pub image: Option<Value>,
    /// Not used.
    pub hold_application_until_proxy_starts: Option<Value>,
    /// Not used.
    pub proxy_admin_port: Option<Value>,
    /// Not used.
    pub status_port: Option<Value>,
    /// Not used.
    pub stat_name_length: Option<Value>,
    /// Not used.
    pub proxy_stats_matcher: Option<Value>,
    /// Not used.
    pub readiness_probe: Option<Value>,
    /// Not used.
    pub extra_stat_tags: Option<Value>,
    /// Not used.
    pub service_cluster: Option<Value>,
    /// Not used.
    pub control_plane_auth_policy: Option<Value>,
    /// Not used.
    pub config_path: Option<Value>,
    /// Not used.
    pub binary_path: Option<Value>,
    /// Not used.
    pub parent_shutdown_duration: Option<Value>,
    /// Not used.
    pub private_key_provider: Option<Value>,
    /// Not used.
    pub ca_certificates_pem: Option<Value>,
    /// Not used.
    pub runtime_values: Option<Value>,
    /// Not used.
    pub file_flush_interval: Option<Value>,
    /// Not used.
    pub file_flush_min_size_kb: Option<Value>,
}

/// Proxies in front of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayTopology {
    /// How many entries of `x-forwarded-for` are trusted.
    pub num_trusted_proxies: Option<u32>,
    /// `UNDEFINED`, `SANITIZE`, ...; not used by waypoints.
    pub forward_client_cert_details: Option<String>,
    /// Not used by waypoints.
    pub proxy_protocol: Option<Value>,
}

/// Headers that the proxy adds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyHeaders {
    /// `server` in responses.
    pub server: Option<ServerHeader>,
    /// `x-request-id`.
    pub request_id: Option<HeaderSwitch>,
    /// `x-envoy-attempt-count`.
    pub attempt_count: Option<HeaderSwitch>,
    /// `x-envoy-...` for debugging.
    pub envoy_debug_headers: Option<HeaderSwitch>,
    /// `x-envoy-peer-metadata`.
    pub metadata_exchange_headers: Option<Value>,
    /// Not used by waypoints.
    pub forwarded_client_cert: Option<Value>,
    /// Not used by waypoints.
    pub set_current_client_cert_details: Option<Value>,
    /// Header names keep their case.
    pub preserve_http1_header_case: Option<bool>,
    /// `x-forwarded-host`.
    pub x_forwarded_host: Option<HeaderSwitch>,
    /// `x-forwarded-port`.
    pub x_forwarded_port: Option<HeaderSwitch>,
}

/// The `server` header.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerHeader {
    /// Not set.
    pub disabled: Option<bool>,
    /// Its value.
    pub value: Option<String>,
}

/// A header that is on or off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderSwitch {
    /// Off.
    pub disabled: Option<bool>,
    /// On.
    pub enabled: Option<bool>,
}

/// Sampling and tags.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TracingConfig {
    /// Percent.
    pub sampling: Option<f64>,
    /// By name.
    pub custom_tags: BTreeMap<String, TelemetryTag>,
    /// Characters of a path in a tag.
    pub max_path_tag_length: Option<u32>,
    /// Istio's own tags; true when unset.
    pub enable_istio_tags: Option<bool>,
    /// The older form of a provider.
    pub zipkin: Option<Value>,
    /// The older form of a provider.
    pub lightstep: Option<Value>,
    /// The older form of a provider.
    pub datadog: Option<Value>,
    /// The older form of a provider.
    pub stackdriver: Option<Value>,
    /// The older form of a provider.
    pub open_census_agent: Option<Value>,
    /// Not used.
    pub tls_settings: Option<Value>,
}

/// What is done to paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathNormalizationConfig {
    /// `DEFAULT`, `NONE`, `BASE`, `MERGE_SLASHES` or `DECODE_AND_MERGE_SLASHES`.
    pub normalization: Option<String>,
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

/// Providers that are used where nothing else names one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultProviders {
    /// Of spans.
    pub tracing: Vec<String>,
    /// Of metrics.
    pub metrics: Vec<String>,
    /// Of access logs.
    pub access_logging: Vec<String>,
}
