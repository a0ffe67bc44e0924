//! A route object as a whole: its `Route` messages and the conditions of its
//! parents (`waypoint-contract` 2.1).
//!
//! Owns the two groups of parents: a route holds for everybody at services of
//! its own namespace (producer), and for clients of its own namespace at other
//! services (consumer). Each group is a message of its own.

use std::sync::Arc;

use ambit_kube::core::ObjectMeta;
use ambit_kube::gateway::{GrpcRoute, HttpRoute, TcpRoute, TlsRoute};
use ambit_kube::{Kind, Located, ObjectKey};
use ambit_proto::waypoint::{Origin, Parent, Route, RouteKind, Semantics};
use serde::Serialize;

use super::backends::Scope;
use super::codes;
use super::conflicts::{self, Rivals};
use super::parents::{self, Asker, Judged, Place};
use super::report::{Fault, Report};
use super::rules::{self, Built};
use super::spec::RouteSpec;
use super::status::{self, ParentVerdict};
use crate::{ParentStatus, ServiceInfo, Translated, World, linkerd};

/// An HTTPRoute: at most two routes, for everybody and for the clients of its
/// namespace.
pub fn http_route(route: &Located<Arc<HttpRoute>>, world: &dyn World) -> Translated<Vec<Route>> {
    let object = &route.object;
    translate(
        route,
        (Kind::HttpRoute, RouteKind::Http),
        (&object.metadata, &object.spec),
        world,
    )
}

/// A GRPCRoute; likewise.
pub fn grpc_route(route: &Located<Arc<GrpcRoute>>, world: &dyn World) -> Translated<Vec<Route>> {
    let object = &route.object;
    translate(
        route,
        (Kind::GrpcRoute, RouteKind::Grpc),
        (&object.metadata, &object.spec),
        world,
    )
}

/// A TCPRoute; likewise.
pub fn tcp_route(route: &Located<Arc<TcpRoute>>, world: &dyn World) -> Translated<Vec<Route>> {
    let object = &route.object;
    translate(
        route,
        (Kind::TcpRoute, RouteKind::Tcp),
        (&object.metadata, &object.spec),
        world,
    )
}

/// A TLSRoute; likewise.
pub fn tls_route(route: &Located<Arc<TlsRoute>>, world: &dyn World) -> Translated<Vec<Route>> {
    let object = &route.object;
    translate(
        route,
        (Kind::TlsRoute, RouteKind::Tls),
        (&object.metadata, &object.spec),
        world,
    )
}

/// The resource's name: `Kind/namespace/name`, with `/for/NAMESPACE` where it is
/// for the clients of a namespace.
pub fn route_name(route: &Route) -> String {
    let origin = route.origin.as_ref();
    let (kind, namespace, name) =
        origin.map_or(("", "", ""), |o| (&*o.kind, &*o.namespace, &*o.name));
    if route.consumer_namespace.is_empty() {
        format!("{kind}/{namespace}/{name}")
    } else {
        format!("{kind}/{namespace}/{name}/for/{}", route.consumer_namespace)
    }
}

/// One object while it is translated.
struct Unit<'a> {
    key: ObjectKey,
    kind: RouteKind,
    /// Where it is written.
    place: &'a ambit_kube::Origin,
    meta: &'a ObjectMeta,
    spec: RouteSpec,
    world: &'a dyn World,
}

fn translate<T, S: Serialize>(
    located: &Located<Arc<T>>,
    (kind, route): (Kind, RouteKind),
    (meta, spec): (&ObjectMeta, &S),
    world: &dyn World,
) -> Translated<Vec<Route>> {
    let namespace = meta.namespace.as_deref().filter(|name| !name.is_empty());
    let key = ObjectKey::new(
        kind,
        namespace.unwrap_or("default"),
        meta.name.as_deref().unwrap_or_default(),
    );
    let mut report = Report::about(key.clone(), located);
    let read = serde_json::to_value(spec).and_then(serde_json::from_value::<RouteSpec>);
    let spec = match read {
        Ok(spec) => spec,
        Err(error) => {
            unreadable(&mut report, &error.to_string());
            return Translated {
                problems: report.into_problems(),
                ..Translated::default()
            };
        }
    };
    let unit = Unit {
        key,
        kind: route,
        place: &located.origin,
        meta,
        spec,
        world,
    };
    unit.translate(report)
}

