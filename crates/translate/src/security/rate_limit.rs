//! LocalRateLimit: requests per time (`ambit.mesh/v1alpha1`).

use std::sync::Arc;

use ambit_kube::{
    Kind, LocalRateLimit, Located, RateLimitHeader, RateLimitPer, RateLimitRule, RateLimitUnit,
    StringMatch,
};
use ambit_proto::waypoint as pb;

use super::say::{Fault, Metadata, Say};
use super::values::Values;
use super::{Bound, codes, is_token};
use crate::{Translated, World};

mod attach;

use attach::attach;

pub(super) use attach::Reach;

/// The limits that waypoints count, and which do.
pub fn local_rate_limit(
    object: &Located<Arc<LocalRateLimit>>,
    world: &dyn World,
) -> Translated<Vec<Bound<pb::RateLimit>>> {
    let spec = &object.object.spec;
    let metadata = Metadata::of(&object.object.metadata);
    let mut say = Say::about(Kind::LocalRateLimit, &metadata, object);
    let mut reach = Reach::default();
    for (at, target) in spec.target_refs.iter().enumerate() {
        let field = format!("spec.targetRefs[{at}]");
        if at < MAX_TARGETS {
            attach(
                &field,
                target,
                metadata.namespace,
                world,
                &mut reach,
                &mut say,
            );
        } else {
            bad(
                &mut say,
                &field,
                None,
                "there are 16 targetRefs at most",
                "write a second object",
            );
        }
    }
    if spec.target_refs.is_empty() {
        bad(
            &mut say,
            "spec.targetRefs",
            None,
            "the limit is attached to nothing",
            "name a Service, route or Gateway",
        );
    }
    let mut rules = Vec::new();
    for (at, limit) in spec.limits.iter().take(MAX_LIMITS).enumerate() {
        let shared = Shared {
            enforced_share: share(spec.enforced_percent, &mut say),
            response_headers: spec.response_headers,
            grpc_resource_exhausted: spec.grpc_resource_exhausted.unwrap_or(true),
        };
        rules.extend(limit_rules(
            at,
            limit,
            &shared,
            metadata.namespace,
            world,
            &mut say,
        ));
    }
    if spec.limits.len() > MAX_LIMITS {
        bad(
            &mut say,
            "spec.limits",
            None,
            "there are 64 limits at most; the rest is left out",
            "write a second object",
        );
    }
    let body = pb::RateLimit {
        origin: Some(metadata.origin("LocalRateLimit")),
        targets: Vec::new(),
        rules,
    };
    let name = format!("LocalRateLimit/{}/{}", metadata.namespace, metadata.name);
    let condition = reach.condition(say.first_error());
    let resources = if body.rules.is_empty() {
        Vec::new()
    } else {
        reach.split(&name, &body)
    };
    Translated {
        resource: (!resources.is_empty()).then_some(resources),
        conditions: vec![condition],
        problems: say.done(),
        ..Translated::default()
    }
}

/// What all rules of an object share.
struct Shared {
    enforced_share: u32,
    response_headers: bool,
    grpc_resource_exhausted: bool,
}

/// A limit with its overrides, which come first.
fn limit_rules(
    at: usize,
    limit: &RateLimitRule,
    shared: &Shared,
    namespace: &str,
    world: &dyn World,
    say: &mut Say,
) -> Vec<pb::RateLimitRule> {
    let path = format!("spec.limits[{at}]");
    let Some(interval) = interval(&path, limit, say) else {
        return Vec::new();
    };
    let headers = limit
        .matches
        .as_ref()
        .map(|matches| matches.headers.as_slice());
    let headers = self::headers(&path, headers.unwrap_or_default(), say);
    let principals = |field: &str, list: &[String], say: &mut Say| {
        let mut values = Values {
            namespace,
            mesh: world.mesh(),
            say,
            unusable: None,
        };
        let read = values.principals(field, list);
        values.unusable.is_none().then_some(read)
    };
    let matched = limit
        .matches
        .as_ref()
        .map(|matches| matches.principals.as_slice());
    let matched = matched.unwrap_or_default();
    let (Some(headers), Some(clients)) = (
        headers,
        principals(&format!("{path}.match.principals"), matched, say),
    ) else {
        return Vec::new();
    };
    let name = limit.name.clone().unwrap_or_else(|| at.to_string());
    let rule = |name: String, principals, requests: u32, burst: Option<u32>| pb::RateLimitRule {
        name,
        principals,
        headers: headers.clone(),
        per_client: limit.per == RateLimitPer::Client,
        max_tokens: burst.unwrap_or(requests),
        tokens_per_fill: requests,
        fill_interval_ms: interval,
        enforced_share: shared.enforced_share,
        response_headers: shared.response_headers,
        grpc_resource_exhausted: shared.grpc_resource_exhausted,
        also_next: false,
        smooth: false,
    };
    let mut rules = Vec::new();
    for (at, one) in limit.overrides.iter().enumerate() {
        let field = format!("{path}.overrides[{at}]");
        if !matched.is_empty() {
            let remedy = "write a limit of its own before this one";
            bad(
                say,
                &field,
                None,
                "a limit for some principals has no overrides",
                remedy,
            );
            continue;
        }
        if one.principals.is_empty() {
            bad(
                say,
                &format!("{field}.principals"),
                None,
                "an override for nobody",
                "name the clients",
            );
            continue;
        }
        let read = principals(&format!("{field}.principals"), &one.principals, say);
        if let (Some(read), true) = (read, is_amount(&field, one.requests, one.burst, say)) {
            rules.push(rule(format!("{name}/{at}"), read, one.requests, one.burst));
        }
    }
    if is_amount(&path, limit.requests, limit.burst, say) {
        rules.push(rule(name, clients, limit.requests, limit.burst));
    }
    rules
}

