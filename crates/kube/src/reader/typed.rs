//! From a value to a typed object, with everything that didn't fit.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::path::FieldPath;
use crate::data::ReportedShape;
use crate::{Kind, Object};

/// What came of a value.
pub(super) struct Typed {
    /// The object; none when a value is of the wrong type or missing.
    pub(super) object: Option<Object>,
    /// Fields that the kind doesn't have. When there is no object, those before the misfit only.
    pub(super) unknown: Vec<FieldPath>,
    /// Why there is no object.
    pub(super) misfit: Option<Misfit>,
}

/// A value that doesn't fit.
pub(super) struct Misfit {
    /// Where; for a missing field the object that lacks it.
    pub(super) at: FieldPath,
    /// In serde's words.
    pub(super) why: String,
}

/// Makes the object of a kind.
pub(super) fn object(kind: Kind, value: &Value) -> Typed {
    match kind {
        Kind::MeshConfig => typed(value, Object::MeshConfig),
        Kind::Namespace => typed(value, Object::Namespace),
        Kind::Node => typed(value, Object::Node),
        Kind::ServiceAccount => typed(value, Object::ServiceAccount),
        Kind::Pod => typed(value, Object::Pod),
        Kind::Service => typed(value, Object::Service),
        Kind::EndpointSlice => typed(value, Object::EndpointSlice),
        Kind::ServiceEntry => typed(value, Object::ServiceEntry),
        Kind::WorkloadEntry => typed(value, Object::WorkloadEntry),
        Kind::AuthorizationPolicy => typed(value, Object::AuthorizationPolicy),
        Kind::PeerAuthentication => typed(value, Object::PeerAuthentication),
        Kind::ConfigMap => typed(value, Object::ConfigMap),
        Kind::Secret => typed(value, Object::Secret),
        Kind::RequestAuthentication => typed(value, Object::RequestAuthentication),
        Kind::GatewayClass => typed(value, Object::GatewayClass),
        Kind::Gateway => typed(value, Object::Gateway),
        Kind::ReferenceGrant => typed(value, Object::ReferenceGrant),
        Kind::BackendTlsPolicy => typed(value, Object::BackendTlsPolicy),
        Kind::XBackendTrafficPolicy => typed(value, Object::XBackendTrafficPolicy),
        Kind::HttpRoute => typed(value, Object::HttpRoute),
        Kind::GrpcRoute => typed(value, Object::GrpcRoute),
        Kind::TcpRoute => typed(value, Object::TcpRoute),
        Kind::TlsRoute => typed(value, Object::TlsRoute),
        Kind::VirtualService => typed(value, Object::VirtualService),
        Kind::DestinationRule => typed(value, Object::DestinationRule),
        Kind::Telemetry => typed(value, Object::Telemetry),
        Kind::LocalRateLimit => typed(value, Object::LocalRateLimit),
        Kind::ServiceProfile => typed(value, Object::ServiceProfile),
        Kind::LinkerdServer => typed(value, Object::LinkerdServer),
        Kind::HttpLocalRateLimitPolicy => typed(value, Object::HttpLocalRateLimitPolicy),
        Kind::TrafficSplit => typed(value, Object::TrafficSplit),
        Kind::HttpRouteGroup => typed(value, Object::HttpRouteGroup),
        Kind::Sidecar
        | Kind::EnvoyFilter
        | Kind::ProxyConfig
        | Kind::WasmPlugin
        | Kind::TrafficExtension
        | Kind::LinkerdAuthorizationPolicy
        | Kind::ServerAuthorization
        | Kind::MeshTlsAuthentication
        | Kind::NetworkAuthentication
        | Kind::EgressNetwork
        | Kind::LinkerdHttpRoute => typed(value, |shape: Arc<ReportedShape>| {
            Object::Reported(shape.of(kind))
        }),
    }
}

fn typed<T: DeserializeOwned>(value: &Value, wrap: impl FnOnce(Arc<T>) -> Object) -> Typed {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let result: Result<T, serde_json::Error> = serde_ignored::deserialize(deserializer, |path| {
        unknown.push(FieldPath::from(&path));
    });
    match result {
        Ok(object) => Typed {
            object: Some(wrap(Arc::new(object))),
            unknown,
            misfit: None,
        },
        Err(error) => {
            let at = FieldPath::from(&track.path());
            Typed {
                object: None,
                unknown,
                misfit: Some(Misfit {
                    at,
                    why: error.to_string(),
                }),
            }
        }
    }
}

impl Misfit {
    /// The name of the missing field, if that is the misfit.
    pub(super) fn missing_field(&self) -> Option<&str> {
        between(&self.why, "missing field `", "`")
    }

    /// The allowed words, if the misfit is a word that isn't among them.
    pub(super) fn allowed_words(&self) -> Vec<&str> {
        match self.why.split_once("expected ") {
            Some((head, list)) if head.starts_with("unknown variant") => {
                list.split('`').skip(1).step_by(2).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What should have been there, in serde's words.
    pub(super) fn expected(&self) -> Option<&str> {
        self.why
            .split_once(", expected ")
            .map(|(_, expected)| expected)
    }
}

fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

/// Takes the `null` entries out of all maps, as the API server does.
pub(super) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// Fields of a policy that are written and empty, which would match as if they weren't there.
pub(super) fn empties(policy: &Value) -> Vec<FieldPath> {
    let mut found = Vec::new();
    if let Some(spec) = policy.get("spec") {
        let at = FieldPath::of(&["spec"]);
        collect_empties(spec, &at, &mut found);
    }
    found
}

fn collect_empties(value: &Value, at: &FieldPath, found: &mut Vec<FieldPath>) {
    let must_hold_something = |at: &FieldPath| {
        at.last_key()
            .is_some_and(|key| !MAY_BE_EMPTY.contains(&key))
            && at.0.len() > 1
    };
    match value {
        Value::Null => found.push(at.clone()),
        Value::Array(items) if items.is_empty() && must_hold_something(at) => {
            found.push(at.clone());
        }
        Value::Object(map) if map.is_empty() && must_hold_something(at) => found.push(at.clone()),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect_empties(item, &at.index(index), found);
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                collect_empties(value, &at.key(key), found);
            }
        }
        _ => {}
    }
}

/// Fields whose emptiness has a meaning of its own: no rules match nothing, an empty selector selects all.
const MAY_BE_EMPTY: [&str; 5] = ["rules", "selector", "matchLabels", "mtls", "portLevelMtls"];
