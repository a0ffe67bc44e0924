//! One HTTP rule of a VirtualService (3.2): matches, one action, and what goes
//! with it.

use ambit_kube::VsHttpRoute;
use ambit_proto::waypoint::{BackendRef, Invalid, Rewrite, Rule};

use super::delegate::Piece;
use super::{Scope, UNUSABLE, action, content, destination, headers, matches};
use crate::istio::say::{Fault, Say};
use crate::istio::{codes, destination_rule};

/// What became of a rule.
pub(super) enum Outcome {
    Rule(Box<Rule>),
    /// All its matches are for other proxies (1.12).
    NotForUs,
    /// No match of it can be used.
    Broken,
}

/// Translates one.
pub(super) fn rule(say: &mut Say, piece: &Piece, scope: &Scope<'_>) -> Outcome {
    let (route, path) = (&piece.route, &*piece.path);
    let mut built = Rule {
        name: route.name.clone().unwrap_or_default(),
        ..Rule::default()
    };
    let mut broken = false;
    for (at, entry) in route.matches.iter().enumerate() {
        match matches::http(say, entry, &format!("{path}.match[{at}]"), scope) {
            matches::Entry::Match(entry) => built.matches.push(*entry),
            matches::Entry::NotForUs => {}
            matches::Entry::Broken => broken = true,
        }
    }
    if !route.matches.is_empty() && built.matches.is_empty() {
        return if broken {
            Outcome::Broken
        } else {
            Outcome::NotForUs
        };
    }
    let done = match &piece.refused {
        Some(reason) => Err(reason.clone()),
        None => act(say, route, path, scope, &mut built),
    };
    if let Err(reason) = done {
        built = Rule {
            name: built.name,
            matches: built.matches,
            invalid: Some(Invalid {
                reason,
                status: UNUSABLE,
            }),
            ..Rule::default()
        };
    }
    Outcome::Rule(Box::new(built))
}

fn act(
    say: &mut Say,
    route: &VsHttpRoute,
    path: &str,
    scope: &Scope<'_>,
    rule: &mut Rule,
) -> Result<(), String> {
    only_one(say, route, path)?;
    let changes = headers::operations(say, route.headers.as_ref(), path);
    rule.request_headers = changes.request;
    rule.response_headers = changes.response;
    rule.cors = route
        .cors_policy
        .as_ref()
        .map(|cors| content::cors(say, cors, path));
    rule.fault = route
        .fault
        .as_ref()
        .and_then(|fault| content::fault(say, fault, path));
    if let Some(redirect) = &route.redirect {
        rule.redirect = Some(content::redirect(say, redirect, path)?);
        return Ok(());
    }
    if let Some(direct) = &route.direct_response {
        rule.direct_response = Some(content::direct_response(say, direct, path)?);
        return Ok(());
    }
    rule.backends = destination::weighted(say, &route.route, path, scope)?;
    let several = route.route.len() > 1;
    rule.route_headers_last = several;
    let written = match &route.rewrite {
        Some(written) => Some(action::rewrite(say, written, path, rule)?),
        None => None,
    };
    rule.rewrite = with_host(written, changes.host, several, &mut rule.backends);
    rule.mirrors = content::mirrors(say, route, path, scope);
    rule.timeout_ms = route
        .timeout
        .map(ambit_kube::ProtoDuration::as_millis)
        .filter(|timeout| *timeout > 0);
    if let Some(retries) = &route.retries {
        let asked = retries.retry_ignore_previous_hosts.is_some();
        let hashed = !asked && rule.backends.iter().any(|to| is_hashed(to, scope));
        rule.retry = Some(action::retries(
            say,
            retries,
            &format!("{path}.retries"),
            hashed,
        ));
    }
    Ok(())
}

/// The Host that the backend sees: the rewrite's, else what the header operations
/// set, in the order that they have among route and destination.
fn with_host(
    written: Option<Rewrite>,
    of_route: Option<String>,
    several: bool,
    backends: &mut [BackendRef],
) -> Option<Rewrite> {
    let by_rewrite = written.as_ref().is_some_and(|w| !w.hostname.is_empty());
    if by_rewrite || several && of_route.is_some() {
        for backend in backends {
            backend.rewrite = None;
        }
    }
    let mut rewrite = written;
    if let Some(host) = of_route
        && !by_rewrite
    {
        rewrite.get_or_insert_default().hostname = host;
    }
    rewrite.filter(|rewrite| *rewrite != Rewrite::default())
}

fn is_hashed(to: &BackendRef, scope: &Scope<'_>) -> bool {
    let Some((_, host)) = to.service.split_once('/') else {
        return false;
    };
    let Some(service) = scope.world.host(host, scope.namespace) else {
        return false;
    };
    scope.waypoints.first().is_some_and(|waypoint| {
        destination_rule::is_hashed(&service, waypoint, (&to.subset, to.port), scope.world)
    })
}

/// Exactly one of route, redirect and directResponse, and nothing that one of
/// them excludes (3.2, 3.7).
fn only_one(say: &mut Say, route: &VsHttpRoute, path: &str) -> Result<(), String> {
    let mut actions = Vec::new();
    for (name, set) in [
        ("route", !route.route.is_empty()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
    ] {
        if set {
            actions.push(name);
        }
    }
    let refused = match actions.as_slice() {
        [] => Some((
            "",
            "it has none of route, redirect and directResponse".to_owned(),
        )),
        [_] => excluded(route).map(|(action, other)| (other, format!("{action} excludes {other}"))),
        [first, second, ..] => Some((*second, format!("{first} and {second} exclude each other"))),
    };
    let Some((value, reason)) = refused else {
        return Ok(());
    };
    say.error(
        codes::BAD_ACTION,
        Fault {
            field: path,
            value,
            message: &format!("{reason}, so its requests get 503"),
            remedy: "give each rule one action, and only what goes with it",
        },
    );
    Err(reason)
}

fn excluded(route: &VsHttpRoute) -> Option<(&'static str, &'static str)> {
    let mirrored = route.mirror.is_some() || !route.mirrors.is_empty();
    let others = [
        ("rewrite", route.rewrite.is_some()),
        ("fault", route.fault.is_some()),
        ("retries", route.retries.is_some()),
        ("mirror", mirrored),
    ];
    let first = |from: usize| {
        let mut listed = others.iter().enumerate();
        listed.find_map(|(at, (name, set))| (*set && at >= from).then_some(*name))
    };
    if route.redirect.is_some() {
        first(0).map(|other| ("redirect", other))
    } else if route.direct_response.is_some() {
        others
            .iter()
            .find(|(name, set)| *set && *name != "fault")
            .map(|(other, _)| ("directResponse", *other))
    } else {
        None
    }
}
