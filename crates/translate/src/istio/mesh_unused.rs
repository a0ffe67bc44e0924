//! Settings of the mesh that are Envoy's or a sidecar's: read, and answered with
//! what to use instead. What waypoints honour is in `mesh` and `telemetry`.

use ambit_kube::{Kind, ObjectKey, Origin, Problem};
use serde_json::Value;

use super::codes;
use super::say::{Fault, Say};
use crate::MeshInfo;

/// What a mesh configuration asks for in vain, where somebody may count on it:
/// warnings for what is about safety, the rest is only told.
pub fn unused_settings(mesh: &MeshInfo) -> Vec<Problem> {
    let key = ObjectKey::new(Kind::MeshConfig, mesh.root_namespace.clone(), "istio");
    let origin = Origin {
        file: "mesh".into(),
        document: 0,
        line: 0,
    };
    let mut say = Say::at(key, origin);
    let Ok(config) = serde_json::to_value(&mesh.config) else {
        return Vec::new();
    };
    for setting in SETTINGS {
        let pointer = format!("/{}", setting.field.replace('.', "/"));
        let Some(written) = config.pointer(&pointer).filter(|value| !is_unset(value)) else {
            continue;
        };
        let value = match written {
            Value::String(text) => text.clone(),
            Value::Object(_) | Value::Array(_) => String::new(),
            other => other.to_string(),
        };
        if setting.when.is_some_and(|when| when != value) {
            continue;
        }
        let fault = Fault {
            field: setting.field,
            value: &value,
            message: setting.message,
            remedy: setting.remedy,
        };
        match setting.when {
            Some(_) => say.warning(codes::MESH_UNUSED, fault),
            None => say.info(codes::MESH_UNUSED, fault),
        }
    }
    say.into_problems()
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.values().all(is_unset),
        _ => false,
    }
}

struct Setting {
    /// With dots.
    field: &'static str,
    /// The only value that is worth a word, which is then a warning.
    when: Option<&'static str>,
    message: &'static str,
    remedy: &'static str,
}

const fn told(field: &'static str, message: &'static str, remedy: &'static str) -> Setting {
    Setting {
        field,
        when: None,
        message,
        remedy,
    }
}

const NO_EFFECT: &str = "proxies here aren't Envoy, so it has no effect";
const ROUTES: &str = "set or remove the header in routes (RequestHeaderModifier, headers)";
const LIMITS: &str =
    "set the Gateway's resources, and AMBIT_WAYPOINT_THREADS where that isn't enough";
const DRAIN: &str =
    "set terminationGracePeriodSeconds of the pod; it decides how long open work has";
const STATS: &str = "use a Telemetry with metrics overrides";

/// By field.
const SETTINGS: &[Setting] = &[
    Setting {
        field: "outboundTrafficPolicy.mode",
        when: Some("REGISTRY_ONLY"),
        message: "node proxies pass traffic to unknown addresses on; nothing is refused for it",
        remedy: "restrict egress with a NetworkPolicy, or send it through a ServiceEntry with a waypoint",
    },
    Setting {
        field: "enableAutoMtls",
        when: Some("false"),
        message: "between pods of the mesh there is mutual TLS always",
        remedy: "remove it; what isn't to be in the mesh gets the label istio.io/dataplane-mode=none",
    },
    told(
        "hboneIdleTimeout",
        "unused connections between proxies are closed by the node proxy's own rule",
        "set POOL_UNUSED_RELEASE_TIMEOUT of ztunnel",
    ),
    told("defaultConfig.concurrency", NO_EFFECT, LIMITS),
    told("defaultConfig.drainDuration", NO_EFFECT, DRAIN),
    told("defaultConfig.terminationDrainDuration", NO_EFFECT, DRAIN),
    told("defaultConfig.proxyStatsMatcher", NO_EFFECT, STATS),
    told("defaultConfig.extraStatTags", NO_EFFECT, STATS),
    told(
        "defaultConfig.gatewayTopology.forwardClientCertDetails",
        "x-forwarded-client-cert of clients is always removed",
        "annotate the Gateway ambient.istio.io/xfcc-include-client-identity to have it made anew",
    ),
    told(
        "defaultConfig.gatewayTopology.proxyProtocol",
        "waypoints are reached by HBONE only",
        "remove it",
    ),
    told(
        "defaultConfig.proxyHeaders.requestId",
        "waypoints always see to an x-request-id",
        ROUTES,
    ),
    told(
        "defaultConfig.proxyHeaders.attemptCount",
        "waypoints write no x-envoy-attempt-count, as upstream's",
        ROUTES,
    ),
    told(
        "defaultConfig.proxyHeaders.envoyDebugHeaders",
        NO_EFFECT,
        ROUTES,
    ),
    told(
        "defaultConfig.proxyHeaders.metadataExchangeHeaders",
        "peers are known by their identity; nothing is exchanged in headers",
        "remove it",
    ),
    told(
        "defaultConfig.proxyHeaders.forwardedClientCert",
        "x-forwarded-client-cert of clients is always removed",
        "annotate the Gateway ambient.istio.io/xfcc-include-client-identity to have it made anew",
    ),
    told(
        "defaultConfig.proxyHeaders.setCurrentClientCertDetails",
        "x-forwarded-client-cert has the client's identity only",
        "remove it",
    ),
    told(
        "defaultConfig.proxyHeaders.xForwardedHost",
        NO_EFFECT,
        ROUTES,
    ),
    told(
        "defaultConfig.proxyHeaders.xForwardedPort",
        NO_EFFECT,
        ROUTES,
    ),
    told("defaultConfig.runtimeValues", NO_EFFECT, "remove it"),
];
