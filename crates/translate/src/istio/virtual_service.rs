//! VirtualServices for mesh traffic, as routes (`waypoint-contract` 3.1 to 3.3,
//! 1.12, 1.13).
//!
//! Owns which frontends an object binds, for which clients, and in which order
//! its rules stand. It doesn't own what a rule does in the proxy, nor the order
//! among several VirtualServices: routes are older first there.

mod action;
mod content;
mod delegate;
mod destination;
mod headers;
mod matches;
mod parents;
mod rule;
mod stream;

use std::collections::HashSet;
use std::sync::Arc;

use ambit_kube::{Kind, Located, ObjectKey, VirtualService};
use ambit_proto::waypoint::{Invalid, Match, Origin, Route, RouteKind, Rule, Semantics};

pub(super) use self::action::retries;
use self::parents::Parents;
use super::codes;
use super::say::{Fault, Say};
use crate::{Translated, World};

/// What the parts of one VirtualService need to know.
pub(super) struct Scope<'a> {
    pub(super) world: &'a dyn World,
    /// The VirtualService's.
    pub(super) namespace: &'a str,
    /// Of the waypoints that serve the parents.
    pub(super) waypoints: Vec<Arc<str>>,
    /// Service ports of the parents.
    pub(super) ports: Vec<u16>,
}

/// The routes of a VirtualService: one a kind of traffic, and for clients of its
/// own namespace only where it isn't the service's nor the waypoint's.
///
/// None where it has nothing to say to waypoints; the problems tell why.
pub fn virtual_service(
    object: &Located<Arc<VirtualService>>,
    world: &dyn World,
) -> Translated<Vec<Route>> {
    let spec = &object.object.spec;
    let meta = &object.object.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    let name = meta.name.as_deref().unwrap_or_default();
    let key = ObjectKey::new(Kind::VirtualService, namespace, name);
    let mut say = Say::about(key, object);
    let mut routes = Vec::new();
    let parents = parents::find(&mut say, spec, namespace, world);
    if !parents.is_empty() {
        let scope = Scope {
            world,
            namespace,
            waypoints: parents.waypoints.clone(),
            ports: parents.ports.clone(),
        };
        let parts = [
            (RouteKind::Http, http_rules(&mut say, spec, &scope)),
            (RouteKind::Tls, stream::tls_rules(&mut say, spec, &scope)),
            (RouteKind::Tcp, stream::tcp_rules(&mut say, spec, &scope)),
        ];
        for (kind, rules) in parts {
            if !rules.is_empty() {
                routes.extend(of_kind(kind, rules, object, &parents));
            }
        }
    }
    Translated {
        resource: (!routes.is_empty()).then_some(routes),
        problems: say.into_problems(),
        ..Translated::default()
    }
}

/// A resource name that no other route of any object has.
pub fn route_name(route: &Route) -> String {
    let origin = route.origin.as_ref();
    let (kind, namespace, name) =
        origin.map_or(("", "", ""), |o| (&*o.kind, &*o.namespace, &*o.name));
    let traffic = match route.kind() {
        RouteKind::Http => "",
        RouteKind::Grpc => "/grpc",
        RouteKind::Tls => "/tls",
        RouteKind::Tcp => "/tcp",
    };
    if route.consumer_namespace.is_empty() {
        format!("{kind}/{namespace}/{name}{traffic}")
    } else {
        let clients = &route.consumer_namespace;
        format!("{kind}/{namespace}/{name}{traffic}/for/{clients}")
    }
}

/// The same rules, for everybody and for the clients of one namespace.
fn of_kind(
    kind: RouteKind,
    rules: Vec<Rule>,
    object: &Located<Arc<VirtualService>>,
    parents: &Parents,
) -> Vec<Route> {
    let meta = &object.object.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    let base = Route {
        origin: Some(Origin {
            kind: "VirtualService".to_owned(),
            namespace: namespace.to_owned(),
            name: meta.name.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
        }),
        kind: kind.into(),
        semantics: Semantics::VirtualService.into(),
        created: meta
            .creation_timestamp
            .as_ref()
            .map_or(0, |time| time.0.as_millisecond()),
        rules,
        ..Route::default()
    };
    let mut routes = Vec::new();
    if !parents.producer.is_empty() {
        routes.push(Route {
            parents: parents.producer.clone(),
            ..base.clone()
        });
    }
    if !parents.consumer.is_empty() {
        routes.push(Route {
            parents: parents.consumer.clone(),
            consumer_namespace: namespace.to_owned(),
            ..base
        });
    }
    routes
}

/// All HTTP rules in order, delegates put in place, up to the first that every
/// request matches (1.12).
fn http_rules(
    say: &mut Say,
    spec: &ambit_kube::VirtualServiceSpec,
    scope: &Scope<'_>,
) -> Vec<Rule> {
    let pieces = delegate::pieces(say, &spec.http, scope);
    let mut rules: Vec<Rule> = Vec::new();
    let mut seen: HashSet<String> = HashSet::new();
    let mut caught_by: Option<String> = None;
    let mut broken = false;
    for piece in &pieces {
        if let Some(first) = &caught_by {
            say.warning(
                codes::UNREACHABLE,
                Fault {
                    field: &piece.path,
                    value: piece.route.name.as_deref().unwrap_or_default(),
                    message: &format!("no request reaches this rule: {first} matches all of them"),
                    remedy: "put it before that rule, or remove it",
                },
            );
            continue;
        }
        match rule::rule(say, piece, scope) {
            rule::Outcome::Rule(rule) => {
                note_repeats(say, &rule, &piece.path, &mut seen);
                if rule.matches.is_empty() || rule.matches.iter().any(matches::is_catch_all) {
                    caught_by = Some(piece.path.clone());
                }
                rules.push(*rule);
            }
            rule::Outcome::NotForUs => {}
            rule::Outcome::Broken => broken = true,
        }
    }
    if rules.is_empty() && broken {
        // Falling through to the service would open what a broken match kept apart.
        rules.push(Rule {
            invalid: Some(Invalid {
                reason: "no match of the VirtualService can be used".to_owned(),
                status: UNUSABLE,
            }),
            ..Rule::default()
        });
    }
    rules
}

/// The answer of a VirtualService's part that can't be used (1.10).
pub(super) const UNUSABLE: u32 = 503;

fn note_repeats(say: &mut Say, rule: &Rule, path: &str, seen: &mut HashSet<String>) {
    let mut fresh = rule.matches.is_empty();
    for entry in &rule.matches {
        let unnamed = Match {
            name: String::new(),
            ..entry.clone()
        };
        fresh |= seen.insert(format!("{unnamed:?}"));
    }
    if !fresh {
        say.warning(
            codes::UNREACHABLE,
            Fault {
                field: &format!("{path}.match"),
                value: "",
                message: "every match stands in a rule before this one, so no request reaches it",
                remedy: "remove the rule, or change its match",
            },
        );
    }
}
