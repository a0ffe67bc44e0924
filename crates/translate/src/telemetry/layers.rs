//! Which Telemetry resources hold, in the order of 6.5: root namespace, the
//! waypoint's, the service's, then those attached by `targetRefs`.

use std::sync::Arc;

use ambit_kube::{Kind, Object, Telemetry, TelemetrySpec};

use crate::{ServiceInfo, WaypointInfo, World};

type Layers = Vec<Arc<TelemetrySpec>>;

/// Those of a waypoint as a whole.
pub(super) fn of_waypoint(waypoint: &WaypointInfo, world: &dyn World) -> Layers {
    let root = Arc::clone(&world.mesh().root_namespace);
    let mut layers = Layers::new();
    layers.extend(of_namespace(&root, world));
    if waypoint.namespace != root {
        layers.extend(of_namespace(&waypoint.namespace, world));
    }
    layers.extend(attached(&root, world, |kind, name| {
        kind == "GatewayClass" && *name == *waypoint.class
    }));
    layers.extend(attached(&waypoint.namespace, world, |kind, name| {
        kind == "Gateway" && *name == *waypoint.name
    }));
    layers
}

/// Those of a service behind a waypoint.
pub(super) fn of_service(
    service: &ServiceInfo,
    waypoint: &WaypointInfo,
    world: &dyn World,
) -> Layers {
    let root = Arc::clone(&world.mesh().root_namespace);
    let mut namespaces = vec![&root];
    for namespace in [&waypoint.namespace, &service.namespace] {
        if !namespaces.contains(&namespace) {
            namespaces.push(namespace);
        }
    }
    let wide = namespaces
        .into_iter()
        .filter_map(|namespace| of_namespace(namespace, world));
    let mut layers: Layers = wide.collect();
    layers.extend(attached(&root, world, |kind, name| {
        kind == "GatewayClass" && *name == *waypoint.class
    }));
    layers.extend(attached(&waypoint.namespace, world, |kind, name| {
        kind == "Gateway" && *name == *waypoint.name
    }));
    let own = match service.object.kind {
        Kind::ServiceEntry => "ServiceEntry",
        _ => "Service",
    };
    layers.extend(attached(&service.namespace, world, |kind, name| {
        kind == own && *name == *service.name
    }));
    layers
}

/// The one of a namespace that holds for all of it: the oldest.
pub(super) fn of_namespace(namespace: &str, world: &dyn World) -> Option<Arc<TelemetrySpec>> {
    let wide = telemetries(namespace, world)
        .into_iter()
        .filter(|one| is_wide(&one.spec));
    let oldest = wide.min_by_key(|one| age(one));
    oldest.map(|one| Arc::new(one.spec.clone()))
}

/// Those attached to what `is_it` says, the oldest last so that it wins.
fn attached(
    namespace: &str,
    world: &dyn World,
    is_it: impl Fn(&str, &str) -> bool,
) -> Vec<Arc<TelemetrySpec>> {
    let refers = |one: &Arc<Telemetry>| {
        let mut references = one.spec.target_ref.iter().chain(&one.spec.target_refs);
        references.any(|reference| is_it(&reference.kind, &reference.name))
    };
    let mut found = telemetries(namespace, world);
    found.retain(refers);
    found.sort_by_key(|one| std::cmp::Reverse(age(one)));
    found.iter().map(|one| Arc::new(one.spec.clone())).collect()
}

/// Whether it holds for a whole namespace.
pub(super) fn is_wide(spec: &TelemetrySpec) -> bool {
    spec.target_ref.is_none()
        && spec.target_refs.is_empty()
        && spec
            .selector
            .as_ref()
            .is_none_or(|selector| selector.match_labels.is_empty())
}

/// By age, then name.
pub(super) fn age(one: &Telemetry) -> (String, String) {
    let meta = &one.metadata;
    let created = meta
        .creation_timestamp
        .as_ref()
        .map(|time| time.0.to_string());
    (
        created.unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

/// All of a namespace.
pub(super) fn telemetries(namespace: &str, world: &dyn World) -> Vec<Arc<Telemetry>> {
    let objects = world.objects(Kind::Telemetry, namespace).into_iter();
    objects
        .filter_map(|located| match located.object {
            Object::Telemetry(telemetry) => Some(telemetry),
            _ => None,
        })
        .collect()
}
