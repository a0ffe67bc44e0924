//! The Telemetry API and the mesh's telemetry settings, as a waypoint's
//! (`waypoint-contract` section 6).
//!
//! Owns which resources hold for a waypoint or a service, in which order, and
//! what comes out. It doesn't own recording: the proxy's `observe` does. What it
//! doesn't support is left out and said, and never changes the rest.

mod access_log;
mod codes;
mod expression;
mod layers;
mod metrics;
mod object;
mod settings;
mod tracing;

pub use object::object;
pub use settings::mesh;

use ambit_kube::TelemetrySpec;
use ambit_proto::waypoint as pb;

use crate::{MeshInfo, ServiceInfo, WaypointInfo, World};

/// What a waypoint records, where a frontend says nothing else.
pub fn gateway(waypoint: &WaypointInfo, world: &dyn World) -> pb::Telemetry {
    compose(&layers::of_waypoint(waypoint, world), world)
}

/// What a waypoint records for a service; none where that is as the waypoint's.
pub fn frontend(
    service: &ServiceInfo,
    waypoint: &WaypointInfo,
    world: &dyn World,
) -> Option<pb::Telemetry> {
    let of_waypoint = layers::of_waypoint(waypoint, world);
    let layers = layers::of_service(service, waypoint, world);
    (layers != of_waypoint).then(|| compose(&layers, world))
}

/// Whether waypoints also write series with `reporter="destination"` (CLI
/// contract 6.1): `AMBIT_DESTINATION_REPORTER` in `defaultConfig.proxyMetadata`.
pub fn destination_reporter(mesh: &MeshInfo) -> bool {
    let config = mesh.config.default_config.as_ref();
    let value = config.and_then(|config| config.proxy_metadata.get("AMBIT_DESTINATION_REPORTER"));
    value.is_some_and(|value| value == "true")
}

/// All layers, the widest first.
fn compose(layers: &[std::sync::Arc<TelemetrySpec>], world: &dyn World) -> pb::Telemetry {
    let overrides = metrics::overrides(layers, &mut metrics::Quiet);
    pb::Telemetry {
        access_log: Some(access_log::of(layers, world)),
        tracing: Some(tracing::of(layers, world)),
        metrics: overrides,
        metrics_disabled: false,
    }
}