fn is_amount(path: &str, requests: u32, burst: Option<u32>, say: &mut Say) -> bool {
    let mut good = true;
    for (name, amount) in [("requests", Some(requests)), ("burst", burst)] {
        if let Some(amount) = amount.filter(|amount| !(1..=MAX_REQUESTS).contains(amount)) {
            let field = format!("{path}.{name}");
            let remedy = "write 1 to 1000000000; to refuse requests write an AuthorizationPolicy";
            bad(
                say,
                &field,
                Some(&amount.to_string()),
                "not an amount; the limit is left out",
                remedy,
            );
            good = false;
        }
    }
    good
}

fn interval(path: &str, limit: &RateLimitRule, say: &mut Say) -> Option<u64> {
    let field = format!("{path}.interval");
    match (limit.unit, limit.interval) {
        (Some(_), Some(_)) => {
            bad(
                say,
                &field,
                None,
                "a limit has a unit or an interval; it is left out",
                "remove one of them",
            );
            None
        }
        (unit, None) => Some(match unit.unwrap_or_default() {
            RateLimitUnit::Second => 1_000,
            RateLimitUnit::Minute => 60_000,
            RateLimitUnit::Hour => 3_600_000,
        }),
        (None, Some(interval)) => {
            let millis = interval.as_millis();
            let good = (MIN_INTERVAL_MS..=MAX_INTERVAL_MS).contains(&millis);
            if !good {
                let text = interval.to_string();
                bad(
                    say,
                    &field,
                    Some(&text),
                    "not an interval that is counted; the limit is left out",
                    "write 50ms to 24h",
                );
            }
            good.then_some(millis)
        }
    }
}

fn headers(
    path: &str,
    list: &[RateLimitHeader],
    say: &mut Say,
) -> Option<Vec<pb::HeaderMatchLite>> {
    let mut all = Vec::new();
    for (at, header) in list.iter().enumerate() {
        let field = format!("{path}.match.headers[{at}]");
        if !is_token(&header.name) {
            let field = format!("{field}.name");
            bad(
                say,
                &field,
                Some(&header.name),
                "not the name of a header; the limit is left out",
                "correct the name",
            );
            return None;
        }
        let value = match &header.value {
            None => presence(),
            Some(value) => text_match(&format!("{field}.value"), value, say)?,
        };
        all.push(pb::HeaderMatchLite {
            name: header.name.to_ascii_lowercase(),
            value: Some(value),
        });
    }
    Some(all)
}

fn presence() -> pb::StringMatch {
    pb::StringMatch {
        kind: Some(pb::string_match::Kind::Presence(true)),
        ignore_case: false,
    }
}

fn text_match(field: &str, value: &StringMatch, say: &mut Say) -> Option<pb::StringMatch> {
    use pb::string_match::Kind as Form;
    let kind = match (&value.exact, &value.prefix, &value.regex) {
        (Some(text), None, None) => Form::Exact(text.clone()),
        (None, Some(text), None) if !text.is_empty() => Form::Prefix(text.clone()),
        (None, None, Some(text)) if regex::Regex::new(text).is_ok() => Form::Regex(text.clone()),
        (None, None, None) => return Some(presence()),
        (None, None, Some(text)) => {
            bad(
                say,
                field,
                Some(text),
                "not a regular expression; the limit is left out",
                "correct it (RE2)",
            );
            return None;
        }
        _ => {
            bad(
                say,
                field,
                None,
                "one of exact, prefix and regex; the limit is left out",
                "keep the one that is meant",
            );
            return None;
        }
    };
    Some(pb::StringMatch {
        kind: Some(kind),
        ignore_case: false,
    })
}

/// Parts of a million.
fn share(percent: Option<f64>, say: &mut Say) -> u32 {
    let Some(percent) = percent else {
        return WHOLE;
    };
    if !(0.0..=100.0).contains(&percent) {
        let text = percent.to_string();
        bad(
            say,
            "spec.enforcedPercent",
            Some(&text),
            "not a percentage; 100 is used",
            "write 0 to 100",
        );
        return WHOLE;
    }
    // At most a million, as just checked.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 1,000,000"
    )]
    let share = (percent * 10_000.0).round() as u32;
    share
}

pub(super) fn bad(say: &mut Say, field: &str, value: Option<&str>, message: &str, remedy: &str) {
    say.error(
        codes::BAD_LIMIT,
        Fault {
            field,
            value,
            message,
            remedy,
        },
    );
}

const WHOLE: u32 = 1_000_000;
const MAX_TARGETS: usize = 16;
const MAX_LIMITS: usize = 64;
const MAX_REQUESTS: u32 = 1_000_000_000;
const MIN_INTERVAL_MS: u64 = 50;
const MAX_INTERVAL_MS: u64 = 24 * 3_600_000;
