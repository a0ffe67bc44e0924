//! XBackendTrafficPolicy: retry budgets and session persistence of services
//! (`waypoint-contract` 2.7, 5.1).

use std::sync::Arc;

use ambit_kube::gateway::XBackendTrafficPolicy;
use ambit_kube::{Kind, Located, Object, ObjectKey};
use ambit_proto::waypoint::{Origin, SessionPersistence, WindowBudget};
use serde::Deserialize;
use serde_json::Value;

use super::report::{Failure, Fault, Report};
use super::spec::SessionSpec;
use super::status::{no, yes};
use super::{codes, duration, session, unit};
use crate::{ParentStatus, ServiceInfo, Translated, World};

/// What the winning policy gives a service.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) origin: Origin,
    pub(super) budget: Option<WindowBudget>,
    pub(super) session: Option<SessionPersistence>,
}

/// `spec`, in our names.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    target_refs: Vec<Value>,
    retry_constraint: Option<Constraint>,
    session_persistence: Option<SessionSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Constraint {
    budget: Option<Budget>,
    min_retry_rate: Option<Rate>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Budget {
    percent: Option<i64>,
    interval: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rate {
    count: Option<i64>,
    interval: Option<String>,
}

/// A policy's target.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Target {
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) section_name: Option<String>,
}

impl Target {
    pub(super) fn of(value: &Value) -> Self {
        serde_json::from_value(value.clone()).unwrap_or_default()
    }

    /// Whether it is this service's object; policies and targets share a namespace.
    pub(super) fn names(&self, service: &ServiceInfo) -> bool {
        let object = &service.object;
        self.group == object.kind.group()
            && self.kind == object.kind.as_str()
            && *self.name == *object.name
    }

    /// The service of a target, if there is one.
    pub(super) fn service(&self, namespace: &str, world: &dyn World) -> Option<Arc<ServiceInfo>> {
        match (&*self.group, &*self.kind) {
            ("", "Service") => world.service(namespace, &self.name),
            ("networking.istio.io", "ServiceEntry") => world
                .service_entry(namespace, &self.name)
                .into_iter()
                .next(),
            _ => None,
        }
    }
}

/// The policy's status per target, and what is wrong with it.
pub fn backend_traffic_policy(
    policy: &Located<Arc<XBackendTrafficPolicy>>,
    world: &dyn World,
) -> Translated<()> {
    let object = &policy.object;
    let (key, spec) = named(object);
    let mut report = Report::about(key.clone(), policy);
    read(&mut report, &spec, &key);
    let invalid = report.take_rule().map(|failure| Failure {
        reason: "Invalid",
        ..failure
    });
    let mut parents = Vec::new();
    for (index, value) in spec.target_refs.iter().enumerate() {
        let field = format!("spec.targetRefs[{index}]");
        let target = Target::of(value);
        let lost = lost(&mut report, &field, &target, &key, world);
        let accepted = match lost.as_ref().or(invalid.as_ref()) {
            Some(failure) => no("Accepted", failure),
            None => yes("Accepted", "Accepted", "the policy is in force"),
        };
        parents.push(ParentStatus {
            parent_ref: value.clone(),
            conditions: vec![accepted],
        });
    }
    Translated {
        parents,
        problems: report.into_problems(),
        ..Translated::default()
    }
}

/// Why the policy isn't in force for a target.
fn lost(
    report: &mut Report,
    field: &str,
    target: &Target,
    key: &ObjectKey,
    world: &dyn World,
) -> Option<Failure> {
    let shown = format!("{} {}/{}", target.kind, key.namespace, target.name);
    let Some(service) = target.service(&key.namespace, world) else {
        report.error(
            codes::POLICY_TARGET,
            Fault {
                field,
                value: &shown,
                message: "there is no such service",
                remedy: "name a Service of the policy's own namespace",
            },
        );
        return Some(Failure {
            reason: "TargetNotFound",
            message: format!("{shown}: there is no such service"),
        });
    };
    let winner = winner(&service, world)?;
    if winner.object.metadata.name.as_deref() == Some(&*key.name) {
        return None;
    }
    let name = winner.object.metadata.name.clone().unwrap_or_default();
    report.warning(
        codes::POLICY_CONFLICT,
        Fault {
            field,
            value: &shown,
            message: "an older policy has the service",
            remedy: &format!("merge it into XBackendTrafficPolicy {name}"),
        },
    );
    Some(Failure {
        reason: "Conflicted",
        message: format!("XBackendTrafficPolicy {name} is older and has {shown}"),
    })
}

