//! The mesh's settings: a ConfigMap's `mesh` key, or a bare `MeshConfig` document.

use serde_json::{Map, Value};

/// Whether a ConfigMap of that name holds settings.
pub(super) fn is_settings(name: &str) -> bool {
    name == "istio" || name.starts_with("istio-")
}

/// A bare document in the shape of [`crate::MeshConfig`]: whatever isn't its head is a setting.
pub(super) fn from_bare(document: &Value) -> Value {
    let mut spec = document.as_object().cloned().unwrap_or_default();
    let metadata = spec.remove("metadata").unwrap_or(Value::Null);
    spec.remove("apiVersion");
    spec.remove("kind");
    with_spec(metadata, Value::Object(spec))
}

/// The shape of [`crate::MeshConfig`] from its two halves; unnamed settings are `istio-system/istio`.
pub(super) fn with_spec(metadata: Value, spec: Value) -> Value {
    let mut metadata = match metadata {
        Value::Object(metadata) => metadata,
        _ => Map::new(),
    };
    metadata.entry("name").or_insert_with(|| "istio".into());
    metadata
        .entry("namespace")
        .or_insert_with(|| "istio-system".into());
    let mut whole = Map::new();
    whole.insert("metadata".into(), Value::Object(metadata));
    whole.insert("spec".into(), spec);
    Value::Object(whole)
}

/// Whether a setting is upstream's, for sidecars and gateways, and has no meaning in ambient mode.
pub(super) fn is_upstream_setting(name: &str) -> bool {
    UPSTREAM_SETTINGS.contains(&name)
}

const UPSTREAM_SETTINGS: [&str; 23] = [
    "ca",
    "certificates",
    "configSources",
    "disableEnvoyListenerLog",
    "dnsRefreshRate",
    "enableEnvoyAccessLogService",
    "enablePrometheusMerge",
    "inboundClusterStatName",
    "inboundTrafficPolicy",
    "ingressClass",
    "ingressControllerMode",
    "ingressSelector",
    "ingressService",
    "meshMTLS",
    "outboundClusterStatName",
    "proxyHttpPort",
    "proxyInboundListenPort",
    "proxyListenPort",
    "sdsUdsPath",
    "serviceSettings",
    "thriftConfig",
    "tlsDefaults",
    "verifyCertificateAtClient",
];
