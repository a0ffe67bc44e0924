//! What a reference of a route leads to: `backendRefs` and mirrors
//! (`waypoint-contract` 2.1, 2.4).
//!
//! Owns validity (kind, ReferenceGrant, existence, port, protocol) in the order
//! in which Gateway API wants it found: whoever may not refer to a namespace
//! doesn't learn what is in it.

use std::sync::Arc;

use ambit_kube::{Code, Kind};
use ambit_proto::waypoint::{BackendRef, Invalid, RouteKind};

use super::codes;
use super::report::{Fault, Report};
use super::spec::ReferenceSpec;
use crate::{PortInfo, Referent, Referrer, ServiceInfo, ServiceKind, World};

/// From where references are judged.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) world: &'a dyn World,
    /// Of the route.
    pub(super) namespace: &'a str,
    /// `namespace/name` of the route.
    pub(super) route: &'a str,
    /// Of the route.
    pub(super) kind: RouteKind,
    /// `HTTPRoute`, ... as grants name it.
    pub(super) kind_name: &'a str,
    /// Namespaces that need no grant: of the parents of a consumer route, whose
    /// services its clients call anyway (2.1).
    pub(super) open: &'a [Arc<str>],
}

/// A reference that can't be followed.
struct Unresolved<'a> {
    reason: &'static str,
    code: Code,
    field: &'a str,
    value: String,
    message: &'static str,
    remedy: String,
}

/// The destination and its service, or `invalid` in its place; weight is the
/// caller's.
pub(super) fn destination(
    report: &mut Report,
    scope: &Scope<'_>,
    field: &str,
    reference: &ReferenceSpec,
) -> (BackendRef, Option<Arc<ServiceInfo>>) {
    match resolve(report, scope, field, reference) {
        Ok((service, port)) => {
            let backend = BackendRef {
                service: service.key(),
                port: u32::from(port),
                ..BackendRef::default()
            };
            (backend, Some(service))
        }
        Err(message) => {
            let backend = BackendRef {
                invalid: Some(invalid(message)),
                ..BackendRef::default()
            };
            (backend, None)
        }
    }
}

/// The answer of Gateway API to what can't be had.
pub(super) fn invalid(reason: String) -> Invalid {
    Invalid {
        reason,
        status: 500,
    }
}

fn resolve(
    report: &mut Report,
    scope: &Scope<'_>,
    field: &str,
    reference: &ReferenceSpec,
) -> Result<(Arc<ServiceInfo>, u16), String> {
    let found = service(scope, field, reference).and_then(|service| {
        let port = port(field, reference, &service)?;
        protocol(scope, field, &service, port)?;
        Ok((Arc::clone(&service), port.number))
    });
    match found {
        Ok((service, number)) => {
            doubts(report, scope, field, &service, number);
            Ok((service, number))
        }
        Err(wrong) => {
            report.unresolved(
                wrong.reason,
                wrong.code,
                Fault {
                    field: wrong.field,
                    value: &wrong.value,
                    message: wrong.message,
                    remedy: &wrong.remedy,
                },
            );
            Err(format!("{} {}: {}", field, wrong.value, wrong.message))
        }
    }
}

fn service<'a>(
    scope: &Scope<'_>,
    field: &'a str,
    reference: &ReferenceSpec,
) -> Result<Arc<ServiceInfo>, Unresolved<'a>> {
    let namespace = reference.namespace.as_deref().unwrap_or(scope.namespace);
    let group = reference.group.as_deref().unwrap_or_default();
    let kind = reference.kind.as_deref().unwrap_or("Service");
    let name = reference.name.as_str();
    let found = match (group, kind) {
        ("", "Service") => {
            permitted(scope, field, (group, kind, namespace, name))?;
            scope.world.service(namespace, name)
        }
        ("networking.istio.io", "ServiceEntry") => {
            permitted(scope, field, (group, kind, namespace, name))?;
            match scope.world.service_entry(namespace, name).as_slice() {
                [] => None,
                [only] => Some(Arc::clone(only)),
                _ => return Err(many_hosts(field, name)),
            }
        }
        ("networking.istio.io", "Hostname") => {
            let found = scope.world.host(name, scope.namespace);
            if let Some(service) = found.as_ref().filter(|s| s.object.kind == Kind::Service) {
                let target = ("", "Service", &*service.namespace, &*service.name);
                permitted(scope, field, target)?;
            }
            found
        }
        _ => return Err(wrong_kind(field, group, kind)),
    };
    let found = found.ok_or_else(|| Unresolved {
        reason: "BackendNotFound",
        code: codes::NO_BACKEND,
        field,
        value: format!("{kind} {namespace}/{name}"),
        message: "there is no such backend",
        remedy: "create it, or correct name and namespace; its share of requests gets 500".into(),
    })?;
    if found.kind == ServiceKind::ExternalName {
        return Err(Unresolved {
            reason: "BackendNotFound",
            code: codes::NO_BACKEND,
            field,
            value: format!("{kind} {namespace}/{name}"),
            message: "a Service of type ExternalName is an alias without endpoints",
            remedy: "declare the host in a ServiceEntry and refer to that".into(),
        });
    }
    Ok(found)
}

fn wrong_kind<'a>(field: &'a str, group: &str, kind: &str) -> Unresolved<'a> {
    let import = group == "multicluster.x-k8s.io" && kind == "ServiceImport";
    Unresolved {
        reason: "InvalidKind",
        code: codes::BACKEND_KIND,
        field,
        value: format!("{group}/{kind}"),
        message: "this kind can't be a backend of a mesh's route",
        remedy: if import {
            "refer to the Service of the same name: in ambient it spans the clusters".into()
        } else {
            "refer to a Service (core), or to a ServiceEntry or Hostname of networking.istio.io"
                .into()
        },
    }
}

