//! LocalRateLimit: requests per time (`ambit.mesh/v1alpha1`).

use std::sync::Arc;

use ambit_kube::{
    Kind, LocalRateLimit, Located, Object, ObjectKey, RateLimitHeader, RateLimitPer, RateLimitRule,
    RateLimitTarget, RateLimitUnit, StringMatch,
};
use ambit_proto::waypoint as pb;

use super::say::{Fault, Metadata, Say};
use super::targets::Waypoint;
use super::values::Values;
use super::{Audience, Bound, codes, is_token};
use crate::{RouteCondition, ServiceInfo, Translated, World};

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

/// What limits are attached to.
#[derive(Debug, Default)]
pub(super) struct Reach {
    gateways: Vec<Waypoint>,
    targets: Vec<pb::Target>,
    waypoints: Vec<Waypoint>,
    missing: bool,
    unbound: bool,
}

impl Reach {
    /// A service, or one port of it.
    pub(super) fn service(&mut self, service: &ServiceInfo, port: u16) {
        self.targets.push(pb::Target {
            frontend: service.key(),
            port: port.into(),
            ..pb::Target::default()
        });
        self.waypoints.extend(service.waypoints.iter().cloned());
    }

    /// The resources: one for waypoints as a whole, one for parts of others.
    pub(super) fn split(&self, name: &str, body: &pb::RateLimit) -> Vec<Bound<pb::RateLimit>> {
        let sorted = |list: &[Waypoint]| {
            let mut list = list.to_vec();
            list.sort();
            list.dedup();
            list
        };
        let (gateways, mut others) = (sorted(&self.gateways), sorted(&self.waypoints));
        others.retain(|waypoint| !gateways.contains(waypoint));
        let make = |name: String, waypoints: Vec<Waypoint>, targets: Vec<pb::Target>| Bound {
            name,
            audience: Audience::Waypoints(waypoints),
            resource: pb::RateLimit {
                targets,
                ..body.clone()
            },
        };
        let mut all = Vec::new();
        if !gateways.is_empty() {
            all.push(make(
                format!("{name}/gateway"),
                gateways,
                vec![pb::Target::default()],
            ));
        }
        if !others.is_empty() {
            all.push(make(name.to_owned(), others, self.targets.clone()));
        }
        all
    }

    /// `Accepted`.
    pub(super) fn condition(&self, fault: Option<String>) -> RouteCondition {
        let bound = !self.gateways.is_empty() || !self.waypoints.is_empty();
        let (status, reason, message) = match fault {
            Some(fault) if bound => (true, "PartiallyInvalid", fault),
            None if bound => (true, "Accepted", "counted by its waypoints".to_owned()),
            Some(fault) if self.missing => (false, "TargetNotFound", fault),
            Some(fault) => (false, "Invalid", fault),
            None if self.unbound => (
                false,
                "AncestorNotBound",
                "no waypoint serves the target".to_owned(),
            ),
            None => (false, "Invalid", "attached to nothing".to_owned()),
        };
        RouteCondition {
            kind: "Accepted",
            status,
            reason,
            message,
        }
    }

    /// A target that no waypoint serves.
    pub(super) fn unbound(&mut self, field: &str, value: &str, say: &mut Say) {
        self.unbound = true;
        say.warning(
            codes::NOT_BOUND,
            Fault {
                field,
                value: Some(value),
                message: "no waypoint serves this, so nobody counts",
                remedy: "label the service, or its namespace, istio.io/use-waypoint: NAME",
            },
        );
    }

    /// A target that isn't there.
    pub(super) fn missing(&mut self, field: &str, value: &str, say: &mut Say) {
        self.missing = true;
        say.error(
            codes::NO_TARGET,
            Fault {
                field,
                value: Some(value),
                message: "there is no such object",
                remedy: "check the name, and that it is in the same namespace",
            },
        );
    }
}