/// What a service gets.
pub(super) fn of_service(service: &ServiceInfo, world: &dyn World) -> Option<Found> {
    let winner = winner(service, world)?;
    let (key, spec) = named(&winner.object);
    let mut report = Report::about(key.clone(), &winner);
    let (budget, session) = read(&mut report, &spec, &key);
    Some(Found {
        origin: Origin {
            kind: key.kind.as_str().to_owned(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            generation: winner.object.metadata.generation.unwrap_or_default(),
        },
        budget,
        session,
    })
}

/// The session persistence of a rule whose backends are all of one service.
pub(super) fn session(
    world: &dyn World,
    services: &[Option<Arc<ServiceInfo>>],
) -> Option<SessionPersistence> {
    let (first, rest) = services.split_first()?;
    let first = first.as_ref()?;
    let same = |other: &Option<Arc<ServiceInfo>>| {
        other
            .as_ref()
            .is_some_and(|other| other.key() == first.key())
    };
    if !rest.iter().all(same) {
        return None;
    }
    of_service(first, world)?.session
}

/// The oldest policy of a service, then the first by name (2.7).
fn winner(service: &ServiceInfo, world: &dyn World) -> Option<Located<Arc<XBackendTrafficPolicy>>> {
    let policies = world.objects(Kind::XBackendTrafficPolicy, &service.object.namespace);
    let ours = policies.into_iter().filter_map(|located| {
        let Object::XBackendTrafficPolicy(policy) = located.object else {
            return None;
        };
        let (_, spec) = named(&policy);
        let hit = spec
            .target_refs
            .iter()
            .any(|value| Target::of(value).names(service));
        hit.then_some(Located {
            object: policy,
            origin: located.origin,
            lines: located.lines,
        })
    });
    ours.min_by_key(|located| {
        let meta = &located.object.metadata;
        (unit::created(meta), meta.name.clone())
    })
}

fn named(policy: &XBackendTrafficPolicy) -> (ObjectKey, Spec) {
    let meta = &policy.metadata;
    let key = ObjectKey::new(
        Kind::XBackendTrafficPolicy,
        meta.namespace.as_deref().unwrap_or("default"),
        meta.name.as_deref().unwrap_or_default(),
    );
    let value = serde_json::to_value(&policy.spec).ok();
    let spec = value.and_then(|value| serde_json::from_value(value).ok());
    (key, spec.unwrap_or_default())
}

/// A value that can't be used is reported, and the default stands in for it.
fn read(
    report: &mut Report,
    spec: &Spec,
    key: &ObjectKey,
) -> (Option<WindowBudget>, Option<SessionPersistence>) {
    let owner = format!("{}/{}/{}", key.kind.as_str(), key.namespace, key.name);
    let session = spec
        .session_persistence
        .as_ref()
        .and_then(|session| session::read(report, "spec.sessionPersistence", session, &owner));
    let budget = spec.retry_constraint.as_ref().map(|constraint| {
        let budget = constraint.budget.as_ref();
        let rate = constraint.min_retry_rate.as_ref();
        let percent = number(
            report,
            "spec.retryConstraint.budget.percent",
            budget.and_then(|budget| budget.percent),
            (20, 0..=100),
        );
        let count = number(
            report,
            "spec.retryConstraint.minRetryRate.count",
            rate.and_then(|rate| rate.count),
            (10, 1..=1_000_000),
        );
        WindowBudget {
            percent,
            interval_ms: interval(
                report,
                "spec.retryConstraint.budget.interval",
                budget.and_then(|budget| budget.interval.as_deref()),
                10_000,
            ),
            min_count: count,
            min_interval_ms: interval(
                report,
                "spec.retryConstraint.minRetryRate.interval",
                rate.and_then(|rate| rate.interval.as_deref()),
                1_000,
            ),
        }
    });
    (budget, session)
}

fn number(
    report: &mut Report,
    field: &str,
    value: Option<i64>,
    (default, range): (u32, std::ops::RangeInclusive<u32>),
) -> u32 {
    let Some(value) = value else {
        return default;
    };
    match u32::try_from(value) {
        Ok(number) if range.contains(&number) => number,
        _ => {
            let remedy = format!("use a number from {} to {}", range.start(), range.end());
            bad(report, field, &value.to_string(), &remedy);
            default
        }
    }
}

/// From one second to one hour.
fn interval(report: &mut Report, field: &str, value: Option<&str>, default: u64) -> u64 {
    let Some(text) = value else {
        return default;
    };
    match duration::milliseconds(text) {
        Some(ms) if (1_000..=3_600_000).contains(&ms) => ms,
        _ => {
            bad(report, field, text, "use a duration from 1s to 1h");
            default
        }
    }
}

fn bad(report: &mut Report, field: &str, value: &str, remedy: &str) {
    report.unusable(
        "Invalid",
        codes::BAD_TRAFFIC,
        Fault {
            field,
            value,
            message: "the value can't be used, and the default stands in for it",
            remedy,
        },
    );
}
