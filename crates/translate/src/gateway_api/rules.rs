//! The rules of a route, and what they mean for its conditions
//! (`waypoint-contract` 2.1 to 2.6).
//!
//! Owns how the parts of a rule come together: one part that can't be used
//! makes the whole rule answer 500, one backend that can't be used its share.

use std::sync::Arc;

use ambit_proto::waypoint::{BackendRef, RouteKind, Rule};

use super::backends::{self, Scope};
use super::filters::{self, Filters, Place};
use super::report::{Failure, Fault, Report};
use super::spec::{BackendSpec, RouteSpec, RuleSpec};
use super::status::Verdict;
use super::{codes, matches, session, timeouts, traffic};
use crate::ServiceInfo;

/// All rules of a route, as one group of its parents has them.
#[derive(Debug, Default)]
pub(super) struct Built {
    pub(super) rules: Vec<Rule>,
    pub(super) verdict: Verdict,
}

/// What became of one rule.
struct Outcome {
    /// None: none of its matches can be read.
    rule: Option<Rule>,
    /// Why it, or a part of it, can't be used.
    failure: Option<Failure>,
    /// Nothing of it is in force as written.
    useless: bool,
}

/// The destinations of one rule.
#[derive(Default)]
struct Backends {
    refs: Vec<BackendRef>,
    services: Vec<Option<Arc<ServiceInfo>>>,
    /// What filters of its only destination ask of the rule.
    shared: Filters,
    /// A destination's filters can't be used.
    failure: Option<Failure>,
}

/// Reads all rules.
pub(super) fn read(report: &mut Report, scope: &Scope<'_>, spec: &RouteSpec) -> Built {
    if let Some(failure) = limits(report, scope.kind, spec) {
        return refused(report, failure);
    }
    let without = [RuleSpec::default()];
    let written = if spec.rules.is_empty() {
        &without
    } else {
        &*spec.rules
    };
    let mut built = Built::default();
    let mut useless: Option<Failure> = None;
    let mut useful = false;
    for (index, rule) in written.iter().enumerate() {
        name(report, index, written);
        let outcome = match scope.kind {
            RouteKind::Http | RouteKind::Grpc => requests(report, scope, index, rule),
            RouteKind::Tls | RouteKind::Tcp => connections(report, scope, (index, rule), spec),
        };
        built.rules.extend(outcome.rule);
        useful |= !outcome.useless;
        if outcome.useless {
            useless = useless.or_else(|| outcome.failure.clone());
        }
        built.verdict.partial = built.verdict.partial.or(outcome.failure);
    }
    let dropped = report.take_dropped();
    built.verdict.partial = built.verdict.partial.or_else(|| dropped.clone());
    if !useful {
        built.verdict.refused = useless.or(dropped);
    }
    built.verdict.refs = report.take_refs();
    if built.rules.is_empty() {
        built.rules.push(closed("no rule of the route can be used"));
    }
    built
}

/// A route that can't be read as a whole refuses what nothing else matches.
fn refused(report: &mut Report, failure: Failure) -> Built {
    report.take_refs();
    Built {
        rules: vec![closed(&failure.message)],
        verdict: Verdict {
            refused: Some(failure),
            ..Verdict::default()
        },
    }
}

fn closed(reason: &str) -> Rule {
    Rule {
        name: "#0".to_owned(),
        invalid: Some(backends::invalid(reason.to_owned())),
        ..Rule::default()
    }
}

/// Gateway API's bounds (2.3, 2.7), which an API server would have checked.
fn limits(report: &mut Report, kind: RouteKind, spec: &RouteSpec) -> Option<Failure> {
    let connections = matches!(kind, RouteKind::Tcp | RouteKind::Tls);
    let total: usize = spec.rules.iter().map(|rule| rule.matches.len()).sum();
    let most = |count: usize, most: usize| count > most;
    let mut over = |field: String, count: usize, remedy: &'static str| {
        report.unusable(
            "UnsupportedValue",
            codes::LIMIT,
            Fault {
                field: &field,
                value: &count.to_string(),
                message: "this is more, or less, than Gateway API allows; the whole route is \
                          refused",
                remedy,
            },
        );
    };
    if connections && spec.rules.len() != 1 {
        over(
            "spec.rules".into(),
            spec.rules.len(),
            "write exactly one rule",
        );
    } else if most(spec.rules.len(), 16) {
        over(
            "spec.rules".into(),
            spec.rules.len(),
            "spread the rules over several routes of at most 16",
        );
    } else if most(total, 128) {
        over(
            "spec.rules".into(),
            total,
            "spread the matches over several routes of at most 128",
        );
    }
    if kind == RouteKind::Tls && !(1..=1024).contains(&spec.hostnames.len()) {
        over(
            "spec.hostnames".into(),
            spec.hostnames.len(),
            "name from 1 to 1024 server names",
        );
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        if most(rule.matches.len(), 64) {
            over(
                format!("spec.rules[{index}].matches"),
                rule.matches.len(),
                "write at most 64 matches in a rule",
            );
        }
        if most(rule.backend_refs.len(), 16) {
            over(
                format!("spec.rules[{index}].backendRefs"),
                rule.backend_refs.len(),
                "name at most 16 backends in a rule",
            );
        }
    }
    report.take_rule()
}

