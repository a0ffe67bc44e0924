//! What limits are attached to: services and their ports, routes, waypoints.

use std::sync::Arc;

use ambit_kube::{Kind, Object, ObjectKey, RateLimitTarget};
use ambit_proto::waypoint as pb;

use super::bad;
use crate::security::say::{Fault, Say};
use crate::security::targets::Waypoint;
use crate::security::{Audience, Bound, codes};
use crate::{RouteCondition, ServiceInfo, World};

/// What limits are attached to.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    gateways: Vec<Waypoint>,
    targets: Vec<pb::Target>,
    waypoints: Vec<Waypoint>,
    missing: bool,
    unbound: bool,
}

impl Reach {
    /// A service, or one port of it.
    pub(crate) fn service(&mut self, service: &ServiceInfo, port: u16) {
        self.targets.push(pb::Target {
            frontend: service.key(),
            port: port.into(),
            ..pb::Target::default()
        });
        self.waypoints.extend(service.waypoints.iter().cloned());
    }

    /// The resources: one for waypoints as a whole, one for parts of others.
    pub(crate) fn split(&self, name: &str, body: &pb::RateLimit) -> Vec<Bound<pb::RateLimit>> {
        let sorted = |list: &[Waypoint]| {
            let mut list = list.to_vec();
            list.sort();
            list.dedup();
            list
        };
        let (gateways, mut others) = (sorted(&self.gateways), sorted(&self.waypoints));
        others.retain(|waypoint| !gateways.contains(waypoint));
        let make = |name: String, waypoints: Vec<Waypoint>, targets: Vec<pb::Target>| Bound {
            name,
            audience: Audience::Waypoints(waypoints),
            resource: pb::RateLimit {
                targets,
                ..body.clone()
            },
        };
        let mut all = Vec::new();
        if !gateways.is_empty() {
            all.push(make(
                format!("{name}/gateway"),
                gateways,
                vec![pb::Target::default()],
            ));
        }
        if !others.is_empty() {
            all.push(make(name.to_owned(), others, self.targets.clone()));
        }
        all
    }

    /// `Accepted`.
    pub(crate) fn condition(&self, fault: Option<String>) -> RouteCondition {
        let bound = !self.gateways.is_empty() || !self.waypoints.is_empty();
        let (status, reason, message) = match fault {
            Some(fault) if bound => (true, "PartiallyInvalid", fault),
            None if bound => (true, "Accepted", "counted by its waypoints".to_owned()),
            Some(fault) if self.missing => (false, "TargetNotFound", fault),
            Some(fault) => (false, "Invalid", fault),
            None if self.unbound => (
                false,
                "AncestorNotBound",
                "no waypoint serves the target".to_owned(),
            ),
            None => (false, "Invalid", "attached to nothing".to_owned()),
        };
        RouteCondition {
            kind: "Accepted",
            status,
            reason,
            message,
        }
    }

    /// A target that no waypoint serves.
    pub(crate) fn unbound(&mut self, field: &str, value: &str, say: &mut Say) {
        self.unbound = true;
        say.warning(
            codes::NOT_BOUND,
            Fault {
                field,
                value: Some(value),
                message: "no waypoint serves this, so nobody counts",
                remedy: "label the service, or its namespace, istio.io/use-waypoint: NAME",
            },
        );
    }

    /// A target that isn't there.
    pub(crate) fn missing(&mut self, field: &str, value: &str, say: &mut Say) {
        self.missing = true;
        say.error(
            codes::NO_TARGET,
            Fault {
                field,
                value: Some(value),
                message: "there is no such object",
                remedy: "check the name, and that it is in the same namespace",
            },
        );
    }
}

