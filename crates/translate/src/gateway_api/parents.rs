//! Where a route is attached: its `parentRefs` (`waypoint-contract` 2.1).

use std::sync::Arc;

use ambit_proto::waypoint::{Parent, Protocol, RouteKind};
use serde_json::Value;

use super::backends::listed;
use super::codes;
use super::conflicts::Rivals;
use super::report::{Failure, Fault, Report};
use super::spec::ParentRef;
use crate::{PortInfo, ServiceInfo, ServiceKind, World};

/// One `parentRef` and what became of it.
#[derive(Debug)]
pub(super) struct Judged {
    /// As written.
    pub(super) value: Value,
    /// The route's namespace isn't the parent's: it is for clients of the
    /// route's namespace only.
    pub(super) consumer: bool,
    pub(super) place: Place,
    /// Whether a waypoint serves everything behind it; none: nothing is.
    pub(super) waypoint: Option<bool>,
}

/// What became of a parent.
#[derive(Debug)]
pub(super) enum Place {
    /// Another controller's.
    Foreign,
    Refused(Failure),
    Attached {
        parents: Vec<Parent>,
        services: Vec<Arc<ServiceInfo>>,
        /// What it lost to others, in words.
        note: String,
    },
}

/// Who asks.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) world: &'a dyn World,
    pub(super) namespace: &'a str,
    pub(super) kind: RouteKind,
    pub(super) rivals: Rivals<'a>,
}

/// Judges all parents, in their order.
pub(super) fn judge(report: &mut Report, asker: Asker<'_>, refs: &[Value]) -> Vec<Judged> {
    refs.iter()
        .enumerate()
        .map(|(index, value)| {
            let field = format!("spec.parentRefs[{index}]");
            let parent = ParentRef::of(value);
            let namespace = parent.namespace.as_deref().unwrap_or(asker.namespace);
            let (place, waypoint) = place(report, asker, &field, &parent);
            Judged {
                value: value.clone(),
                consumer: namespace != asker.namespace,
                place,
                waypoint,
            }
        })
        .collect()
}

impl ParentRef {
    /// What a reference says; a value that isn't one names nothing.
    pub(super) fn of(value: &Value) -> Self {
        serde_json::from_value(value.clone()).unwrap_or_default()
    }

    /// Group and kind, with Gateway API's defaults.
    pub(super) fn kind(&self) -> (&str, &str) {
        (
            self.group.as_deref().unwrap_or("gateway.networking.k8s.io"),
            self.kind.as_deref().unwrap_or("Gateway"),
        )
    }

    /// Whether it is attached to this port (2.1), by number and by name.
    pub(super) fn covers(&self, port: &PortInfo) -> bool {
        self.port
            .is_none_or(|number| number == i64::from(port.number))
            && self
                .section_name
                .as_ref()
                .is_none_or(|name| **name == *port.name)
    }
}

fn place(
    report: &mut Report,
    asker: Asker<'_>,
    field: &str,
    parent: &ParentRef,
) -> (Place, Option<bool>) {
    let namespace = parent.namespace.as_deref().unwrap_or(asker.namespace);
    let services = match parent.kind() {
        ("", "Service") => {
            let found = asker.world.service(namespace, &parent.name);
            found.into_iter().collect()
        }
        ("networking.istio.io", "ServiceEntry") => {
            asker.world.service_entry(namespace, &parent.name)
        }
        ("gateway.networking.k8s.io", "Gateway") => {
            return (gateway(report, asker, field, parent), None);
        }
        (group, kind) => return (wrong_kind(report, field, group, kind), None),
    };
    let shown = format!("{} {namespace}/{}", parent.kind().1, parent.name);
    if services.is_empty() {
        let fault = Fault {
            field,
            value: &shown,
            message: "there is no such parent, so that the route isn't attached to it",
            remedy: "create it, or correct name and namespace",
        };
        return (
            refuse(report, "NoMatchingParent", codes::NO_PARENT, fault),
            None,
        );
    }
    let bound = services.iter().all(|service| !service.waypoints.is_empty());
    (
        attach(report, asker, (field, &shown), parent, services),
        Some(bound),
    )
}

fn attach(
    report: &mut Report,
    asker: Asker<'_>,
    (field, shown): (&str, &str),
    parent: &ParentRef,
    services: Vec<Arc<ServiceInfo>>,
) -> Place {
    let front = |service: &Arc<ServiceInfo>| {
        !matches!(
            service.kind,
            ServiceKind::Headless | ServiceKind::ExternalName
        )
    };
    if !services.iter().all(front) {
        let fault = Fault {
            field,
            value: shown,
            message: "a headless Service or one of type ExternalName has no front end to which \
                      a route could be attached",
            remedy: "give the Service a cluster IP, or attach the route to another one",
        };
        return refuse(report, "UnsupportedValue", codes::PARENT_SERVICE, fault);
    }
    let mut parents = Vec::new();
    let mut lost: Vec<String> = Vec::new();
    let mut seen = Seen::default();
    for service in &services {
        let kept = ports(asker, parent, service, &mut seen, &mut lost);
        let whole = parent.port.is_none() && parent.section_name.is_none() && lost.is_empty();
        if whole && !kept.is_empty() {
            parents.push(of(service, 0));
        } else {
            parents.extend(kept.into_iter().map(|number| of(service, number)));
        }
    }
    if parents.is_empty() {
        return nothing_left(
            report,
            (field, shown),
            asker.kind,
            (&seen, &lost),
            &services,
        );
    }
    let note = if lost.is_empty() {
        String::new()
    } else {
        let note = format!(
            "but not to what other kinds of routes have: {}",
            lost.join(", ")
        );
        report.warning(codes::CONFLICT, rival_fault(field, &note));
        note
    };
    unserved(report, field, shown, &services);
    Place::Attached {
        parents,
        services,
        note,
    }
}