/// Names are of at most 253 bytes and unique (2.3).
fn name(report: &mut Report, index: usize, rules: &[RuleSpec]) {
    let Some(name) = rules.get(index).and_then(|rule| rule.name.as_deref()) else {
        return;
    };
    let before = rules.get(..index).unwrap_or_default();
    let twice = before.iter().any(|rule| rule.name.as_deref() == Some(name));
    if twice || name.is_empty() || name.len() > 253 {
        report.error(
            codes::BAD_NAME,
            Fault {
                field: &format!("spec.rules[{index}].name"),
                value: name,
                message: "a rule's name has from 1 to 253 characters and is unique in its route",
                remedy: "choose another name; policies that name it can't tell the rules apart",
            },
        );
    }
}

fn named(index: usize, spec: &RuleSpec) -> String {
    let name = spec.name.clone().filter(|name| name.len() <= 253);
    name.unwrap_or_else(|| format!("#{index}"))
}

/// A rule of an HTTPRoute or GRPCRoute.
fn requests(report: &mut Report, scope: &Scope<'_>, index: usize, spec: &RuleSpec) -> Outcome {
    let field = format!("spec.rules[{index}]");
    let at = format!("{field}.matches");
    let matches = if scope.kind == RouteKind::Grpc {
        matches::grpc(report, &at, &spec.matches)
    } else {
        matches::http(report, &at, &spec.matches)
    };
    let Some(matches) = matches else {
        return Outcome {
            rule: None,
            failure: None,
            useless: true,
        };
    };
    let prefixes = matches::all_prefixes(&matches);
    let place = Place {
        field: &format!("{field}.filters"),
        prefixes,
    };
    let own = filters::read(report, scope, place, &spec.filters);
    let backends = backends(report, scope, (&field, prefixes), &spec.backend_refs);
    excluded(report, &field, &own, &backends);
    let timing = timeouts::read(report, &field, spec.timeouts.as_ref(), spec.retry.as_ref());
    let owner = format!("{}/{}/{index}", scope.kind_name, scope.route);
    let session = spec.session_persistence.as_ref().and_then(|spec| {
        session::read(report, &format!("{field}.sessionPersistence"), spec, &owner)
    });
    let mut rule = Rule {
        name: named(index, spec),
        matches,
        ..Rule::default()
    };
    if let Some(failure) = report.take_rule() {
        rule.invalid = Some(backends::invalid(failure.message.clone()));
        return refuse(rule, failure);
    }
    if backends.refs.is_empty() && own.redirect.is_none() {
        nowhere(report, &field);
        rule.invalid = Some(backends::invalid("the rule has no backendRefs".to_owned()));
        return used(rule, None);
    }
    rule.session = session.or_else(|| traffic::session(scope.world, &backends.services));
    rule.request_headers = own.request_headers;
    rule.response_headers = own.response_headers;
    rule.cors = own.cors.or(backends.shared.cors);
    rule.redirect = own.redirect;
    rule.rewrite = own.rewrite;
    rule.mirrors = own.mirrors;
    rule.mirrors.extend(backends.shared.mirrors);
    rule.timeout_ms = timing.timeout_ms;
    rule.retry = timing.retry;
    let useless = backends.failure.is_some() && backends.refs.len() == 1;
    rule.backends = backends.refs;
    Outcome {
        rule: Some(rule),
        failure: backends.failure,
        useless,
    }
}

