//! ServiceProfiles as routes (8.1).
//!
//! Owns conditions, failures and shares. The budget is the Backend's, opaque
//! ports are the frontend's.

use std::sync::Arc;

use ambit_kube::{Kind, Located, ObjectKey, ProfileRoute, ProtoDuration, ServiceProfile};
use ambit_proto::waypoint::{
    BackendRef, Invalid, Match, Origin, Parent, ResponseClass, Retry, Route, RouteKind, Rule,
    Semantics,
};

use super::conditions::{condition, response_condition};
use super::split;
use crate::istio::say::{Fault, Say};
use crate::istio::{codes, hosts};
use crate::{ServiceInfo, Translated, World};

/// Bodies up to this many bytes are kept for a retry (8.1).
const BODY_LIMIT: u64 = 64 * 1024;
/// What a retry ratio can be.
pub(super) const RATIOS: std::ops::RangeInclusive<f64> = 0.0..=1_000.0;
/// Linkerd bounds retries by the budget alone; one request gets no more than this.
const MAX_ATTEMPTS: u32 = 16;

/// The route of a ServiceProfile: for all clients where it is in the service's
/// namespace, else for clients of its own namespace.
pub fn service_profile(
    object: &Located<Arc<ServiceProfile>>,
    world: &dyn World,
) -> Translated<Vec<Route>> {
    let meta = &object.object.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    let name = meta.name.as_deref().unwrap_or_default();
    let key = ObjectKey::new(Kind::ServiceProfile, namespace, name);
    let mut say = Say::about(key, object);
    let mut route = None;
    if let Some(service) = service(&mut say, name, namespace, world) {
        budget(&mut say, object, namespace, &service);
        let rules = rules(&mut say, object, &service, (namespace, world));
        if !rules.is_empty() {
            let consumer = *service.namespace != *namespace;
            route = Some(vec![Route {
                origin: Some(Origin {
                    kind: Kind::ServiceProfile.as_str().to_owned(),
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                    generation: meta.generation.unwrap_or_default(),
                }),
                parents: vec![Parent {
                    frontend: service.key(),
                    port: 0,
                }],
                kind: RouteKind::Http.into(),
                semantics: Semantics::ServiceProfile.into(),
                created: meta
                    .creation_timestamp
                    .as_ref()
                    .map_or(0, |time| time.0.as_millisecond()),
                consumer_namespace: if consumer {
                    namespace.to_owned()
                } else {
                    String::new()
                },
                rules,
            }]);
        }
    }
    Translated {
        resource: route,
        problems: say.into_problems(),
        ..Translated::default()
    }
}

fn service(
    say: &mut Say,
    name: &str,
    namespace: &str,
    world: &dyn World,
) -> Option<Arc<ServiceInfo>> {
    let found = world.host(name, namespace);
    let Some(service) = found else {
        let full = format!("{name}.{namespace}.svc.{}", world.mesh().cluster_domain);
        let remedy = if !name.contains('.') && world.host(&full, namespace).is_some() {
            format!("name it {full}")
        } else {
            "name it as the service's full host name, NAME.NAMESPACE.svc.DOMAIN".to_owned()
        };
        say.error(
            codes::PROFILE_HOST,
            Fault {
                field: "metadata.name",
                value: name,
                message: "the name of a ServiceProfile is its service's full host name, and no service has this one",
                remedy: &remedy,
            },
        );
        return None;
    };
    if service.waypoints.is_empty() {
        say.warning(
            codes::NO_WAYPOINT,
            Fault {
                field: "metadata.name",
                value: name,
                message: "no waypoint serves this host, so nothing of the profile is in force",
                remedy: "label the service or its namespace with istio.io/use-waypoint",
            },
        );
        return None;
    }
    Some(service)
}

pub(super) fn bad(say: &mut Say, field: &str, value: &str, message: &str, remedy: &str) {
    say.error(
        codes::PROFILE_VALUE,
        Fault {
            field,
            value,
            message,
            remedy,
        },
    );
}

fn budget(
    say: &mut Say,
    object: &Located<Arc<ServiceProfile>>,
    namespace: &str,
    service: &ServiceInfo,
) {
    let Some(budget) = &object.object.spec.retry_budget else {
        return;
    };
    if *service.namespace != *namespace {
        say.warning(
            codes::PROFILE_VALUE,
            Fault {
                field: "spec.retryBudget",
                value: "",
                message: "a budget is of the service and all its clients, so one of a client's namespace isn't used",
                remedy: &format!("put it into the profile of namespace {}", service.namespace),
            },
        );
    }
    if let Some(ratio) = budget.retry_ratio
        && !RATIOS.contains(&ratio)
    {
        bad(
            say,
            "spec.retryBudget.retryRatio",
            &ratio.to_string(),
            "a ratio is 0 to 1000; 0.2 holds",
            "write such a number, for example 0.2",
        );
    }
}

