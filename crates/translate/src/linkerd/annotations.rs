//! Linkerd's retry and timeout annotations, on routes and on Services (8.3).
//!
//! Owns their grammar. One bad item of a list rejects the annotation, as there.

use std::collections::BTreeMap;

use ambit_kube::{ObjectKey, Origin, Problem, ProtoDuration};
use ambit_proto::waypoint::{Retry, RetryOn, Rule};

use crate::istio::codes;
use crate::istio::say::{Fault, Say};
use crate::{ServiceInfo, World};

/// Bodies up to this many bytes are kept for a retry (8.3).
const BODY_LIMIT: u64 = 64 * 1024;
/// Backoff of retries, in milliseconds (8.3).
const BACKOFF: (u64, u64) = (25, 250);

/// What the annotations of one object say.
#[derive(Debug, Default, PartialEq)]
struct Settings {
    retry: Option<Retry>,
    request_ms: Option<u64>,
    response_ms: Option<u64>,
    idle_ms: Option<u64>,
}

/// Fills in what the annotations of a route object say, where its rules don't.
pub fn annotate_rules(
    key: &ObjectKey,
    origin: &Origin,
    annotations: &BTreeMap<String, String>,
    rules: &mut [Rule],
) -> Vec<Problem> {
    let mut say = Say::at(key.clone(), origin.clone());
    let find = |name: &str| annotations.get(name).map(String::as_str);
    let settings = settings(&mut say, &find);
    for rule in rules {
        apply(&settings, rule);
    }
    say.into_problems()
}

/// What a Service's annotations say of requests that no route was attached for.
pub(super) fn default_rule(
    service: &ServiceInfo,
    world: &dyn World,
    problems: &mut Vec<Problem>,
) -> Option<Rule> {
    let mut say = about(service, world);
    let settings = settings(&mut say, &|name| annotation(service, name));
    problems.extend(say.into_problems());
    if settings == Settings::default() {
        return None;
    }
    let mut rule = Rule {
        to_frontend: true,
        ..Rule::default()
    };
    apply(&settings, &mut rule);
    Some(rule)
}

/// For problems of a Service, at its place where that is known.
pub(super) fn about(service: &ServiceInfo, world: &dyn World) -> Say {
    let key = service.object.clone();
    match world.object(&key) {
        Some(object) => Say::about(key, &object),
        None => {
            let origin = Origin {
                file: key.to_string().into(),
                document: 0,
                line: 0,
            };
            Say::at(key, origin)
        }
    }
}

/// An annotation of a service.
pub(super) fn annotation<'a>(service: &'a ServiceInfo, name: &str) -> Option<&'a str> {
    let mut all = service.annotations.iter();
    all.find_map(|(key, value)| (**key == *name).then_some(&**value))
}

fn apply(settings: &Settings, rule: &mut Rule) {
    if rule.retry.is_none() {
        rule.retry.clone_from(&settings.retry);
    }
    rule.timeout_ms = rule.timeout_ms.or(settings.request_ms);
    rule.response_timeout_ms = rule.response_timeout_ms.or(settings.response_ms);
    rule.idle_timeout_ms = rule.idle_timeout_ms.or(settings.idle_ms);
}

fn settings<'a>(say: &mut Say, find: &dyn Fn(&str) -> Option<&'a str>) -> Settings {
    let http = find("retry.linkerd.io/http");
    let grpc = find("retry.linkerd.io/grpc");
    let codes = http.and_then(|text| {
        list(
            say,
            "retry.linkerd.io/http",
            text,
            statuses,
            "write 5xx, gateway-error, statuses from 100 to 599 and ranges such as 500-504",
        )
    });
    let grpc_codes = grpc.and_then(|text| {
        list(
            say,
            "retry.linkerd.io/grpc",
            text,
            grpc_status,
            "write cancelled, deadline-exceeded, internal, resource-exhausted or unavailable",
        )
    });
    let limit = find("retry.linkerd.io/limit").map_or(Some(1), |text| {
        let limit = text.parse().ok();
        if limit.is_none() {
            bad(
                say,
                "retry.linkerd.io/limit",
                text,
                "write a number of retries",
            );
        }
        limit
    });
    let mut time = |name: &str| time(say, name, find(name)?);
    let per_try = time("retry.linkerd.io/timeout");
    let request_ms = time("timeout.linkerd.io/request");
    let response_ms = time("timeout.linkerd.io/response");
    let idle_ms = time("timeout.linkerd.io/idle");
    let retry = (codes.is_some() || grpc_codes.is_some()).then(|| Retry {
        attempts: limit.unwrap_or(1),
        per_try_timeout_ms: per_try.unwrap_or_default(),
        on: Some(RetryOn {
            refused_stream: true,
            grpc: grpc_codes.unwrap_or_default(),
            ..RetryOn::default()
        }),
        status_codes: codes.unwrap_or_default(),
        backoff_base_ms: BACKOFF.0,
        backoff_max_ms: BACKOFF.1,
        on_per_try_timeout: true,
        body_limit: BODY_LIMIT,
        last_try_untimed: true,
        ..Retry::default()
    });
    Settings {
        retry,
        request_ms,
        response_ms,
        idle_ms,
    }
}

pub(super) fn bad(say: &mut Say, name: &str, value: &str, remedy: &str) {
    say.error(
        codes::ANNOTATION,
        Fault {
            field: &format!("metadata.annotations[{name}]"),
            value,
            message: "the annotation can't be read, and is not followed",
            remedy,
        },
    );
}

/// A duration above zero.
pub(super) fn time(say: &mut Say, name: &str, text: &str) -> Option<u64> {
    let found = ProtoDuration::parse(text.trim()).map(ProtoDuration::as_millis);
    if found.is_none() {
        bad(say, name, text, "write a duration such as 250ms, 10s or 1m");
    }
    found.filter(|ms| *ms > 0)
}

fn list(
    say: &mut Say,
    name: &str,
    text: &str,
    item: fn(&str) -> Option<Vec<u32>>,
    remedy: &str,
) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for entry in text.split(',').map(str::trim) {
        let Some(codes) = item(entry) else {
            bad(say, name, text, remedy);
            return None;
        };
        all.extend(codes);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

fn statuses(item: &str) -> Option<Vec<u32>> {
    let code = |text: &str| text.parse().ok().filter(|code| (100..=599).contains(code));
    match item {
        "5xx" => Some((500..=599).collect()),
        "gateway-error" => Some(vec![502, 503, 504]),
        _ => match item.split_once('-') {
            Some((first, last)) => {
                let (first, last): (u32, u32) = (code(first)?, code(last)?);
                (first <= last).then(|| (first..=last).collect())
            }
            None => code(item).map(|code| vec![code]),
        },
    }
}

fn grpc_status(item: &str) -> Option<Vec<u32>> {
    let code = match item {
        "cancelled" => 1,
        "deadline-exceeded" => 4,
        "resource-exhausted" => 8,
        "internal" => 13,
        "unavailable" => 14,
        _ => return None,
    };
    Some(vec![code])
}
