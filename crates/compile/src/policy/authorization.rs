//! AuthorizationPolicy: whether node proxies enforce it, for whom, and how (`control-plane-contract` 4.1).

use std::collections::BTreeSet;

use ambit_kube::{Action, AuthorizationPolicy, BrokenPolicy, Reach as BrokenReach};
use ambit_proto::security;

use super::rules::{self, Reading};
use super::{Fault, Reach, Refused};
use crate::input::Labels;

/// What an authorization policy is to a node proxy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Policy {
    Enforced(Enforced),
    NotEnforced(NotEnforced),
}

/// A policy that node proxies enforce.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Enforced {
    pub(crate) reach: Reach,
    pub(crate) action: security::Action,
    /// Any of them; none matches nothing.
    pub(crate) rules: Vec<security::Rule>,
    pub(crate) dry_run: bool,
    /// HTTP attributes that were found and left out.
    pub(crate) l7: Option<L7>,
}

/// What leaving out HTTP attributes made of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct L7 {
    pub(crate) found: BTreeSet<String>,
    /// Of a DENY: every rule uses nothing else, so that it has no effect.
    pub(crate) no_effect: bool,
    /// The first place where one was found.
    pub(crate) field: String,
}

/// Why node proxies don't enforce a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotEnforced {
    /// It attaches to waypoints or services by reference.
    Targets,
    /// Its action asks for more than node proxies do.
    Action(&'static str),
    /// It is marked as a dry run.
    DryRun,
}

impl Policy {
    /// Reads a policy of a namespace.
    pub(crate) fn read(
        object: &AuthorizationPolicy,
        namespace: &str,
        dry_runs: bool,
    ) -> Result<Self, Refused<Self>> {
        let spec = &object.spec;
        let annotations = object.metadata.annotations.as_ref();
        let dry_run = annotations
            .and_then(|annotations| annotations.get("istio.io/dry-run"))
            .is_some_and(|value| is_true(value));
        let has_targets = spec.target_ref.is_some() || !spec.target_refs.is_empty();
        let action = match spec.action {
            Action::Allow => security::Action::Allow,
            Action::Deny => security::Action::Deny,
            Action::Audit => return Ok(Self::NotEnforced(NotEnforced::Action("AUDIT"))),
            Action::Custom => return Ok(Self::NotEnforced(NotEnforced::Action("CUSTOM"))),
        };
        if dry_run && !dry_runs {
            return Ok(Self::NotEnforced(NotEnforced::DryRun));
        }
        let mut faults = Vec::new();
        let reach = Reach::of(spec.selector.as_ref(), &mut faults);
        if has_targets && spec.selector.is_some() {
            faults.push(Fault {
                field: "spec.targetRefs".to_owned(),
                value: None,
                wrong: "a policy has a selector or targetRefs, not both".to_owned(),
                remedy: "keep the one that is meant",
            });
        }
        let reading = rules::read(spec, action, namespace, &mut faults);
        if !faults.is_empty() {
            let closed = if has_targets && spec.selector.is_none() {
                Self::NotEnforced(NotEnforced::Targets)
            } else {
                Self::closed(reach.unwrap_or(Reach::Namespace))
            };
            return Err(Refused {
                faults,
                closed: Box::new(closed),
            });
        }
        if has_targets {
            return Ok(Self::NotEnforced(NotEnforced::Targets));
        }
        let Reading { rules, l7 } = reading;
        Ok(Self::Enforced(Enforced {
            reach: reach.unwrap_or(Reach::Namespace),
            action,
            rules,
            dry_run,
            l7: l7.map(|l7| L7 {
                no_effect: action == security::Action::Deny && l7.no_effect,
                ..l7
            }),
        }))
    }

    /// What stands in for a document that can't be read.
    pub(crate) fn broken(broken: &BrokenPolicy) -> Refused<Self> {
        let closed = match &broken.reach {
            BrokenReach::Unknown => Self::closed(Reach::Namespace),
            BrokenReach::Namespace => Self::closed(Reach::All),
            BrokenReach::Selector(labels) => Self::closed(Reach::Selected(Labels::of(labels))),
            BrokenReach::Targets(_) => Self::NotEnforced(NotEnforced::Targets),
        };
        Refused {
            faults: vec![Fault::unreadable(&broken.why)],
            closed: Box::new(closed),
        }
    }

    /// Denies everything that it reaches: one rule without a clause.
    fn closed(reach: Reach) -> Self {
        Self::Enforced(Enforced {
            reach,
            action: security::Action::Deny,
            rules: vec![security::Rule::default()],
            dry_run: false,
            l7: None,
        })
    }

    /// The labels that it selects workloads by, if node proxies enforce it that way.
    pub(crate) fn selector(&self) -> Option<&Labels> {
        match self {
            Self::Enforced(enforced) => enforced.reach.selector(),
            Self::NotEnforced(_) => None,
        }
    }
}

/// What can't be used in a policy, whatever its action and whoever enforces it.
pub(crate) fn faults_of(object: &AuthorizationPolicy, namespace: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let spec = &object.spec;
    Reach::of(spec.selector.as_ref(), &mut faults);
    let action = match spec.action {
        Action::Deny => security::Action::Deny,
        Action::Allow | Action::Audit | Action::Custom => security::Action::Allow,
    };
    rules::read(spec, action, namespace, &mut faults);
    faults
}

impl Fault {
    /// Of a document whose problems the reader has told already.
    pub(crate) fn unreadable(why: &str) -> Self {
        Self {
            field: String::new(),
            value: None,
            wrong: why.to_owned(),
            remedy: "correct the document",
        }
    }
}

/// Go's idea of a true boolean, as the annotation has it.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}
