//! DestinationRules: which hold for a service at a waypoint, and how several
//! become one (`waypoint-contract` 3.4).
//!
//! Owns the lookup and what is said of a rule as an object. What its fields
//! become is in `policy`, what a service's Backend is in `backend`.

mod balance;
mod policy;
mod pool;
mod tls;

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_kube::{DestinationRule, DrSubset, DrTrafficPolicy, Kind, Located, Object, ObjectKey};

pub(super) use self::policy::{Blocks, PolicyScope, Says, Secrets, traffic_policy};
use super::say::{Fault, Say};
use super::{codes, hosts, mesh};
use crate::{ServiceInfo, Translated, World};

type Rule = Located<Arc<DestinationRule>>;

/// The rules that hold for a service at a waypoint, as one: the first of them
/// decides, the others add subsets.
#[derive(Debug, Default)]
pub(super) struct InForce {
    pub(super) rules: Vec<Rule>,
}

impl InForce {
    /// The traffic policy and the rule that has it.
    pub(super) fn policy(&self) -> Option<(&Rule, &DrTrafficPolicy)> {
        self.rules.iter().find_map(|rule| {
            let policy = rule.object.spec.traffic_policy.as_ref()?;
            Some((rule, policy))
        })
    }

    /// Subsets by name, the first of each, with its rule and place there.
    pub(super) fn subsets(&self) -> Vec<(&Rule, usize, &DrSubset)> {
        let mut names = BTreeSet::new();
        self.rules
            .iter()
            .flat_map(|rule| {
                let subsets = rule.object.spec.subsets.iter().enumerate();
                subsets.map(move |(at, subset)| (rule, at, subset))
            })
            .filter(|(_, _, subset)| names.insert(subset.name.as_str()))
            .collect()
    }
}

/// Looks in the waypoint's namespace, the service's, the root namespace; the
/// first that has a match decides, there the most specific host.
pub(super) fn in_force(service: &ServiceInfo, waypoint: &str, world: &dyn World) -> InForce {
    let root = world.mesh().root_namespace.clone();
    let mut looked = BTreeSet::new();
    for namespace in [waypoint, &*service.namespace, &*root] {
        if !looked.insert(namespace) {
            continue;
        }
        let rules = best(service, namespace, waypoint, world);
        if !rules.is_empty() {
            return InForce { rules };
        }
    }
    InForce::default()
}

fn best(service: &ServiceInfo, namespace: &str, waypoint: &str, world: &dyn World) -> Vec<Rule> {
    let default = mesh::destination_rule_export(world.mesh());
    let mut best: Vec<Rule> = Vec::new();
    let mut best_host = String::new();
    for located in world.objects(Kind::DestinationRule, namespace) {
        let Object::DestinationRule(rule) = located.object else {
            continue;
        };
        let spec = &rule.spec;
        let host = hosts::expand(&spec.host, namespace, world);
        if spec.workload_selector.is_some()
            || !hosts::covers(&host, &service.hostname)
            || !hosts::visible(&spec.export_to, namespace, waypoint, default)
        {
            continue;
        }
        let rule = Located {
            object: rule.clone(),
            origin: located.origin,
            lines: located.lines,
        };
        if best.is_empty() || more_specific(&host, &best_host) {
            best_host = host;
            best = vec![rule];
        } else if host == best_host {
            best.push(rule);
        }
    }
    // The oldest decides; the order of names is there already.
    best.sort_by_key(|rule| created(&rule.object));
    best
}

fn created(rule: &DestinationRule) -> i64 {
    let time = rule.metadata.creation_timestamp.as_ref();
    time.map_or(0, |time| time.0.as_millisecond())
}

/// Names beat patterns, longer patterns shorter ones.
fn more_specific(host: &str, than: &str) -> bool {
    match (host.starts_with('*'), than.starts_with('*')) {
        (false, true) => true,
        (true, false) => false,
        _ => host.len() > than.len(),
    }
}

/// Whether a rule in force defines a subset.
pub(super) fn has_subset(
    service: &ServiceInfo,
    waypoint: &str,
    subset: &str,
    world: &dyn World,
) -> bool {
    let found = in_force(service, waypoint, world);
    let mut subsets = found
        .rules
        .iter()
        .flat_map(|rule| &rule.object.spec.subsets);
    subsets.any(|known| known.name == subset)
}

/// Whether endpoints of a subset and port are chosen by a hash.
pub(super) fn is_hashed(
    service: &ServiceInfo,
    waypoint: &str,
    (subset, port): (&str, u32),
    world: &dyn World,
) -> bool {
    let found = in_force(service, waypoint, world);
    let whole = found.policy().map(|(_, policy)| policy);
    let part = found
        .subsets()
        .into_iter()
        .find(|(_, _, known)| known.name == subset)
        .and_then(|(_, _, known)| known.traffic_policy.as_ref());
    let of_port = |policy: Option<&DrTrafficPolicy>| {
        let mut ports = policy?.port_level_settings.iter();
        let found = ports.find(|entry| entry.port.is_some_and(|p| p.number == port))?;
        Some(found.load_balancer.clone())
    };
    let balancer = of_port(part).or_else(|| of_port(whole)).unwrap_or_else(|| {
        let own = part.and_then(|policy| policy.load_balancer.clone());
        own.or_else(|| whole.and_then(|policy| policy.load_balancer.clone()))
    });
    balancer.is_some_and(|balancer| balancer.consistent_hash.is_some())
}

