//! From what a translation gives to what a unit gives: encoded, addressed, and with its references noted.

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_kube::{Kind, ObjectKey};
use ambit_proto::waypoint::{
    AUTHENTICATION_TYPE, Authentication, Authorization, AuthorizationProvider, BackendRef,
    RATE_LIMIT_TYPE, ROUTE_TYPE, RateLimit, Route, Telemetry, WAYPOINT_AUTHORIZATION_TYPE,
};
use ambit_translate::security::{Audience as Meant, Bound};
use ambit_translate::{ParentStatus, RouteCondition, Translated};
use prost::Message;

use super::position;
use crate::output::{Audience, WaypointResource};
use crate::outputs::Output;
use crate::reads::Read;
use crate::status::{Condition, Generation, Parent, Reference, Status};
use crate::view::View;

/// Who writes statuses of routes (`waypoint-contract` 2.1).
const CONTROLLER: &str = "istio.io/gateway-controller";

/// A translation that gives no resource: only what is said of the object.
pub(super) fn said(key: &ObjectKey, generation: Option<i64>, translated: Translated<()>) -> Output {
    Output {
        status: status(key, generation, translated.parents, translated.conditions),
        diagnostics: translated.problems,
        ..Output::default()
    }
}

/// Routes, for the waypoints of the services that they are attached to.
pub(super) fn routes(
    view: &View<'_>,
    (key, generation): (&ObjectKey, Option<i64>),
    translated: Translated<Vec<Route>>,
    name: fn(&Route) -> String,
) -> Output {
    let mut output = Output {
        status: status(key, generation, translated.parents, translated.conditions),
        diagnostics: translated.problems,
        ..Output::default()
    };
    let mut all = BTreeSet::new();
    for route in translated.resource.into_iter().flatten() {
        let mut waypoints = BTreeSet::new();
        for parent in &route.parents {
            let known = parent.frontend.split_once('/');
            let info = known.and_then(|(namespace, host)| view.service_info(namespace, host));
            for (namespace, name) in info.iter().flat_map(|info| &info.waypoints) {
                waypoints.insert(Arc::<str>::from(format!("{namespace}/{name}")));
            }
        }
        if waypoints.is_empty() {
            continue;
        }
        output.uses.services.extend(backends(&route));
        let audience = waypoints.iter().cloned().collect();
        let resource = WaypointResource::new(name(&route).into(), &route, audience);
        output.waypoint.push((position(ROUTE_TYPE), resource));
        all.extend(waypoints);
    }
    output.uses.waypoints = all.into_iter().collect();
    output
}

/// The services that a route sends requests to.
fn backends(route: &Route) -> BTreeSet<Arc<str>> {
    let of_rules = route.rules.iter().flat_map(|rule| {
        let mirrors = rule
            .mirrors
            .iter()
            .filter_map(|mirror| mirror.backend.as_ref());
        rule.backends.iter().chain(mirrors)
    });
    let named = of_rules.filter(|backend: &&BackendRef| !backend.service.is_empty());
    named
        .map(|backend| backend.service.as_str().into())
        .collect()
}

/// The services that a waypoint itself calls: who authorizes, and who takes traces.
pub(super) fn called(
    providers: &[AuthorizationProvider],
    telemetry: Option<&Telemetry>,
) -> BTreeSet<Arc<str>> {
    let providers = providers.iter().map(|provider| provider.service.as_str());
    let tracing = telemetry.and_then(|telemetry| telemetry.tracing.as_ref());
    let otlp = tracing.and_then(|tracing| tracing.otlp.as_ref());
    let collectors = otlp.map(|otlp| otlp.service.as_str());
    let named = providers
        .chain(collectors)
        .filter(|service| !service.is_empty());
    named.map(Into::into).collect()
}

/// A message that goes to whom it is addressed.
pub(super) trait Addressed: Message {
    const TYPE: &'static str;
}

impl Addressed for Authorization {
    const TYPE: &'static str = WAYPOINT_AUTHORIZATION_TYPE;
}

impl Addressed for Authentication {
    const TYPE: &'static str = AUTHENTICATION_TYPE;
}

impl Addressed for RateLimit {
    const TYPE: &'static str = RATE_LIMIT_TYPE;
}

/// Policies, for the waypoints that they are bound to.
pub(crate) fn policies<R: Addressed>(
    view: &View<'_>,
    (key, generation): (&ObjectKey, Option<i64>),
    translated: Translated<Vec<Bound<R>>>,
) -> Output {
    let bound = translated.resource.into_iter().flatten();
    let resources = bound.filter_map(|bound| {
        let audience = audience(view, &bound.audience);
        let resource = (!audience.is_empty())
            .then(|| WaypointResource::new(bound.name.into(), &bound.resource, audience))?;
        Some((position(R::TYPE), resource))
    });
    Output {
        waypoint: resources.collect(),
        status: status(key, generation, translated.parents, translated.conditions),
        diagnostics: translated.problems,
        ..Output::default()
    }
}

fn audience(view: &View<'_>, meant: &Meant) -> Audience {
    let names: BTreeSet<Arc<str>> = match meant {
        Meant::Class(class) => {
            view.note(Read::Waypoints);
            let all = view.facts.waypoints();
            let of_class = all.filter(|fact| fact.class == *class);
            of_class.map(|fact| fact.key()).collect()
        }
        Meant::Waypoints(waypoints) => {
            let names = waypoints.iter();
            names
                .map(|(namespace, name)| format!("{namespace}/{name}").into())
                .collect()
        }
    };
    names.into_iter().collect()
}

fn status(
    key: &ObjectKey,
    generation: Option<i64>,
    parents: Vec<ParentStatus>,
    conditions: Vec<RouteCondition>,
) -> Option<Status> {
    let generation = generation.map(|generation| match key.kind.group() {
        group if group.starts_with("gateway.networking.") => Generation::Number(generation),
        _ => Generation::Text(generation),
    });
    let all = |conditions: Vec<RouteCondition>| {
        let mut conditions: Vec<_> = conditions
            .into_iter()
            .map(|told| {
                Condition::new(told.kind, told.status, told.reason)
                    .message(told.message)
                    .observed(generation)
            })
            .collect();
        conditions.sort_by_key(|condition| condition.kind);
        conditions
    };
    let of_policy = matches!(
        key.kind,
        Kind::BackendTlsPolicy | Kind::XBackendTrafficPolicy
    );
    let parents: Vec<_> = parents
        .into_iter()
        .map(|parent| Parent {
            reference: if of_policy {
                Reference::AncestorRef(parent.parent_ref)
            } else {
                Reference::ParentRef(parent.parent_ref)
            },
            controller_name: CONTROLLER,
            conditions: all(parent.conditions),
        })
        .collect();
    let (parents, ancestors) = if of_policy {
        (Vec::new(), parents)
    } else {
        (parents, Vec::new())
    };
    let status = Status {
        conditions: all(conditions),
        parents,
        ancestors,
        ..Status::default()
    };
    (status != Status::default()).then_some(status)
}
