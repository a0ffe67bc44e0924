//! Other objects about the same service: routes of a kind that goes before
//! (`waypoint-contract` 2.1), and VirtualServices (3.6).

use std::sync::Arc;

use ambit_kube::{Kind, Object, ObjectKey};
use ambit_proto::waypoint::RouteKind;

use super::codes;
use super::parents::speaks;
use super::report::{Fault, Report};
use super::spec::ParentRef;
use crate::{Claim, PortInfo, ServiceInfo, World};

/// Routes of kinds that go before, as far as they are about the same services.
#[derive(Clone, Copy)]
pub(super) struct Rivals<'a> {
    world: &'a dyn World,
    namespace: &'a str,
    before: &'static [(Kind, RouteKind)],
}

impl<'a> Rivals<'a> {
    /// Those of the route's own namespace: a producer's rivals are of the
    /// service's namespace, and a consumer's of the clients', which is the same
    /// one for both.
    pub(super) fn new(world: &'a dyn World, namespace: &'a str, kind: RouteKind) -> Self {
        let before: &[_] = match kind {
            RouteKind::Grpc => &[],
            RouteKind::Http => &BEFORE[..1],
            RouteKind::Tls => &BEFORE[..2],
            RouteKind::Tcp => &BEFORE,
        };
        Self {
            world,
            namespace,
            before,
        }
    }

    /// Who has this port.
    pub(super) fn of(&self, service: &ServiceInfo, port: &PortInfo) -> Option<String> {
        let speaking = self
            .before
            .iter()
            .filter(|(_, kind)| speaks(*kind, port.protocol));
        for (kind, _) in speaking {
            let claims = self.world.claims(*kind, self.namespace, &service.object);
            let on_port = claims.into_iter().filter(|claim| claim.covers(port));
            if let Some(route) = on_port.map(|claim| claim.route).min() {
                return Some(format!("{kind} {route}"));
            }
        }
        None
    }
}

impl Claim {
    /// Whether it is about this port (2.1), by number and by name.
    fn covers(&self, port: &PortInfo) -> bool {
        self.port
            .is_none_or(|number| number == i64::from(port.number))
            && self
                .section
                .as_ref()
                .is_none_or(|name| **name == *port.name)
    }
}

/// What a route of Gateway API is attached to of Services and ServiceEntries,
/// by its own word; for whoever answers [`World::claims`]. Nothing for objects
/// of other kinds.
pub fn claims(route: &Object) -> Vec<(ObjectKey, Claim)> {
    let value = match route {
        Object::GrpcRoute(route) => serde_json::to_value(&route.spec.parent_refs),
        Object::HttpRoute(route) => serde_json::to_value(&route.spec.parent_refs),
        Object::TlsRoute(route) => serde_json::to_value(&route.spec.parent_refs),
        Object::TcpRoute(route) => serde_json::to_value(&route.spec.parent_refs),
        _ => return Vec::new(),
    };
    let parents = value
        .ok()
        .and_then(|value| serde_json::from_value::<Vec<ParentRef>>(value).ok());
    let key = route.key();
    let of = |parent: ParentRef| {
        let kinds = [Kind::Service, Kind::ServiceEntry].into_iter();
        let mut named = kinds.filter(|kind| parent.kind() == (kind.group(), kind.as_str()));
        let namespace = parent.namespace.as_deref().unwrap_or(&key.namespace);
        let service = ObjectKey::new(named.next()?, namespace, parent.name.as_str());
        let claim = Claim {
            route: Arc::clone(&key.name),
            port: parent.port,
            section: parent.section_name.as_deref().map(Arc::from),
        };
        Some((service, claim))
    };
    parents
        .unwrap_or_default()
        .into_iter()
        .filter_map(of)
        .collect()
}

/// Reports VirtualServices of the mesh that are about the same services.
pub(super) fn mixed(
    report: &mut Report,
    world: &dyn World,
    namespace: &str,
    services: &[Arc<ServiceInfo>],
) {
    for service in services {
        let mut namespaces = vec![&*service.namespace];
        let waypoints = service.waypoints.iter().map(|(waypoint, _)| &**waypoint);
        for other in std::iter::once(namespace).chain(waypoints) {
            if !namespaces.contains(&other) {
                namespaces.push(other);
            }
        }
        for namespace in namespaces {
            for object in world.objects(Kind::VirtualService, namespace) {
                if let Object::VirtualService(other) = &object.object
                    && routes(&other.spec, namespace, service, world)
                {
                    both(report, service, &object.object.key().name, namespace);
                }
            }
        }
    }
}

/// Whether a VirtualService is about a service of the mesh.
fn routes(
    spec: &ambit_kube::VirtualServiceSpec,
    namespace: &str,
    service: &ServiceInfo,
    world: &dyn World,
) -> bool {
    let in_mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == "mesh");
    in_mesh
        && spec.hosts.iter().any(|host| {
            let host = host.to_ascii_lowercase();
            if host.contains('.') || host.starts_with('*') {
                match host.strip_prefix('*') {
                    Some(suffix) => service.hostname.ends_with(suffix),
                    None => *host == *service.hostname,
                }
            } else {
                let domain = &world.mesh().cluster_domain;
                format!("{host}.{namespace}.svc.{domain}") == *service.hostname
            }
        })
}

fn both(report: &mut Report, service: &ServiceInfo, name: &str, namespace: &str) {
    report.warning(
        codes::MIXED,
        Fault {
            field: "spec.parentRefs",
            value: &format!(
                "VirtualService {namespace}/{name}, host {}",
                service.hostname
            ),
            message: "a VirtualService is about the same service: there is no order between the \
                      two, and the older object's rules are tried first",
            remedy: "use one of the two kinds for a service",
        },
    );
}

/// In the order of precedence (2.1).
const BEFORE: [(Kind, RouteKind); 3] = [
    (Kind::GrpcRoute, RouteKind::Grpc),
    (Kind::HttpRoute, RouteKind::Http),
    (Kind::TlsRoute, RouteKind::Tls),
];