pub(super) fn attach(
    field: &str,
    target: &RateLimitTarget,
    namespace: &str,
    world: &dyn World,
    reach: &mut Reach,
    say: &mut Say,
) {
    let group = match (target.group.as_deref(), target.kind.as_str()) {
        (Some("core"), _) => "",
        (Some(group), _) => group,
        (None, "ServiceEntry") => "networking.istio.io",
        (None, "Gateway" | "HTTPRoute" | "GRPCRoute") => GATEWAY_API,
        (None, _) => "",
    };
    let named = format!("{} {}", target.kind, target.name);
    let kind = match (group, target.kind.as_str()) {
        ("", "Service") => {
            let service = world.service(namespace, &target.name);
            return services(field, target, service.into_iter().collect(), reach, say);
        }
        ("networking.istio.io", "ServiceEntry") => {
            let services = world.service_entry(namespace, &target.name);
            return self::services(field, target, services, reach, say);
        }
        (GATEWAY_API, "Gateway") => {
            match world.waypoint(namespace, &target.name) {
                Some(waypoint) => reach
                    .gateways
                    .push((Arc::clone(&waypoint.namespace), Arc::clone(&waypoint.name))),
                None => reach.missing(field, &named, say),
            }
            if target.section_name.is_some() {
                let field = format!("{field}.sectionName");
                bad(
                    say,
                    &field,
                    None,
                    "a waypoint has no parts; the limit holds for all of it",
                    "remove it",
                );
            }
            return;
        }
        (GATEWAY_API, "HTTPRoute") => Kind::HttpRoute,
        (GATEWAY_API, "GRPCRoute") => Kind::GrpcRoute,
        _ => {
            let remedy = "refer to a Service, ServiceEntry, HTTPRoute, GRPCRoute or Gateway";
            return bad(
                say,
                field,
                Some(&named),
                "a limit can't attach to this kind",
                remedy,
            );
        }
    };
    let key = ObjectKey::new(kind, namespace, target.name.as_str());
    let Some(route) = world.object(&key) else {
        return reach.missing(field, &named, say);
    };
    let waypoints = waypoints_of_route(&route.object, namespace, world);
    if waypoints.is_empty() {
        return reach.unbound(field, &named, say);
    }
    reach.waypoints.extend(waypoints);
    reach.targets.push(pb::Target {
        route: format!("{kind}/{namespace}/{}", target.name),
        section: target.section_name.clone().unwrap_or_default(),
        ..pb::Target::default()
    });
}

fn services(
    field: &str,
    target: &RateLimitTarget,
    found: Vec<Arc<ServiceInfo>>,
    reach: &mut Reach,
    say: &mut Say,
) {
    let named = format!("{} {}", target.kind, target.name);
    if found.is_empty() {
        return reach.missing(field, &named, say);
    }
    for service in found {
        let port = match target.section_name.as_deref() {
            None => 0,
            Some(section) => {
                let mut ports = service.ports.iter();
                let is_it = |port: &&crate::PortInfo| {
                    *port.name == *section || port.number.to_string() == section
                };
                let Some(port) = ports.find(is_it) else {
                    let field = format!("{field}.sectionName");
                    reach.missing(&field, section, say);
                    continue;
                };
                port.number
            }
        };
        if service.waypoints.is_empty() {
            reach.unbound(field, &named, say);
        } else {
            reach.service(&service, port);
        }
    }
}

/// The waypoints of the services that a route is attached to.
fn waypoints_of_route(route: &Object, namespace: &str, world: &dyn World) -> Vec<Waypoint> {
    let mut parents: Vec<(Option<&str>, Option<&str>, &str)> = Vec::new();
    match route {
        Object::HttpRoute(route) => {
            let refs = route.spec.parent_refs.iter().flatten();
            parents.extend(refs.map(|one| {
                (
                    one.kind.as_deref(),
                    one.namespace.as_deref(),
                    one.name.as_str(),
                )
            }));
        }
        Object::GrpcRoute(route) => {
            let refs = route.spec.parent_refs.iter().flatten();
            parents.extend(refs.map(|one| {
                (
                    one.kind.as_deref(),
                    one.namespace.as_deref(),
                    one.name.as_str(),
                )
            }));
        }
        _ => {}
    }
    let mut waypoints = Vec::new();
    for (kind, of, name) in parents {
        let of = of.unwrap_or(namespace);
        let services = match kind {
            Some("Service") => world.service(of, name).into_iter().collect(),
            Some("ServiceEntry") => world.service_entry(of, name),
            _ => Vec::new(),
        };
        waypoints.extend(
            services
                .iter()
                .flat_map(|service| service.waypoints.clone()),
        );
    }
    waypoints
}

const GATEWAY_API: &str = "gateway.networking.k8s.io";