/// What is wrong with a DestinationRule as an object, said once however many
/// services it is for.
pub fn destination_rule(object: &Rule, world: &dyn World) -> Translated<()> {
    let spec = &object.object.spec;
    let meta = &object.object.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    let name = meta.name.as_deref().unwrap_or_default();
    let key = ObjectKey::new(Kind::DestinationRule, namespace, name);
    let mut say = Say::about(key.clone(), object);
    let services = covered(&mut say, object, namespace, world);
    if spec.workload_selector.is_some() {
        say.warning(
            codes::RULE_REFUSED,
            Fault {
                field: "spec.workloadSelector",
                value: "",
                message: "it selects sidecars that call; a waypoint uses no rule that has it",
                remedy: "remove it, so that the rule holds for all clients",
            },
        );
    } else {
        for service in &services {
            place(&mut say, object, (&key, namespace), service, world);
        }
    }
    policy::report(&mut say, spec, &services, world);
    Translated {
        resource: None,
        problems: say.into_problems(),
        ..Translated::default()
    }
}

fn covered(
    say: &mut Say,
    object: &Rule,
    namespace: &str,
    world: &dyn World,
) -> Vec<Arc<ServiceInfo>> {
    let written = &object.object.spec.host;
    let host = hosts::expand(written, namespace, world);
    let services = if host == "*" {
        world.hosts_under("", namespace)
    } else {
        hosts::services(&host, namespace, world)
    };
    if services.is_empty() {
        let meant = format!("{host}.svc.{}", world.mesh().cluster_domain);
        let remedy = if host.split('.').count() == 2 && world.host(&meant, namespace).is_some() {
            format!("write {meant}: only names without a dot are completed")
        } else {
            "check the name; a host outside the cluster needs a ServiceEntry".to_owned()
        };
        say.warning(
            codes::RULE_WITHOUT_HOST,
            Fault {
                field: "spec.host",
                value: written,
                message: "no service of the mesh has this host",
                remedy: &remedy,
            },
        );
    }
    services
}

/// Says where the rule isn't in force for a service that has waypoints.
fn place(
    say: &mut Say,
    object: &Rule,
    (key, namespace): (&ObjectKey, &str),
    service: &ServiceInfo,
    world: &dyn World,
) {
    let spec = &object.object.spec;
    let host = &*service.hostname;
    let root = &*world.mesh().root_namespace;
    let default = mesh::destination_rule_export(world.mesh());
    for (waypoint, _) in &service.waypoints {
        if ![&**waypoint, &*service.namespace, root].contains(&namespace) {
            say.warning(
                codes::CLIENTS_ONLY,
                Fault {
                    field: "spec.host",
                    value: host,
                    message: "a waypoint takes rules of its own namespace, the service's and the root namespace, not of clients",
                    remedy: &format!("move it to namespace {}", service.namespace),
                },
            );
            continue;
        }
        if !hosts::visible(&spec.export_to, namespace, waypoint, default) {
            say.warning(
                codes::NOT_EXPORTED,
                Fault {
                    field: "spec.exportTo",
                    value: &spec.export_to.join(", "),
                    message: &format!("it isn't shown to the waypoint of {host}"),
                    remedy: "add the waypoint's namespace, or remove exportTo",
                },
            );
            continue;
        }
        let found = in_force(service, waypoint, world);
        shadowed(say, &found, key, host, spec);
    }
}

fn shadowed(
    say: &mut Say,
    found: &InForce,
    key: &ObjectKey,
    host: &str,
    spec: &ambit_kube::DestinationRuleSpec,
) {
    let own = |rule: &Rule| {
        rule.object.metadata.name.as_deref() == Some(&*key.name)
            && rule
                .object
                .metadata
                .namespace
                .as_deref()
                .unwrap_or("default")
                == &*key.namespace
    };
    let name = |rule: &Rule| {
        let meta = &rule.object.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or("default");
        format!("{namespace}/{}", meta.name.as_deref().unwrap_or_default())
    };
    let mut tell = |field: &str, value: &str, message: String| {
        say.warning(
            codes::RULE_SHADOWED,
            Fault {
                field,
                value,
                message: &message,
                remedy: "put both into one DestinationRule",
            },
        );
    };
    if !found.rules.iter().any(own) {
        if let Some(first) = found.rules.first() {
            tell(
                "spec.host",
                host,
                format!(
                    "DestinationRule {} holds for this host instead",
                    name(first)
                ),
            );
        }
        return;
    }
    if spec.traffic_policy.is_some()
        && let Some((first, _)) = found.policy()
        && !own(first)
    {
        let message = format!(
            "the trafficPolicy of {} holds for this host instead",
            name(first)
        );
        tell("spec.trafficPolicy", host, message);
    }
    for (rule, _, subset) in found.subsets() {
        if !own(rule)
            && let Some(at) = spec.subsets.iter().position(|s| s.name == subset.name)
        {
            let message = format!("{} has defined this subset already", name(rule));
            tell(&format!("spec.subsets[{at}].name"), &subset.name, message);
        }
    }
}