/// A rule of a TCPRoute or TLSRoute.
fn connections(
    report: &mut Report,
    scope: &Scope<'_>,
    (index, spec): (usize, &RuleSpec),
    route: &RouteSpec,
) -> Outcome {
    let field = format!("spec.rules[{index}]");
    let backends = backends(report, scope, (&field, false), &spec.backend_refs);
    let mut rule = Rule {
        name: named(index, spec),
        ..Rule::default()
    };
    if scope.kind == RouteKind::Tls {
        rule.sni = super::sni::read(report, &route.hostnames);
        if rule.sni.is_empty() {
            return Outcome {
                rule: None,
                failure: None,
                useless: true,
            };
        }
    }
    if let Some(failure) = report.take_rule() {
        rule.invalid = Some(backends::invalid(failure.message.clone()));
        return refuse(rule, failure);
    }
    if backends.refs.is_empty() {
        nowhere(report, &field);
        rule.invalid = Some(backends::invalid("the rule has no backendRefs".to_owned()));
    }
    rule.backends = backends.refs;
    used(rule, None)
}

fn refuse(rule: Rule, failure: Failure) -> Outcome {
    let refuses = failure.refuses();
    Outcome {
        rule: Some(rule),
        failure: refuses.then_some(failure),
        useless: refuses,
    }
}

fn used(rule: Rule, failure: Option<Failure>) -> Outcome {
    Outcome {
        rule: Some(rule),
        failure,
        useless: false,
    }
}

/// A redirect sends no request anywhere.
fn excluded(report: &mut Report, field: &str, own: &Filters, backends: &Backends) {
    if own.redirect.is_some() && !backends.refs.is_empty() {
        report.unusable(
            "IncompatibleFilters",
            codes::INCOMPATIBLE,
            Fault {
                field: &format!("{field}.backendRefs"),
                value: "RequestRedirect",
                message: "a rule that redirects has no backends",
                remedy: "remove backendRefs, or the RequestRedirect filter",
            },
        );
    }
}

fn nowhere(report: &mut Report, field: &str) {
    report.warning(
        codes::NO_BACKENDS,
        Fault {
            field: &format!("{field}.backendRefs"),
            value: "",
            message: "the rule leads nowhere: its requests get 500",
            remedy: "add backendRefs, or a RequestRedirect filter",
        },
    );
}

fn backends(
    report: &mut Report,
    scope: &Scope<'_>,
    (rule, prefixes): (&str, bool),
    specs: &[BackendSpec],
) -> Backends {
    let mut all = Backends::default();
    let weighted = specs.iter().filter(|spec| spec.weight != Some(0)).count();
    if weighted == 0 && !specs.is_empty() {
        report.warning(
            codes::BAD_WEIGHT,
            Fault {
                field: &format!("{rule}.backendRefs"),
                value: "0",
                message: "the weights of all backends are 0: requests get 500",
                remedy: "give one backend a weight above 0",
            },
        );
    }
    for (index, spec) in specs.iter().enumerate() {
        let field = format!("{rule}.backendRefs[{index}]");
        let (mut backend, service) = backends::destination(report, scope, &field, &spec.reference);
        backend.weight = weight(report, &field, spec.weight);
        let before = report.take_rule();
        let place = Place {
            field: &format!("{field}.filters"),
            prefixes,
        };
        let asked = filters::read(report, scope, place, &spec.filters);
        let shared = filters::of_backend(report, place.field, asked, weighted <= 1, &mut backend);
        if weighted <= 1 && spec.weight != Some(0) {
            all.shared = shared;
        }
        if let Some(failure) = report.take_rule() {
            backend.invalid = Some(backends::invalid(failure.message.clone()));
            if failure.refuses() {
                all.failure.get_or_insert(failure);
            }
        }
        if backend.invalid.is_some() {
            backend.redirect = None;
        }
        report.put_rule(before);
        all.refs.push(backend);
        all.services.push(service);
    }
    all
}

fn weight(report: &mut Report, field: &str, weight: Option<i64>) -> u32 {
    let weight = weight.unwrap_or(1);
    match u32::try_from(weight) {
        Ok(weight) if weight <= MOST_WEIGHT => weight,
        _ => {
            report.unusable(
                "UnsupportedValue",
                codes::BAD_WEIGHT,
                Fault {
                    field: &format!("{field}.weight"),
                    value: &weight.to_string(),
                    message: "this can't be a weight",
                    remedy: "use a number from 0 to 1000000",
                },
            );
            0
        }
    }
}

/// Of one backend (2.4).
const MOST_WEIGHT: u32 = 1_000_000;
