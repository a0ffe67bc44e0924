//! SMI TrafficSplits, v1alpha1 to v1alpha4, as routes (8.2).
//!
//! Owns shares and HTTPRouteGroup matches. Like the extension that Linkerd has
//! for them, a split without matches gives a ServiceProfile's routes its shares.

use std::sync::Arc;

use ambit_kube::{HttpRouteGroupMatch, Kind, Located, Object, ObjectKey, TrafficSplit};
use ambit_proto::waypoint::path_match::Kind as PathKind;
use ambit_proto::waypoint::string_match::Kind as TextKind;
use ambit_proto::waypoint::{
    BackendRef, HeaderMatch, Invalid, Match, Origin, Parent, PathMatch, Route, RouteKind, Rule,
    Semantics,
};

use super::profile_of;
use crate::istio::say::{Fault, Say};
use crate::istio::values::{is_regex, is_token, string_match};
use crate::istio::{codes, hosts};
use crate::{ServiceInfo, Translated, World};

/// The route of a TrafficSplit.
pub fn traffic_split(
    object: &Located<Arc<TrafficSplit>>,
    world: &dyn World,
) -> Translated<Vec<Route>> {
    let meta = &object.object.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    let name = meta.name.as_deref().unwrap_or_default();
    let key = ObjectKey::new(Kind::TrafficSplit, namespace, name);
    let mut say = Say::about(key, object);
    let mut route = None;
    if object.object.spec.backends.is_empty() {
        bad(
            &mut say,
            "spec.backends",
            "",
            "it has no backends, so nothing is split",
            "list them as backends, each with service and weight",
        );
    } else if let Some(service) = root(&mut say, object, namespace, world) {
        let backends = shares(&mut say, &object.object, namespace, world);
        let merged = object.object.spec.matches.is_empty()
            && profile_of(&service, world).is_some_and(|profile| !profile.spec.routes.is_empty());
        if merged {
            say.info(
                codes::SPLIT_SERVICE,
                Fault {
                    field: "spec.service",
                    value: &object.object.spec.service,
                    message: "the service has a ServiceProfile with routes; they take these shares",
                    remedy: "",
                },
            );
        } else if let Some(rule) = rule(&mut say, object, namespace, backends, world) {
            route = Some(vec![Route {
                origin: Some(Origin {
                    kind: Kind::TrafficSplit.as_str().to_owned(),
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
                created: created(&object.object),
                consumer_namespace: String::new(),
                rules: vec![rule],
            }]);
        }
    }
    Translated {
        resource: route,
        problems: say.into_problems(),
        ..Translated::default()
    }
}

/// The shares that a split without matches gives a service; for its ServiceProfile.
pub(super) fn shares_of(
    service: &ServiceInfo,
    world: &dyn World,
) -> Option<Result<Vec<BackendRef>, String>> {
    let (split, located) = first_for(service, world)?;
    if !split.spec.matches.is_empty() {
        return None;
    }
    let key = located.key();
    let mut say = Say::at(
        key,
        ambit_kube::Origin {
            file: "".into(),
            document: 0,
            line: 0,
        },
    )
    .silent();
    Some(shares(&mut say, &split, &service.namespace, world))
}

fn created(split: &TrafficSplit) -> i64 {
    let time = split.metadata.creation_timestamp.as_ref();
    time.map_or(0, |time| time.0.as_millisecond())
}

fn is_root(split: &TrafficSplit, service: &ServiceInfo, world: &dyn World) -> bool {
    hosts::expand(&split.spec.service, &service.namespace, world) == *service.hostname
}

/// The oldest split of a service; there can be one only.
fn first_for(service: &ServiceInfo, world: &dyn World) -> Option<(Arc<TrafficSplit>, Object)> {
    world
        .objects(Kind::TrafficSplit, &service.namespace)
        .into_iter()
        .filter_map(|located| match &located.object {
            Object::TrafficSplit(split)
                if !split.spec.backends.is_empty() && is_root(split, service, world) =>
            {
                Some((split.clone(), located.object))
            }
            _ => None,
        })
        .min_by_key(|(split, _)| created(split))
}

fn root(
    say: &mut Say,
    object: &Located<Arc<TrafficSplit>>,
    namespace: &str,
    world: &dyn World,
) -> Option<Arc<ServiceInfo>> {
    let split = &object.object;
    let written = &split.spec.service;
    let host = hosts::expand(written, namespace, world);
    let found = world
        .host(&host, namespace)
        .filter(|service| *service.namespace == *namespace);
    let Some(service) = found else {
        say.error(
            codes::SPLIT_SERVICE,
            Fault {
                field: "spec.service",
                value: written,
                message: "the namespace has no such service, so nothing is split",
                remedy: "name the service that clients call, in the split's own namespace",
            },
        );
        return None;
    };
    if service.waypoints.is_empty() {
        say.warning(
            codes::NO_WAYPOINT,
            Fault {
                field: "spec.service",
                value: written,
                message: "no waypoint serves this service, so nothing is split",
                remedy: "label the service or its namespace with istio.io/use-waypoint",
            },
        );
        return None;
    }
    let first = first_for(&service, world);
    if let Some((first, _)) = first
        && first.metadata.name != split.metadata.name
    {
        say.warning(
            codes::SPLIT_SERVICE,
            Fault {
                field: "spec.service",
                value: written,
                message: &format!(
                    "TrafficSplit {} is older and splits this service, so this one isn't used",
                    first.metadata.name.as_deref().unwrap_or_default()
                ),
                remedy: "keep one split for each service",
            },
        );
        return None;
    }
    Some(service)
}

fn bad(say: &mut Say, field: &str, value: &str, message: &str, remedy: &str) {
    say.error(
        codes::SPLIT_VALUE,
        Fault {
            field,
            value,
            message,
            remedy,
        },
    );
}

fn shares(
    say: &mut Say,
    split: &TrafficSplit,
    namespace: &str,
    world: &dyn World,
) -> Result<Vec<BackendRef>, String> {
    let mut refs = Vec::new();
    for (at, backend) in split.spec.backends.iter().enumerate() {
        let field = format!("spec.backends[{at}]");
        let Ok(weight) = u32::try_from(backend.weight.milli) else {
            let message = "the weight is too large, so requests get 503";
            bad(
                say,
                &format!("{field}.weight"),
                &backend.weight.milli.to_string(),
                message,
                "weights are relative: write smaller ones",
            );
            return Err(message.to_owned());
        };
        if weight == 0 {
            continue;
        }
        let host = hosts::expand(&backend.service, namespace, world);
        let found = world
            .host(&host, namespace)
            .filter(|service| *service.namespace == *namespace);
        let mut built = BackendRef {
            service: format!("{namespace}/{host}"),
            weight,
            ..BackendRef::default()
        };
        if found.is_none() {
            say.error(
                codes::SPLIT_SERVICE,
                Fault {
                    field: &format!("{field}.service"),
                    value: &backend.service,
                    message: "the namespace has no such service, so its share of requests gets 503",
                    remedy: "create it, or name another service of the same namespace",
                },
            );
            built.invalid = Some(Invalid {
                reason: format!("no service {host}"),
                status: 503,
            });
        }
        refs.push(built);
    }
    let total: u64 = refs.iter().map(|to| u64::from(to.weight)).sum();
    if total == 0 || total > u64::from(u32::MAX) {
        let message = "the weights share out nothing, so requests get 503";
        bad(
            say,
            "spec.backends",
            "",
            message,
            "give at least one backend a weight above 0",
        );
        return Err(message.to_owned());
    }
    Ok(refs)
}

/// None where no match can be used: then nothing is split.
fn rule(
    say: &mut Say,
    object: &Located<Arc<TrafficSplit>>,
    namespace: &str,
    backends: Result<Vec<BackendRef>, String>,
    world: &dyn World,
) -> Option<Rule> {
    let mut rule = Rule::default();
    let groups = &object.object.spec.matches;
    for (at, group) in groups.iter().enumerate() {
        let field = format!("spec.matches[{at}]");
        let key = ObjectKey::new(Kind::HttpRouteGroup, namespace, &*group.name);
        let found = (group.kind == "HTTPRouteGroup")
            .then(|| world.object(&key))
            .flatten();
        let Some(Object::HttpRouteGroup(found)) = found.map(|located| located.object) else {
            bad(
                say,
                &format!("{field}.name"),
                &group.name,
                "the namespace has no such HTTPRouteGroup, so this match isn't used",
                "create it",
            );
            continue;
        };
        for (at, written) in found.spec.matches.iter().enumerate() {
            let field = format!("{field}.matches[{at}]");
            rule.matches.extend(matched(say, written, &field));
        }
    }
    if !groups.is_empty() && rule.matches.is_empty() {
        return None;
    }
    match backends {
        Ok(backends) => rule.backends = backends,
        Err(reason) => {
            rule.invalid = Some(Invalid {
                reason,
                status: 503,
            });
        }
    }
    Some(rule)
}

fn matched(say: &mut Say, written: &HttpRouteGroupMatch, field: &str) -> Option<Match> {
    let mut built = Match {
        name: written.name.clone(),
        ..Match::default()
    };
    let refuse = |say: &mut Say, part: &str, value: &str| {
        bad(
            say,
            &format!("{field}.{part}"),
            value,
            "it isn't a regular expression, so this match isn't used",
            "correct it",
        );
    };
    if let Some(regex) = &written.path_regex {
        if !is_regex(regex) {
            refuse(say, "pathRegex", regex);
            return None;
        }
        built.path = Some(PathMatch {
            kind: Some(PathKind::Regex(regex.clone())),
            ignore_case: false,
        });
    }
    if !written.methods.is_empty() && !written.methods.iter().any(|method| method == "*") {
        let methods: Vec<_> = written.methods.iter().map(|m| regex::escape(m)).collect();
        built.method = Some(match written.methods.as_slice() {
            [one] => string_match(TextKind::Exact(one.clone())),
            _ => string_match(TextKind::Regex(methods.join("|"))),
        });
    }
    for (name, value) in written.headers.iter() {
        if !is_token(name) || !is_regex(value) {
            refuse(say, &format!("headers.{name}"), value);
            return None;
        }
        built.headers.push(HeaderMatch {
            name: name.to_ascii_lowercase(),
            value: Some(string_match(TextKind::Regex(value.to_owned()))),
            invert: false,
        });
    }
    Some(built)
}