fn rules(
    say: &mut Say,
    object: &Located<Arc<ServiceProfile>>,
    service: &ServiceInfo,
    (namespace, world): (&str, &dyn World),
) -> Vec<Rule> {
    let spec = &object.object.spec;
    let overrides = overrides(say, object, namespace, world);
    let shares = match (overrides, *service.namespace == *namespace) {
        (None, true) => split::shares_of(service, world),
        (overrides, _) => overrides,
    };
    let mut rules = Vec::new();
    for (at, route) in spec.routes.iter().enumerate() {
        let path = format!("spec.routes[{at}]");
        let condition = condition(say, &route.condition, &format!("{path}.condition"), 0);
        let Some(condition) = condition else {
            continue;
        };
        let mut rule = rule(say, route, &path);
        rule.matches.push(Match {
            condition: Some(condition),
            ..Match::default()
        });
        lead(&mut rule, shares.as_ref());
        rules.push(rule);
    }
    if shares.is_some() && (!rules.is_empty() || !spec.dst_overrides.is_empty()) {
        let mut rest = Rule {
            retry: Some(Retry::default()),
            ..Rule::default()
        };
        lead(&mut rest, shares.as_ref());
        rules.push(rest);
    }
    rules
}

/// Where requests of a rule go.
fn lead(rule: &mut Rule, shares: Option<&Result<Vec<BackendRef>, String>>) {
    match shares {
        None => rule.to_frontend = true,
        Some(Ok(backends)) => rule.backends.clone_from(backends),
        Some(Err(reason)) => {
            rule.invalid = Some(Invalid {
                reason: reason.clone(),
                status: 503,
            });
        }
    }
}

fn rule(say: &mut Say, route: &ProfileRoute, path: &str) -> Rule {
    let classes = route.response_classes.iter().enumerate();
    let classes: Vec<_> = classes
        .filter_map(|(at, class)| {
            let field = format!("{path}.responseClasses[{at}].condition");
            Some(ResponseClass {
                condition: Some(response_condition(say, &class.condition, &field, 0)?),
                is_failure: class.is_failure,
            })
        })
        .collect();
    let retry = if route.is_retryable {
        Retry {
            attempts: MAX_ATTEMPTS,
            on_classified_failure: true,
            body_limit: BODY_LIMIT,
            ..Retry::default()
        }
    } else {
        Retry::default()
    };
    Rule {
        name: route.name.clone(),
        retry: Some(retry),
        timeout_ms: route
            .timeout
            .map(ProtoDuration::as_millis)
            .filter(|ms| *ms > 0),
        response_classes: classes,
        ..Rule::default()
    }
}

/// The shares that `dstOverrides` give; none where there are no overrides, an
/// error where they give nothing.
fn overrides(
    say: &mut Say,
    object: &Located<Arc<ServiceProfile>>,
    namespace: &str,
    world: &dyn World,
) -> Option<Result<Vec<BackendRef>, String>> {
    let written = &object.object.spec.dst_overrides;
    if written.is_empty() {
        return None;
    }
    let mut refs = Vec::new();
    for (at, entry) in written.iter().enumerate() {
        let field = format!("spec.dstOverrides[{at}]");
        let Ok(weight) = u32::try_from(entry.weight.milli) else {
            bad(
                say,
                &format!("{field}.weight"),
                &entry.weight.milli.to_string(),
                "the weight is too large, so requests get 503",
                "weights are relative: write smaller ones",
            );
            return Some(Err("a weight of dstOverrides is too large".to_owned()));
        };
        if weight > 0 {
            refs.push(target(
                say,
                &entry.authority,
                weight,
                &field,
                (namespace, world),
            ));
        }
    }
    let total: u64 = refs.iter().map(|to| u64::from(to.weight)).sum();
    if total == 0 || total > u64::from(u32::MAX) {
        bad(
            say,
            "spec.dstOverrides",
            "",
            "the weights share out nothing, so requests get 503",
            "give at least one override a weight above 0",
        );
        return Some(Err("dstOverrides have no weight".to_owned()));
    }
    Some(Ok(refs))
}

fn target(
    say: &mut Say,
    authority: &str,
    weight: u32,
    field: &str,
    (namespace, world): (&str, &dyn World),
) -> BackendRef {
    let (host, port) = authority
        .rsplit_once(':')
        .map_or((authority, Some(0)), |(host, port)| {
            (host, port.parse::<u32>().ok())
        });
    let host = hosts::expand(host.trim_end_matches('.'), namespace, world);
    let invalid = |reason: String| {
        Some(Invalid {
            reason,
            status: 503,
        })
    };
    let mut built = BackendRef {
        service: format!("{namespace}/{host}"),
        port: port.unwrap_or_default(),
        weight,
        ..BackendRef::default()
    };
    let found = world.host(&host, namespace);
    let known = |service: &Arc<ServiceInfo>| {
        port == Some(0)
            || service
                .ports
                .iter()
                .any(|p| Some(u32::from(p.number)) == port)
    };
    match found {
        Some(service) if known(&service) => {
            built.service = service.key();
            if let ([only], 0) = (service.ports.as_slice(), built.port) {
                built.port = only.number.into();
            }
        }
        found => {
            let what = if found.is_some() {
                "has no such port"
            } else {
                "isn't a service of the mesh"
            };
            bad(
                say,
                &format!("{field}.authority"),
                authority,
                &format!("it {what}, so its share of requests gets 503"),
                "write host:port with the service's full host name and a port of the Service",
            );
            built.invalid = invalid(format!("{authority} {what}"));
        }
    }
    built
}