fn attach(
    field: &str,
    target: &RateLimitTarget,
    namespace: &str,
    world: &dyn World,
    reach: &mut Reach,
    say: &mut Say,
) {
    let group = match (target.group.as_deref(), target.kind.as_str()) {
        (Some("core"), _) => "",
        (Some(group), _) => group,
        (None, "ServiceEntry") => "networking.istio.io",
        (None, "Gateway" | "HTTPRoute" | "GRPCRoute") => GATEWAY_API,
        (None, _) => "",
    };
    let named = format!("{} {}", target.kind, target.name);
    let kind = match (group, target.kind.as_str()) {
        ("", "Service") => {
            let service = world.service(namespace, &target.name);
            return services(field, target, service.into_iter().collect(), reach, say);
        }
        ("networking.istio.io", "ServiceEntry") => {
            let services = world.service_entry(namespace, &target.name);
            return self::services(field, target, services, reach, say);
        }
        (GATEWAY_API, "Gateway") => {
            match world.waypoint(namespace, &target.name) {
                Some(waypoint) => reach
                    .gateways
                    .push((Arc::clone(&waypoint.namespace), Arc::clone(&waypoint.name))),
                None => reach.missing(field, &named, say),
            }
            if target.section_name.is_some() {
                let field = format!("{field}.sectionName");
                bad(
                    say,
                    &field,
                    None,
                    "a waypoint has no parts; the limit holds for all of it",
                    "remove it",
                );
            }
            return;
        }
        (GATEWAY_API, "HTTPRoute") => Kind::HttpRoute,
        (GATEWAY_API, "GRPCRoute") => Kind::GrpcRoute,
        _ => {
            let remedy = "refer to a Service, ServiceEntry, HTTPRoute, GRPCRoute or Gateway";
            return bad(
                say,
                field,
                Some(&named),
                "a limit can't attach to this kind",
                remedy,
            );
        }
    };
    let key = ObjectKey::new(kind, namespace, target.name.as_str());
    let Some(route) = world.object(&key) else {
        return reach.missing(field, &named, say);
    };
    let waypoints = waypoints_of_route(&route.object, namespace, world);
    if waypoints.is_empty() {
        return reach.unbound(field, &named, say);
    }
    reach.waypoints.extend(waypoints);
    reach.targets.push(pb::Target {
        route: format!("{kind}/{namespace}/{}", target.name),
        section: target.section_name.clone().unwrap_or_default(),
        ..pb::Target::default()
    });
}

fn services(
    field: &str,
    target: &RateLimitTarget,
    found: Vec<Arc<ServiceInfo>>,
    reach: &mut Reach,
    say: &mut Say,
) {
    let named = format!("{} {}", target.kind, target.name);
    if found.is_empty() {
        return reach.missing(field, &named, say);
    }
    for service in found {
        let port = match target.section_name.as_deref() {
            None => 0,
            Some(section) => {
                let mut ports = service.ports.iter();
                let is_it = |port: &&crate::PortInfo| {
                    *port.name == *section || port.number.to_string() == section
                };
                let Some(port) = ports.find(is_it) else {
                    let field = format!("{field}.sectionName");
                    reach.missing(&field, section, say);
                    continue;
                };
                port.number
            }
        };
        if service.waypoints.is_empty() {
            reach.unbound(field, &named, say);
        } else {
            reach.service(&service, port);
        }
    }
}

/// The waypoints of the services that a route is attached to.
fn waypoints_of_route(route: &Object, namespace: &str, world: &dyn World) -> Vec<Waypoint> {
    let mut parents: Vec<(Option<&str>, Option<&str>, &str)> = Vec::new();
    match route {
        Object::HttpRoute(route) => {
            let refs = route.spec.parent_refs.iter().flatten();
            parents.extend(refs.map(|one| {
                (
                    one.kind.as_deref(),
                    one.namespace.as_deref(),
                    one.name.as_str(),
                )
            }));
        }
        Object::GrpcRoute(route) => {
            let refs = route.spec.parent_refs.iter().flatten();
            parents.extend(refs.map(|one| {
                (
                    one.kind.as_deref(),
                    one.namespace.as_deref(),
                    one.name.as_str(),
                )
            }));
        }
        _ => {}
    }
    let mut waypoints = Vec::new();
    for (kind, of, name) in parents {
        let of = of.unwrap_or(namespace);
        let services = match kind {
            Some("Service") => world.service(of, name).into_iter().collect(),
            Some("ServiceEntry") => world.service_entry(of, name),
            _ => Vec::new(),
        };
        waypoints.extend(
            services
                .iter()
                .flat_map(|service| service.waypoints.clone()),
        );
    }
    waypoints
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

const GATEWAY_API: &str = "gateway.networking.k8s.io";
const WHOLE: u32 = 1_000_000;
const MAX_TARGETS: usize = 16;
const MAX_LIMITS: usize = 64;
const MAX_REQUESTS: u32 = 1_000_000_000;
const MIN_INTERVAL_MS: u64 = 50;
const MAX_INTERVAL_MS: u64 = 24 * 3_600_000;
