//! Conditions of ServiceProfiles, of requests and of responses (8.1).

use ambit_kube::{ProfileCondition, ProfileResponseCondition};
use ambit_proto::waypoint::condition::Kind as Is;
use ambit_proto::waypoint::{Condition, Conditions, StatusRange};

use super::profile::bad;
use crate::istio::say::Say;
use crate::istio::values::is_regex;

/// Conditions nest at most this deep; with the parts of each joined, that is
/// within what a waypoint reads.
const MAX_DEPTH: usize = 7;

fn all_of(mut of: Vec<Condition>) -> Option<Condition> {
    if of.len() > 1 {
        return Some(is(Is::All(Conditions { of })));
    }
    of.pop()
}

fn is(kind: Is) -> Condition {
    Condition { kind: Some(kind) }
}

/// All parts of a condition at once; none, and said, where one can't be used.
pub(super) fn condition(
    say: &mut Say,
    written: &ProfileCondition,
    field: &str,
    depth: usize,
) -> Option<Condition> {
    if depth > MAX_DEPTH {
        bad(
            say,
            field,
            "",
            "conditions nest too deep, so the route isn't used",
            "write it flatter",
        );
        return None;
    }
    let mut parts = Vec::new();
    if let Some(regex) = &written.path_regex {
        if !is_regex(regex) {
            bad(
                say,
                &format!("{field}.pathRegex"),
                regex,
                "it isn't a regular expression, so the route isn't used",
                "correct it",
            );
            return None;
        }
        parts.push(is(Is::PathRegex(regex.clone())));
    }
    if let Some(method) = &written.method {
        parts.push(is(Is::Method(method.clone())));
    }
    for (name, list) in [("all", &written.all), ("any", &written.any)] {
        if list.is_empty() {
            continue;
        }
        let mut of = Vec::new();
        for (at, part) in list.iter().enumerate() {
            of.push(condition(
                say,
                part,
                &format!("{field}.{name}[{at}]"),
                depth + 1,
            )?);
        }
        parts.push(is(if name == "all" {
            Is::All(Conditions { of })
        } else {
            Is::Any(Conditions { of })
        }));
    }
    if let Some(not) = &written.not {
        let not = condition(say, not, &format!("{field}.not"), depth + 1)?;
        parts.push(is(Is::Not(Box::new(not))));
    }
    if parts.is_empty() {
        bad(
            say,
            field,
            "",
            "the condition is empty, so the route isn't used",
            "set pathRegex, method, all, any or not",
        );
    }
    all_of(parts)
}

/// As [`condition`], of a response.
pub(super) fn response_condition(
    say: &mut Say,
    written: &ProfileResponseCondition,
    field: &str,
    depth: usize,
) -> Option<Condition> {
    if depth > MAX_DEPTH {
        bad(
            say,
            field,
            "",
            "conditions nest too deep, so the class isn't used",
            "write it flatter",
        );
        return None;
    }
    let mut parts = Vec::new();
    if let Some(status) = written.status {
        let (min, max) = (status.min.unwrap_or(100), status.max.unwrap_or(599));
        if min > max || min < 100 || max > 599 {
            bad(
                say,
                &format!("{field}.status"),
                &format!("{min}-{max}"),
                "it isn't a range of statuses, so the class isn't used",
                "write min and max within 100 and 599",
            );
            return None;
        }
        parts.push(is(Is::Status(StatusRange { min, max })));
    }
    for (name, list) in [("all", &written.all), ("any", &written.any)] {
        if list.is_empty() {
            continue;
        }
        let mut of = Vec::new();
        for (at, part) in list.iter().enumerate() {
            of.push(response_condition(
                say,
                part,
                &format!("{field}.{name}[{at}]"),
                depth + 1,
            )?);
        }
        parts.push(is(if name == "all" {
            Is::All(Conditions { of })
        } else {
            Is::Any(Conditions { of })
        }));
    }
    if let Some(not) = &written.not {
        let not = response_condition(say, not, &format!("{field}.not"), depth + 1)?;
        parts.push(is(Is::Not(Box::new(not))));
    }
    if parts.is_empty() {
        bad(
            say,
            field,
            "",
            "the condition is empty, so the class isn't used",
            "set status, all, any or not",
        );
    }
    all_of(parts)
}
