//! Other objects about the same service: routes of a kind that goes before
//! (`waypoint-contract` 2.1), and VirtualServices (3.6).

use std::sync::Arc;

use ambit_kube::{Kind, Object};
use ambit_proto::waypoint::RouteKind;

use super::codes;
use super::parents::speaks;
use super::report::{Fault, Report};
use super::spec::ParentRef;
use crate::{PortInfo, ServiceInfo, World};

/// Routes of kinds that go before, with what they are attached to.
#[derive(Debug, Default)]
pub(super) struct Rivals(Vec<Rival>);

#[derive(Debug)]
struct Rival {
    label: String,
    kind: RouteKind,
    namespace: String,
    parents: Vec<ParentRef>,
}

impl Rivals {
    /// Those of the route's own namespace: a producer's rivals are of the
    /// service's namespace, and a consumer's of the clients', which is the same
    /// one for both.
    pub(super) fn find(world: &dyn World, namespace: &str, kind: RouteKind) -> Self {
        let before: &[(Kind, RouteKind)] = match kind {
            RouteKind::Grpc => &[],
            RouteKind::Http => &BEFORE[..1],
            RouteKind::Tls => &BEFORE[..2],
            RouteKind::Tcp => &BEFORE,
        };
        let mut rivals = Vec::new();
        for (object_kind, kind) in before {
            for object in world.objects(*object_kind, namespace) {
                rivals.push(Rival {
                    label: format!("{object_kind} {}", object.object.key().name),
                    kind: *kind,
                    namespace: namespace.to_owned(),
                    parents: parent_refs(&object.object),
                });
            }
        }
        Self(rivals)
    }

    /// Who has this port.
    pub(super) fn of(&self, service: &ServiceInfo, port: &PortInfo) -> Option<&str> {
        let has = |rival: &&Rival| {
            speaks(rival.kind, port.protocol)
                && rival
                    .parents
                    .iter()
                    .any(|parent| names(parent, &rival.namespace, service) && parent.covers(port))
        };
        self.0.iter().find(has).map(|rival| &*rival.label)
    }
}

/// Whether a reference is to this service's object.
fn names(parent: &ParentRef, own: &str, service: &ServiceInfo) -> bool {
    let object = &service.object;
    parent.kind() == (object.kind.group(), object.kind.as_str())
        && parent.namespace.as_deref().unwrap_or(own) == &*object.namespace
        && *parent.name == *object.name
}

/// The parents of a route of any kind.
fn parent_refs(object: &Object) -> Vec<ParentRef> {
    let value = match object {
        Object::GrpcRoute(route) => serde_json::to_value(&route.spec.parent_refs),
        Object::HttpRoute(route) => serde_json::to_value(&route.spec.parent_refs),
        Object::TlsRoute(route) => serde_json::to_value(&route.spec.parent_refs),
        Object::TcpRoute(route) => serde_json::to_value(&route.spec.parent_refs),
        _ => return Vec::new(),
    };
    let parents = value
        .ok()
        .and_then(|value| serde_json::from_value(value).ok());
    parents.unwrap_or_default()
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
