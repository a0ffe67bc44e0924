//! The policies of the view, by what they bind.

use std::sync::Arc;

use ambit_policy::{Authorization, Blocked, BlockedWhy, PolicySet, Scope};
use ambit_types::NamespacedName;
use rpds::RedBlackTreeMapSync;
use serde::Serialize;

use crate::config::UnknownPolicy;
use crate::model::Workload;
use crate::view::{Map, View};

/// What is in force under one policy name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PolicyEntry {
    /// The policy as it was last sent.
    Good(Arc<Authorization>),
    /// The last form that could be read; the one sent since can't be.
    LastGood {
        policy: Arc<Authorization>,
        reason: Arc<str>,
    },
    /// No form could ever be read.
    Unreadable {
        scope: Scope,
        dry_run: bool,
        reason: Arc<str>,
    },
}

impl PolicyEntry {
    fn scope(&self) -> Scope {
        match self {
            Self::Good(policy) | Self::LastGood { policy, .. } => policy.scope,
            Self::Unreadable { scope, .. } => *scope,
        }
    }

    /// The policy in force, if one is.
    pub(crate) fn policy(&self) -> Option<&Arc<Authorization>> {
        match self {
            Self::Good(policy) | Self::LastGood { policy, .. } => Some(policy),
            Self::Unreadable { .. } => None,
        }
    }
}

/// A policy that can't be enforced as it was last sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyProblem {
    /// Its name.
    pub key: NamespacedName,
    /// What can't be read.
    pub reason: Arc<str>,
    /// What is done instead.
    pub instead: Instead,
}

/// What stands in for a policy that can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Instead {
    /// Its last good form.
    LastGood,
    /// Everything that it would bind is denied.
    Deny,
    /// Nothing: it was a dry run.
    Nothing,
}

#[derive(Clone)]
struct Sorted(RedBlackTreeMapSync<NamespacedName, Arc<PolicyEntry>>);

impl Default for Sorted {
    fn default() -> Self {
        Self(RedBlackTreeMapSync::new_sync())
    }
}

/// All policies, and those that bind without being listed.
#[derive(Clone, Default)]
pub(crate) struct PolicyIndex {
    all: Map<NamespacedName, Arc<PolicyEntry>>,
    global: Sorted,
    by_namespace: Map<Arc<str>, Sorted>,
}

impl PolicyIndex {
    pub(crate) fn insert_good(&mut self, policy: Authorization) {
        let key = policy.key.clone();
        self.insert(key, PolicyEntry::Good(Arc::new(policy)));
    }

    /// A form that can't be read: the last good one stays, or else it denies.
    pub(crate) fn insert_unreadable(&mut self, key: NamespacedName, poison: Poison) {
        let good = self.all.get(&key).and_then(|entry| entry.policy()).cloned();
        let reason = poison.reason;
        let entry = match good {
            Some(policy) => PolicyEntry::LastGood { policy, reason },
            None => PolicyEntry::Unreadable {
                scope: poison.scope.unwrap_or(Scope::Namespace),
                dry_run: poison.dry_run,
                reason,
            },
        };
        self.insert(key, entry);
    }

    fn insert(&mut self, key: NamespacedName, entry: PolicyEntry) {
        self.remove(&key);
        let entry = Arc::new(entry);
        match entry.scope() {
            Scope::Global => self.global.0.insert_mut(key.clone(), Arc::clone(&entry)),
            Scope::Namespace => {
                let namespace = Arc::clone(&key.namespace);
                let known = self.by_namespace.get(&namespace);
                let mut sorted = known.cloned().unwrap_or_default();
                sorted.0.insert_mut(key.clone(), Arc::clone(&entry));
                self.by_namespace.insert_mut(namespace, sorted);
            }
            Scope::WorkloadSelector => {}
        }
        self.all.insert_mut(key, entry);
    }

    pub(crate) fn remove(&mut self, key: &NamespacedName) -> bool {
        let Some(entry) = self.all.get(key).cloned() else {
            return false;
        };
        match entry.scope() {
            Scope::Global => {
                self.global.0.remove_mut(key);
            }
            Scope::Namespace => {
                if let Some(sorted) = self.by_namespace.get_mut(&key.namespace) {
                    sorted.0.remove_mut(key);
                    if sorted.0.is_empty() {
                        self.by_namespace.remove_mut(&key.namespace);
                    }
                }
            }
            Scope::WorkloadSelector => {}
        }
        self.all.remove_mut(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NamespacedName, &Arc<PolicyEntry>)> {
        self.all.iter()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.global.0.is_empty() && self.by_namespace.is_empty()
    }
}

/// What is left of a policy that can't be read.
pub(crate) struct Poison {
    /// What it binds, if that could be read.
    pub(crate) scope: Option<Scope>,
    pub(crate) dry_run: bool,
    pub(crate) reason: Arc<str>,
}

impl View {
    /// The policies that bind a workload: its namespace's, the global ones and
    /// those it lists (`ztunnel-contract` section 6).
    pub fn policies_for<'v>(&'v self, workload: &'v Workload) -> PolicySet<'v> {
        let mut set = PolicySet::default();
        let index = &self.policies;
        let own = index.by_namespace.get(&workload.namespace);
        for (key, entry) in own.iter().flat_map(|sorted| sorted.0.iter()) {
            push(&mut set, key, entry);
        }
        for (key, entry) in index.global.0.iter() {
            push(&mut set, key, entry);
        }
        for key in &workload.authorization_policies {
            match index.all.get(key) {
                Some(entry) => push(&mut set, key, entry),
                None => match self.config.unknown_policy {
                    UnknownPolicy::Deny => set.block(Blocked {
                        key,
                        why: BlockedWhy::Unknown,
                    }),
                    UnknownPolicy::Skip => {}
                },
            }
        }
        set
    }

    /// The policy in force under a name.
    pub fn policy(&self, key: &NamespacedName) -> Option<&Arc<Authorization>> {
        self.policies.all.get(key).and_then(|entry| entry.policy())
    }

    /// The policies that can't be enforced as they were last sent, by name.
    pub fn policy_problems(&self) -> Vec<PolicyProblem> {
        let mut problems: Vec<_> = self
            .policies
            .iter()
            .filter_map(|(key, entry)| {
                let (reason, instead) = match &**entry {
                    PolicyEntry::Good(_) => return None,
                    PolicyEntry::LastGood { reason, .. } => (reason, Instead::LastGood),
                    PolicyEntry::Unreadable {
                        dry_run: false,
                        reason,
                        ..
                    } => (reason, Instead::Deny),
                    PolicyEntry::Unreadable { reason, .. } => (reason, Instead::Nothing),
                };
                Some(PolicyProblem {
                    key: key.clone(),
                    reason: Arc::clone(reason),
                    instead,
                })
            })
            .collect();
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        problems
    }
}

fn push<'v>(set: &mut PolicySet<'v>, key: &'v NamespacedName, entry: &'v PolicyEntry) {
    match entry {
        PolicyEntry::Good(policy) | PolicyEntry::LastGood { policy, .. } => set.push(policy),
        PolicyEntry::Unreadable { dry_run: true, .. } => {}
        PolicyEntry::Unreadable { dry_run: false, .. } => set.block(Blocked {
            key,
            why: BlockedWhy::Unreadable,
        }),
    }
}