/// Whether ports were there to be attached to.
#[derive(Debug, Default)]
struct Seen {
    named: bool,
    speaking: bool,
}

fn ports(
    asker: Asker<'_>,
    parent: &ParentRef,
    service: &ServiceInfo,
    seen: &mut Seen,
    lost: &mut Vec<String>,
) -> Vec<u16> {
    let mut kept = Vec::new();
    for port in service.ports.iter().filter(|port| parent.covers(port)) {
        seen.named = true;
        if !speaks(asker.kind, port.protocol) {
            continue;
        }
        seen.speaking = true;
        match asker.rivals.of(service, port) {
            Some(rival) => lost.push(format!("port {} ({rival})", port.number)),
            None => kept.push(port.number),
        }
    }
    kept
}

/// Whether a port's traffic can be such a route's at all (1.8).
pub(super) fn speaks(kind: RouteKind, protocol: Protocol) -> bool {
    match kind {
        RouteKind::Http | RouteKind::Grpc => !matches!(protocol, Protocol::Tcp | Protocol::Tls),
        RouteKind::Tls => matches!(protocol, Protocol::Auto | Protocol::Tls),
        RouteKind::Tcp => matches!(protocol, Protocol::Auto | Protocol::Tcp | Protocol::Tls),
    }
}

fn nothing_left(
    report: &mut Report,
    (field, shown): (&str, &str),
    kind: RouteKind,
    (seen, lost): (&Seen, &[String]),
    services: &[Arc<ServiceInfo>],
) -> Place {
    let ports: Vec<String> = services.iter().map(|service| listed(service)).collect();
    if !seen.named {
        let fault = Fault {
            field,
            value: shown,
            message: "the parent has no such port",
            remedy: &format!("use one of {}", ports.join(", ")),
        };
        return refuse(report, "NoMatchingParent", codes::PARENT_PORT, fault);
    }
    if !seen.speaking {
        let words = match kind {
            RouteKind::Http => "http, http2 or grpc",
            RouteKind::Grpc => "grpc or kubernetes.io/h2c",
            RouteKind::Tls => "tls or https",
            RouteKind::Tcp => "tcp",
        };
        let fault = Fault {
            field,
            value: shown,
            message: "the port's declared protocol isn't one that this kind of route is for",
            remedy: &format!("set the port's appProtocol to {words}, or use another kind of route"),
        };
        return refuse(
            report,
            "NotAllowedByListeners",
            codes::PARENT_PROTOCOL,
            fault,
        );
    }
    let note = format!("other kinds of routes have {}", lost.join(", "));
    refuse(
        report,
        "Conflicted",
        codes::CONFLICT,
        rival_fault(field, &note),
    )
}

fn rival_fault<'a>(field: &'a str, note: &'a str) -> Fault<'a> {
    Fault {
        field,
        value: note,
        message: "on one port of a service GRPCRoutes win over HTTPRoutes, those over TLSRoutes, \
                  and those over TCPRoutes",
        remedy: "use one kind of route for the port, or name different ports in parentRefs",
    }
}

/// A route takes effect at waypoints only.
fn unserved(report: &mut Report, field: &str, shown: &str, services: &[Arc<ServiceInfo>]) {
    if services.iter().all(|service| !service.waypoints.is_empty()) {
        return;
    }
    report.warning(
        codes::NO_WAYPOINT,
        Fault {
            field,
            value: shown,
            message: "no waypoint serves the parent, so that the route has no effect yet",
            remedy: "label the Service or its namespace istio.io/use-waypoint: NAME",
        },
    );
}

/// Gateways of ingress are other controllers'; a waypoint is no parent of routes.
fn gateway(report: &mut Report, asker: Asker<'_>, field: &str, parent: &ParentRef) -> Place {
    let namespace = parent.namespace.as_deref().unwrap_or(asker.namespace);
    let shown = format!("Gateway {namespace}/{}", parent.name);
    let fault = Fault {
        field,
        value: &shown,
        message: "this is a route of a gateway; Ambit's waypoints take routes that are attached \
                  to services",
        remedy: "to use it in the mesh, add a parentRef with group \"\" and kind Service",
    };
    if asker.world.waypoint(namespace, &parent.name).is_some() {
        return refuse(report, "UnsupportedValue", codes::PARENT_KIND, fault);
    }
    report.info(codes::PARENT_KIND, fault);
    Place::Foreign
}

fn wrong_kind(report: &mut Report, field: &str, group: &str, kind: &str) -> Place {
    let remedy = if kind == "ServiceImport" {
        "attach it to the Service of the same name: in ambient it spans the clusters"
    } else {
        "attach it to a Service (group \"\"), or to a ServiceEntry of networking.istio.io"
    };
    let shown = format!("{group}/{kind}");
    let fault = Fault {
        field,
        value: &shown,
        message: "this kind can't be a parent in a mesh",
        remedy,
    };
    refuse(report, "UnsupportedValue", codes::PARENT_KIND, fault)
}

fn refuse(
    report: &mut Report,
    reason: &'static str,
    code: ambit_kube::Code,
    fault: Fault<'_>,
) -> Place {
    report.error(code, fault);
    let message = format!("{}: {} ({})", fault.value, fault.message, fault.remedy);
    Place::Refused(Failure { reason, message })
}

fn of(service: &ServiceInfo, port: u16) -> Parent {
    Parent {
        frontend: service.key(),
        port: u32::from(port),
    }
}
