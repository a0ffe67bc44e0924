//! What node proxies get of a policy that a waypoint enforces for the workloads that it selects: the destination
//! admits the waypoint, and of others those only that it can judge by itself (issue 4, item 6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ambit_kube::{Action, Kind, Object, ObjectKey};
use ambit_proto::security::{self, Authorization, Clause, Match, Rule, Scope};
use ambit_translate::security::{Enforcer, enforcer};
use ambit_types::NamespacedName;

use super::guard::{exact, principals};
use super::objects::with;
use crate::derive::{members_of_pod, members_of_workload_entry, uid_of};
use crate::policy::sent_name;
use crate::view::View;

/// A waypoint that enforces a policy, and what the policy's workloads must know of that.
pub(crate) struct StandIn {
    action: Action,
    /// Identities of the waypoint.
    waypoint: BTreeSet<String>,
    /// Ports by which the selected workloads' services lead to them.
    ports: BTreeSet<u32>,
}

/// Whether a waypoint enforces a policy with a selector.
pub(crate) fn stand_in(view: &View<'_>, key: &ObjectKey) -> Option<StandIn> {
    view.store.raw(key)?;
    let located = view.store.objects.in_force(key)?;
    let Object::AuthorizationPolicy(policy) = &located.object else {
        return None;
    };
    let Enforcer::Waypoint {
        waypoint: (namespace, name),
        workloads,
    } = enforcer(&with(located, policy), view)
    else {
        return None;
    };
    let fact = view.waypoint_fact(&NamespacedName::new(namespace, name))?;
    let domain = &*view.store.mesh.trust_domain;
    Some(StandIn {
        action: policy.spec.action,
        waypoint: principals(domain, &fact).collect(),
        ports: ports(view, &key.namespace, &workloads),
    })
}

impl StandIn {
    /// The policy for the node proxies, made of what they would enforce by themselves.
    pub(crate) fn replace(
        &self,
        own: Option<Authorization>,
        key: &ObjectKey,
    ) -> Option<Authorization> {
        match self.action {
            // Rules about connections alone hold for those who come directly, too.
            Action::Allow => own.map(|mut message| {
                message.rules.push(rule(vec![Match {
                    principals: exact(self.waypoint.clone()),
                    ..Match::default()
                }]));
                message
            }),
            Action::Deny => {
                let mut message = own.unwrap_or_else(|| Authorization {
                    name: sent_name(&key.name),
                    namespace: key.namespace.to_string(),
                    scope: Scope::WorkloadSelector.into(),
                    action: security::Action::Deny.into(),
                    ..Authorization::default()
                });
                let others = |ports: BTreeSet<u32>| Match {
                    not_principals: exact(self.waypoint.clone()),
                    destination_ports: ports.into_iter().collect(),
                    ..Match::default()
                };
                // What is left of rules without their HTTP part denies more; not the waypoint, which knows better.
                for rule in &mut message.rules {
                    rule.clauses.push(Clause {
                        matches: vec![others(BTreeSet::new())],
                    });
                }
                if !self.ports.is_empty() {
                    message.rules.push(rule(vec![others(self.ports.clone())]));
                }
                Some(message)
            }
            // What these refuse, node proxies don't know at all: the services are guarded (`service::selected`).
            Action::Audit | Action::Custom => own,
        }
    }
}

fn rule(matches: Vec<Match>) -> Rule {
    Rule {
        clauses: vec![Clause { matches }],
    }
}

/// The ports by which services lead to workloads of a namespace.
fn ports(view: &View<'_>, namespace: &Arc<str>, workloads: &[Arc<str>]) -> BTreeSet<u32> {
    let store = view.store;
    let Some(space) = store.space(namespace) else {
        return BTreeSet::new();
    };
    let meant: BTreeSet<&str> = workloads.iter().map(|uid| &**uid).collect();
    let is_meant = |kind: Kind, name: &Arc<str>| {
        let key = ObjectKey::new(kind, Arc::clone(namespace), Arc::clone(name));
        meant.contains(&*uid_of(store, &key))
    };
    let mut members: Vec<BTreeMap<_, _>> = Vec::new();
    for (name, pod) in &space.pods {
        if is_meant(Kind::Pod, name) {
            let at = NamespacedName::new(Arc::clone(namespace), Arc::clone(name));
            members.push(members_of_pod(store, &at, &pod.object));
        }
    }
    for (name, entry) in &space.workloads {
        if is_meant(Kind::WorkloadEntry, name) {
            let entry = &entry.object;
            let of = members_of_workload_entry(store, namespace, &entry.labels, &entry.spec);
            members.push(of);
        }
    }
    let lists = members.iter().flat_map(BTreeMap::values);
    let ports = lists.flat_map(|list| &list.ports);
    ports.map(|port| port.target_port).collect()
}