impl Unit<'_> {
    fn translate(&self, mut report: Report) -> Translated<Vec<Route>> {
        self.unused(&mut report);
        let rivals = Rivals::new(self.world, &self.key.namespace, self.kind);
        let asker = Asker {
            world: self.world,
            namespace: &self.key.namespace,
            kind: self.kind,
            rivals,
        };
        let judged = parents::judge(&mut report, asker, &self.spec.parent_refs);
        let producer = self.group(&mut report, &judged, false);
        let consumer = self.group(&mut report, &judged, true);
        conflicts::mixed(
            &mut report,
            self.world,
            &self.key.namespace,
            &services(&judged),
        );
        let parents = judged
            .iter()
            .filter_map(|parent| {
                let group = if parent.consumer {
                    &consumer
                } else {
                    &producer
                };
                status_of(parent, group.as_ref())
            })
            .collect();
        let routes: Vec<Route> = [(producer, false), (consumer, true)]
            .into_iter()
            .filter_map(|(group, consumer)| self.message(group?, &judged, consumer))
            .collect();
        Translated {
            resource: (!routes.is_empty()).then_some(routes),
            parents,
            conditions: Vec::new(),
            problems: report.into_problems(),
        }
    }

    /// The rules as one group of parents has them; none where there is no such
    /// parent.
    fn group(&self, report: &mut Report, judged: &[Judged], consumer: bool) -> Option<Built> {
        let ours = |parent: &&Judged| {
            parent.consumer == consumer && !matches!(parent.place, Place::Foreign)
        };
        if !judged.iter().any(|parent| ours(&parent)) {
            return None;
        }
        // Clients of a consumer route call the parents' services anyway (2.1).
        let mut open: Vec<Arc<str>> = Vec::new();
        if consumer {
            let parents: Vec<&Judged> = judged.iter().filter(ours).collect();
            for service in parents.iter().flat_map(|parent| parent.services()) {
                if !open.contains(&service.namespace) {
                    open.push(Arc::clone(&service.namespace));
                }
            }
        }
        let route = format!("{}/{}", self.key.namespace, self.key.name);
        let scope = Scope {
            world: self.world,
            namespace: &self.key.namespace,
            route: &route,
            kind: self.kind,
            kind_name: self.key.kind.as_str(),
            open: &open,
        };
        let mut built = rules::read(report, &scope, &self.spec);
        if matches!(self.kind, RouteKind::Http | RouteKind::Grpc) {
            self.annotate(report, &mut built);
        }
        Some(built)
    }

    /// What Linkerd's annotations say where the rules say nothing (8.3).
    fn annotate(&self, report: &mut Report, built: &mut Built) {
        let Some(annotations) = &self.meta.annotations else {
            return;
        };
        let rules = &mut built.rules;
        let problems = linkerd::annotate_rules(&self.key, self.place, annotations, rules);
        report.extend(problems);
    }

    fn message(&self, built: Built, judged: &[Judged], consumer: bool) -> Option<Route> {
        let mut parents: Vec<Parent> = Vec::new();
        for judged in judged.iter().filter(|parent| parent.consumer == consumer) {
            if let Place::Attached { parents: own, .. } = &judged.place {
                for parent in own {
                    if !parents.contains(parent) {
                        parents.push(parent.clone());
                    }
                }
            }
        }
        if parents.is_empty() {
            return None;
        }
        Some(Route {
            origin: Some(Origin {
                kind: self.key.kind.as_str().to_owned(),
                namespace: self.key.namespace.to_string(),
                name: self.key.name.to_string(),
                generation: self.meta.generation.unwrap_or_default(),
            }),
            parents,
            kind: self.kind.into(),
            semantics: Semantics::GatewayApi.into(),
            created: created(self.meta),
            consumer_namespace: if consumer {
                self.key.namespace.to_string()
            } else {
                String::new()
            },
            rules: built.rules,
        })
    }

    /// Fields that mean something to gateways only.
    fn unused(&self, report: &mut Report) {
        let requests = matches!(self.kind, RouteKind::Http | RouteKind::Grpc);
        if requests && !self.spec.hostnames.is_empty() {
            report.info(
                codes::NOT_USED,
                Fault {
                    field: "spec.hostnames",
                    value: &self.spec.hostnames.join(", "),
                    message: "host names have no effect on routes of a mesh: the service's \
                              address decides",
                    remedy: "match the header Host where only some hosts are meant",
                },
            );
        }
        if let Some(scope) = self.spec.use_default_gateways.as_deref() {
            report.info(
                codes::NOT_USED,
                Fault {
                    field: "spec.useDefaultGateways",
                    value: scope,
                    message: "the field is about gateways and has no effect in a mesh",
                    remedy: "name the service in parentRefs",
                },
            );
        }
        if self.spec.parent_refs.is_empty() {
            report.info(
                codes::NO_PARENT,
                Fault {
                    field: "spec.parentRefs",
                    value: "",
                    message: "the route has no parent and no effect",
                    remedy: "name the Service that it is for",
                },
            );
        }
    }
}

impl Judged {
    fn services(&self) -> &[Arc<ServiceInfo>] {
        match &self.place {
            Place::Attached { services, .. } => services,
            Place::Foreign | Place::Refused(_) => &[],
        }
    }
}

/// All services that the route is attached to, each once.
fn services(judged: &[Judged]) -> Vec<Arc<ServiceInfo>> {
    let mut all: Vec<Arc<ServiceInfo>> = Vec::new();
    for service in judged.iter().flat_map(|parent| parent.services()) {
        if !all.iter().any(|known| known.hostname == service.hostname) {
            all.push(Arc::clone(service));
        }
    }
    all
}

fn status_of(judged: &Judged, group: Option<&Built>) -> Option<ParentStatus> {
    let (refused, note) = match &judged.place {
        Place::Foreign => return None,
        Place::Refused(failure) => (Some(failure), ""),
        Place::Attached { note, .. } => (None, note.as_str()),
    };
    let verdict = group.map(|built| built.verdict.clone()).unwrap_or_default();
    let parent = ParentVerdict {
        refused,
        note,
        waypoint: judged.waypoint,
    };
    Some(ParentStatus {
        parent_ref: judged.value.clone(),
        conditions: status::conditions(&verdict, &parent),
    })
}

fn unreadable(report: &mut Report, error: &str) {
    report.error(
        codes::BAD_FILTER,
        Fault {
            field: "spec",
            value: error,
            message: "the route can't be read",
            remedy: "correct the field",
        },
    );
}

/// Unix milliseconds; 0 where there is none, as with files.
pub(super) fn created(meta: &ObjectMeta) -> i64 {
    let time = meta.creation_timestamp.as_ref();
    time.map_or(0, |time| time.0.as_millisecond())
}
