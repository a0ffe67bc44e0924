//! What policies mean, each read on its own: faults found, rules translated, reach told.
//!
//! A policy with one unusable value is refused as a whole, because leaving the value out could widen it: it keeps
//! its last good form, or, if it was never good, it closes what it reaches (design D4). Nothing here looks at a
//! second object.

mod authorization;
mod name;
mod peer;
mod rules;

pub(crate) use authorization::{Enforced, L7, NotEnforced, Policy, faults_of};
pub(crate) use name::sent_name;
pub(crate) use peer::{Peer, PeerLevels, port_policy, static_strict};

use ambit_kube::WorkloadSelector;

use crate::input::Labels;

/// A value that a policy can't have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Empty when the document as a whole can't be read.
    pub(crate) field: String,
    /// None where something is missing.
    pub(crate) value: Option<String>,
    pub(crate) wrong: String,
    pub(crate) remedy: &'static str,
}

/// Which workloads a policy is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All of its namespace; in the root namespace, all of the mesh.
    All,
    /// All of its namespace, even in the root namespace: what a policy closes whose selector can't be read.
    Namespace,
    /// Those with these labels.
    Selected(Labels),
}

impl Reach {
    /// Reads a selector; a faulty one gives no reach.
    fn of(selector: Option<&WorkloadSelector>, faults: &mut Vec<Fault>) -> Option<Self> {
        let Some(selector) = selector else {
            return Some(Self::All);
        };
        let before = faults.len();
        for (key, value) in &selector.match_labels {
            if key.is_empty() || key.contains('*') || value.contains('*') {
                faults.push(Fault {
                    field: format!("spec.selector.matchLabels.{key}"),
                    value: Some(value.clone()),
                    wrong: "a selector compares labels whole and knows no wildcard".to_owned(),
                    remedy: "write the label and its value in full",
                });
            }
        }
        (faults.len() == before).then(|| Self::Selected(Labels::of(&selector.match_labels)))
    }

    /// The labels that it selects by, where it does.
    pub(crate) fn selector(&self) -> Option<&Labels> {
        match self {
            Self::Selected(labels) => Some(labels),
            Self::All | Self::Namespace => None,
        }
    }
}

/// A policy that is refused: why, and what stands in for it if nothing good was seen before.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refused<T> {
    pub(crate) faults: Vec<Fault>,
    pub(crate) closed: Box<T>,
}

/// A policy as it is in force.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kept<T> {
    /// As written.
    Good(T),
    /// As written before; what is written now is refused.
    LastGood { good: T, faults: Vec<Fault> },
    /// Never good: closed.
    Closed { closed: T, faults: Vec<Fault> },
}

impl<T> Kept<T> {
    /// What is in force after a policy was read, given what was before.
    pub(crate) fn next(before: Option<Self>, read: Result<T, Refused<T>>) -> Self {
        match (before, read) {
            (_, Ok(good)) => Self::Good(good),
            (Some(Self::Good(good) | Self::LastGood { good, .. }), Err(refused)) => {
                Self::LastGood {
                    good,
                    faults: refused.faults,
                }
            }
            (Some(Self::Closed { .. }) | None, Err(Refused { faults, closed })) => Self::Closed {
                closed: *closed,
                faults,
            },
        }
    }

    pub(crate) fn in_force(&self) -> &T {
        let (Self::Good(policy)
        | Self::LastGood { good: policy, .. }
        | Self::Closed { closed: policy, .. }) = self;
        policy
    }

    pub(crate) fn faults(&self) -> &[Fault] {
        match self {
            Self::Good(_) => &[],
            Self::LastGood { faults, .. } | Self::Closed { faults, .. } => faults,
        }
    }
}