fn many_hosts<'a>(field: &'a str, name: &str) -> Unresolved<'a> {
    Unresolved {
        reason: "BackendNotFound",
        code: codes::NO_BACKEND,
        field,
        value: name.to_owned(),
        message: "the ServiceEntry has several hosts, so that the reference is ambiguous",
        remedy: "refer to one host with kind Hostname of networking.istio.io".into(),
    }
}

/// A reference into another namespace needs a ReferenceGrant there.
fn permitted<'a>(
    scope: &Scope<'_>,
    field: &'a str,
    (group, kind, namespace, name): (&str, &str, &str, &str),
) -> Result<(), Unresolved<'a>> {
    let from = Referrer {
        group: "gateway.networking.k8s.io",
        kind: scope.kind_name,
        namespace: scope.namespace,
    };
    let to = Referent {
        group,
        kind,
        namespace,
        name,
    };
    let open = namespace == scope.namespace
        || scope.open.iter().any(|open| **open == *namespace)
        || grants_ignored(scope.world);
    if open || scope.world.granted(&from, &to) {
        return Ok(());
    }
    Err(Unresolved {
        reason: "RefNotPermitted",
        code: codes::NOT_PERMITTED,
        field,
        value: format!("{kind} {namespace}/{name}"),
        message: "no ReferenceGrant lets this route refer to another namespace's backend",
        remedy: format!(
            "create a ReferenceGrant in namespace {namespace} from {} of {} to {kind} {name}, or \
             set {}=ignored for the mesh",
            scope.kind_name,
            scope.namespace,
            super::REFERENCE_GRANTS
        ),
    })
}

fn grants_ignored(world: &dyn World) -> bool {
    let config = world.mesh().config.default_config.as_ref();
    config
        .and_then(|config| config.proxy_metadata.get(super::REFERENCE_GRANTS))
        .is_some_and(|value| value == "ignored")
}

fn port<'s, 'a>(
    field: &'a str,
    reference: &ReferenceSpec,
    service: &'s ServiceInfo,
) -> Result<&'s PortInfo, Unresolved<'a>> {
    let unresolved = |value: String, message, remedy: &str| Unresolved {
        reason: "BackendNotFound",
        code: codes::BACKEND_PORT,
        field,
        value,
        message,
        remedy: remedy.to_owned(),
    };
    let Some(port) = reference.port else {
        return Err(unresolved(
            reference.name.clone(),
            "a backend needs a port",
            "add port, one of the service's",
        ));
    };
    let found = service
        .ports
        .iter()
        .find(|known| i64::from(known.number) == port);
    found.ok_or_else(|| {
        unresolved(
            port.to_string(),
            "the backend has no such port",
            &format!("use one of {}", listed(service)),
        )
    })
}

/// `80 (http), 7070 (grpc)`.
pub(super) fn listed(service: &ServiceInfo) -> String {
    let ports: Vec<String> = service
        .ports
        .iter()
        .map(|port| format!("{} ({})", port.number, port.name))
        .collect();
    if ports.is_empty() {
        "no port at all: the service declares none".to_owned()
    } else {
        ports.join(", ")
    }
}

/// Routes of requests need backends that take requests, as far as the port
/// says what it speaks.
fn protocol<'a>(
    scope: &Scope<'_>,
    field: &'a str,
    service: &ServiceInfo,
    port: &PortInfo,
) -> Result<(), Unresolved<'a>> {
    let declared = port.app_protocol.as_deref().unwrap_or_default();
    let requests = matches!(scope.kind, RouteKind::Http | RouteKind::Grpc);
    let name = declared.to_ascii_lowercase();
    let unknown = name
        .strip_prefix("kubernetes.io/")
        .is_some_and(|word| !["h2c", "ws", "wss"].contains(&word));
    let opaque = ["tcp", "tls", "udp", "mongo", "redis", "mysql"].contains(&name.as_str());
    if name == "udp" || (requests && (unknown || opaque)) {
        return Err(Unresolved {
            reason: "UnsupportedProtocol",
            code: codes::BACKEND_PROTOCOL,
            field,
            value: format!(
                "{} port {} appProtocol {declared}",
                service.name, port.number
            ),
            message: "the backend's port doesn't speak what this route is for",
            remedy: format!(
                "set the port's appProtocol to http, http2, grpc, kubernetes.io/h2c or \
                 kubernetes.io/ws, or use a TCPRoute instead of {}",
                scope.kind_name
            ),
        });
    }
    Ok(())
}

/// What is legal and will likely not work.
fn doubts(report: &mut Report, scope: &Scope<'_>, field: &str, service: &ServiceInfo, number: u16) {
    use ambit_proto::waypoint::Protocol;
    let Some(port) = service.ports.iter().find(|port| port.number == number) else {
        return;
    };
    if scope.kind == RouteKind::Grpc && port.protocol == Protocol::Http {
        report.warning(
            codes::BACKEND_PROTOCOL,
            Fault {
                field,
                value: &format!("{} port {number}", service.name),
                message: "the port is declared as HTTP/1.1, which is what the waypoint speaks to \
                          it; gRPC doesn't work over that",
                remedy: "set the port's appProtocol to grpc or kubernetes.io/h2c",
            },
        );
    }
}
