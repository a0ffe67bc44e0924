//! Kinds that are for sidecars and for Envoy: each is answered with what to use.

use ambit_kube::{Kind, Located, Object, Problem};

use super::codes;
use super::say::{Fault, Say};

/// What is said about a Sidecar, EnvoyFilter, WasmPlugin, ProxyConfig or
/// TrafficExtension; nothing about other kinds.
pub fn unused(object: &Located<Object>) -> Vec<Problem> {
    let (message, remedy) = match object.object.kind() {
        Kind::Sidecar => (
            "there are no sidecars: every waypoint gets only what its services need, so this changes nothing",
            "remove it; to restrict who calls what, use an AuthorizationPolicy with targetRefs; to limit visibility, exportTo",
        ),
        Kind::EnvoyFilter => (
            "waypoints aren't Envoy, so its patches aren't applied",
            "use HTTPRoute or VirtualService filters, DestinationRule, LocalRateLimit (ambit.mesh), Telemetry, or an AuthorizationPolicy with CUSTOM",
        ),
        Kind::WasmPlugin | Kind::TrafficExtension => (
            "waypoints don't run extensions, so requests pass without it",
            "use an AuthorizationPolicy with CUSTOM and an ext_authz provider for decisions, header filters of routes for changes",
        ),
        Kind::ProxyConfig => (
            "waypoints take no settings of Envoy's from it",
            "set resources on the Gateway (infrastructure.parametersRef), and mesh-wide settings in meshConfig.defaultConfig",
        ),
        _ => return Vec::new(),
    };
    let mut say = Say::about(object.object.key(), object);
    say.warning(
        codes::KIND_REFUSED,
        Fault {
            field: "kind",
            value: object.object.kind().as_str(),
            message,
            remedy,
        },
    );
    say.into_problems()
}
