//! In which order policies decide (`ztunnel-contract` section 6).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ambit_types::{NamespacedName, SpiffeId};

use crate::matching::policy_matches;
use crate::model::{Action, Authorization};
use crate::set::{BlockedWhy, PolicySet};
use crate::trace::{Step, Tracer};

/// What policies see of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Attrs<'a> {
    /// Address of the TCP peer, never one that a header claims.
    pub source_ip: IpAddr,
    /// The pod's own address and the final port: after named ports and any
    /// application tunnel.
    pub destination: SocketAddr,
    /// The peer's verified identity; none on plaintext.
    pub peer: Option<&'a SpiffeId>,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Let it in.
    Allow(AllowedBy),
    /// Refuse it.
    Deny(DeniedBy),
}

impl Verdict {
    /// True for every kind of allowance.
    pub fn is_allow(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// Why a connection is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedBy {
    /// No ALLOW policy binds the workload.
    Default,
    /// This ALLOW policy matches.
    Policy(NamespacedName),
}

/// Why a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeniedBy {
    /// This DENY policy matches.
    Policy(NamespacedName),
    /// ALLOW policies bind the workload and none matches.
    NoAllowMatched,
    /// The workload lists this policy, and it isn't known here.
    PolicyUnknown(NamespacedName),
    /// This policy can't be read, and never could.
    PolicyUnreadable(NamespacedName),
}

impl fmt::Display for AllowedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("no allow policies"),
            Self::Policy(key) => write!(f, "allowed by {key}"),
        }
    }
}

impl fmt::Display for DeniedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(key) => write!(f, "explicitly denied by {key}"),
            Self::NoAllowMatched => f.write_str("allow policies exist, but none allowed"),
            Self::PolicyUnknown(key) => {
                write!(
                    f,
                    "explicitly denied by {key}: this policy is not known here"
                )
            }
            Self::PolicyUnreadable(key) => {
                write!(f, "explicitly denied by {key}: this policy cannot be read")
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow(by) => fmt::Display::fmt(by, f),
            Self::Deny(by) => fmt::Display::fmt(by, f),
        }
    }
}

/// Decides. Allocates nothing; dry-run policies are skipped, since nobody
/// would see what they say ([`evaluate_with`] shows it).
pub fn evaluate(policies: &PolicySet<'_>, attrs: &Attrs<'_>) -> Verdict {
    evaluate_with(policies, attrs, &mut ())
}

/// [`evaluate`], telling each step to `tracer`.
pub fn evaluate_with<T: Tracer>(
    policies: &PolicySet<'_>,
    attrs: &Attrs<'_>,
    tracer: &mut T,
) -> Verdict {
    dry_run(policies, Action::Deny, attrs, tracer);
    if let Some(policy) = first(policies, Action::Deny, attrs, tracer) {
        return Verdict::Deny(DeniedBy::Policy(policy.key.clone()));
    }
    if let Some(blocked) = policies.blocked().first() {
        let key = blocked.key.clone();
        return Verdict::Deny(match blocked.why {
            BlockedWhy::Unknown => DeniedBy::PolicyUnknown(key),
            BlockedWhy::Unreadable => DeniedBy::PolicyUnreadable(key),
        });
    }
    let has_allow = of(policies, Action::Allow, false).next().is_some();
    let (tried, matched) = dry_run(policies, Action::Allow, attrs, tracer);
    if T::ENABLED && tried && !matched && !has_allow {
        tracer.step(Step::DryRunMiss);
    }
    if !has_allow {
        return Verdict::Allow(AllowedBy::Default);
    }
    match first(policies, Action::Allow, attrs, tracer) {
        Some(policy) => Verdict::Allow(AllowedBy::Policy(policy.key.clone())),
        None => Verdict::Deny(DeniedBy::NoAllowMatched),
    }
}

fn of<'a, 'p>(
    policies: &'a PolicySet<'p>,
    action: Action,
    dry_run: bool,
) -> impl Iterator<Item = &'p Authorization> + use<'a, 'p> {
    policies
        .policies()
        .iter()
        .copied()
        .filter(move |p| p.action == action && p.dry_run == dry_run)
}

fn first<'p, T: Tracer>(
    policies: &PolicySet<'p>,
    action: Action,
    attrs: &Attrs<'_>,
    tracer: &mut T,
) -> Option<&'p Authorization> {
    of(policies, action, false).find(|policy| policy_matches(policy, attrs, tracer))
}

/// Evaluates the dry-run policies for the tracer alone: were there any, did one match.
fn dry_run<T: Tracer>(
    policies: &PolicySet<'_>,
    action: Action,
    attrs: &Attrs<'_>,
    tracer: &mut T,
) -> (bool, bool) {
    let (mut tried, mut matched) = (false, false);
    if T::ENABLED {
        for policy in of(policies, action, true) {
            tried = true;
            matched |= policy_matches(policy, attrs, tracer);
        }
    }
    (tried, matched)
}
