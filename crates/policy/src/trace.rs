//! Watching a decision while it is made: the same code decides with and
//! without, and without it costs nothing.

use std::fmt;

use tracing::{debug, info};

use crate::model::{Action, Authorization};

/// Receives the steps of a decision. `()` receives nothing and is compiled out.
pub trait Tracer {
    /// False compiles every step out, and dry-run policies with them.
    const ENABLED: bool;
    /// True asks for rules and fields too, not only for whole policies.
    const DETAIL: bool;

    /// One step was taken.
    fn step(&mut self, step: Step<'_>);
}

impl Tracer for () {
    const ENABLED: bool = false;
    const DETAIL: bool = false;

    fn step(&mut self, _: Step<'_>) {}
}

/// One step of a decision.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// A policy was evaluated.
    Policy {
        /// It.
        policy: &'a Authorization,
        /// Whether one of its rules matched.
        matched: bool,
    },
    /// One rule of a policy was evaluated.
    Rule {
        /// Its policy.
        policy: &'a Authorization,
        /// Its place, from 0.
        index: usize,
        /// The outcome.
        matched: bool,
    },
    /// One field of a match was evaluated.
    Field {
        /// Which.
        field: Field,
        /// The outcome.
        matched: bool,
    },
    /// There are dry-run ALLOW policies, no enforced one, and none of them matched.
    DryRunMiss,
}

/// A field of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of the wire fields")]
pub enum Field {
    Namespaces,
    NotNamespaces,
    Principals,
    NotPrincipals,
    SourceIps,
    NotSourceIps,
    DestinationIps,
    NotDestinationIps,
    DestinationPorts,
    NotDestinationPorts,
    ServiceAccounts,
    NotServiceAccounts,
}

impl Field {
    /// The field's name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::NotNamespaces => "notNamespaces",
            Self::Principals => "principals",
            Self::NotPrincipals => "notPrincipals",
            Self::SourceIps => "sourceIps",
            Self::NotSourceIps => "notSourceIps",
            Self::DestinationIps => "destinationIps",
            Self::NotDestinationIps => "notDestinationIps",
            Self::DestinationPorts => "destinationPorts",
            Self::NotDestinationPorts => "notDestinationPorts",
            Self::ServiceAccounts => "serviceAccounts",
            Self::NotServiceAccounts => "notServiceAccounts",
        }
    }
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = |matched| if matched { "matches" } else { "does not match" };
        match *self {
            Self::Policy { policy, matched } => write!(
                f,
                "{}{} policy {} {}",
                if policy.dry_run { "dry-run " } else { "" },
                match policy.action {
                    Action::Allow => "ALLOW",
                    Action::Deny => "DENY",
                },
                policy.key,
                outcome(matched)
            ),
            Self::Rule {
                policy,
                index,
                matched,
            } => write!(f, "rule {index} of {} {}", policy.key, outcome(matched)),
            Self::Field { field, matched } => {
                write!(f, "field {} {}", field.as_str(), outcome(matched))
            }
            Self::DryRunMiss => f.write_str("no dry-run ALLOW policy matches: it would be denied"),
        }
    }
}

/// Keeps every step as a line, for `explain`.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// The steps, in order.
    pub lines: Vec<String>,
}

impl Tracer for Trace {
    const ENABLED: bool = true;
    const DETAIL: bool = true;

    fn step(&mut self, step: Step<'_>) {
        self.lines.push(step.to_string());
    }
}

/// Logs the policies that match, and dry runs: at `debug`, or at `info` with
/// `AUTHZ_POLICY_INFO_LOGGING` (`ztunnel-contract` section 6).
#[derive(Debug, Clone, Copy)]
pub enum DecisionLog {
    /// Lines at `debug`.
    Debug,
    /// Lines at `info`.
    Info,
}

impl Tracer for DecisionLog {
    const ENABLED: bool = true;
    const DETAIL: bool = false;

    fn step(&mut self, step: Step<'_>) {
        if matches!(step, Step::Policy { matched: false, .. }) {
            return;
        }
        match self {
            Self::Debug => debug!(target: "ambit_policy::decision", "{step}"),
            Self::Info => info!(target: "ambit_policy::decision", "{step}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attrs, Match, PolicySet, Rule, Scope, evaluate_with};

    #[test]
    fn dry_runs_are_told_and_decide_nothing() {
        let policy = |name: &str, action, dry_run, rules| Authorization {
            key: name.parse().unwrap(),
            scope: Scope::Global,
            action,
            rules,
            dry_run,
        };
        let never = vec![Rule {
            clauses: vec![crate::Clause {
                matches: vec![Match::default()],
            }],
        }];
        let deny = policy("a/deny", Action::Deny, true, vec![Rule::default()]);
        let allow = policy("a/allow", Action::Allow, true, never);
        let mut set = PolicySet::default();
        set.push(&deny);
        set.push(&allow);
        let attrs = Attrs {
            source_ip: [10, 0, 0, 1].into(),
            destination: ([10, 0, 0, 2], 80).into(),
            peer: None,
        };
        let mut trace = Trace::default();
        assert!(evaluate_with(&set, &attrs, &mut trace).is_allow());
        assert_eq!(
            trace.lines,
            [
                "rule 0 of a/deny matches",
                "dry-run DENY policy a/deny matches",
                "rule 0 of a/allow does not match",
                "dry-run ALLOW policy a/allow does not match",
                "no dry-run ALLOW policy matches: it would be denied",
            ]
        );
    }
}
