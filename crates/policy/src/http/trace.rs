//! Watching a decision while it is made, for `/explain`: the same code decides
//! with and without, and `()` is compiled out.

use std::fmt;

use serde::Serialize;

use super::attrs::HttpAttrs;
use super::evaluate::RuleRef;
use super::model::{HttpAuthorization, When};

/// Receives the steps of a decision. A tracer that is enabled makes every
/// policy be evaluated, also those after the one that decides.
pub trait HttpTracer {
    /// False compiles every step out.
    const ENABLED: bool;

    /// One step was taken.
    fn step(&mut self, step: HttpStep<'_>);
}

impl HttpTracer for () {
    const ENABLED: bool = false;

    fn step(&mut self, _: HttpStep<'_>) {}
}

/// One step of a decision.
#[derive(Debug, Clone, Copy)]
pub enum HttpStep<'a> {
    /// A rule failed at a field, after `held` others held.
    Miss {
        /// Which rule of which policy.
        rule: RuleRef<'a>,
        /// The field.
        field: HttpField,
        /// The condition, for [`HttpField::When`].
        when: Option<&'a When>,
        /// How many fields held before it.
        held: u32,
    },
    /// A policy was evaluated.
    Policy {
        /// It.
        policy: &'a HttpAuthorization,
        /// The rule that matched.
        matched: Option<RuleRef<'a>>,
        /// What it was evaluated with.
        attrs: &'a HttpAttrs<'a>,
    },
}

macro_rules! fields {
    ($($name:ident = $text:literal,)+) => {
        /// A field of a rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the names of the fields in 4.3")]
        pub enum HttpField { $($name,)+ }

        impl HttpField {
            /// The field as users write it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

fields! {
    Principals = "from.source.principals",
    NotPrincipals = "from.source.notPrincipals",
    RequestPrincipals = "from.source.requestPrincipals",
    NotRequestPrincipals = "from.source.notRequestPrincipals",
    Namespaces = "from.source.namespaces",
    NotNamespaces = "from.source.notNamespaces",
    ServiceAccounts = "from.source.serviceAccounts",
    NotServiceAccounts = "from.source.notServiceAccounts",
    TrustDomains = "from.source.trustDomains",
    NotTrustDomains = "from.source.notTrustDomains",
    IpBlocks = "from.source.ipBlocks",
    NotIpBlocks = "from.source.notIpBlocks",
    RemoteIpBlocks = "from.source.remoteIpBlocks",
    NotRemoteIpBlocks = "from.source.notRemoteIpBlocks",
    Hosts = "to.operation.hosts",
    NotHosts = "to.operation.notHosts",
    Ports = "to.operation.ports",
    NotPorts = "to.operation.notPorts",
    Methods = "to.operation.methods",
    NotMethods = "to.operation.notMethods",
    Paths = "to.operation.paths",
    NotPaths = "to.operation.notPaths",
    When = "when",
    Unusable = "(not evaluated here)",
}

/// The rule of a policy that came nearest to a match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Miss {
    /// The rule's place in the object.
    pub rule: u32,
    /// The field at which it failed, as users write it.
    pub field: String,
    /// What the request has there; never more than 200 bytes.
    pub got: String,
    /// How many fields held.
    #[serde(skip)]
    held: u32,
}

/// What one policy said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTrace {
    /// `namespace/name`.
    pub policy: String,
    /// ALLOW, DENY, AUDIT or CUSTOM.
    pub action: &'static str,
    /// It decides nothing.
    pub dry_run: bool,
    /// The rule that matched.
    pub rule: Option<u32>,
    /// Where there is no match: the nearest rule. None for a policy without rules.
    pub near_miss: Option<Miss>,
}

/// Keeps what every policy said, in order of evaluation.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct HttpTrace {
    /// One entry a policy.
    pub policies: Vec<PolicyTrace>,
    #[serde(skip)]
    nearest: Option<Nearest>,
}

#[derive(Debug, Clone)]
struct Nearest {
    rule: u32,
    field: HttpField,
    when: Option<When>,
    held: u32,
}

impl HttpTracer for HttpTrace {
    const ENABLED: bool = true;

    fn step(&mut self, step: HttpStep<'_>) {
        match step {
            HttpStep::Miss {
                rule,
                field,
                when,
                held,
            } => {
                if self.nearest.as_ref().is_none_or(|best| held > best.held) {
                    self.nearest = Some(Nearest {
                        rule: rule.rule,
                        field,
                        when: when.cloned(),
                        held,
                    });
                }
            }
            HttpStep::Policy {
                policy,
                matched,
                attrs,
            } => {
                let nearest = self.nearest.take().filter(|_| matched.is_none());
                self.policies.push(PolicyTrace {
                    policy: policy.key.to_string(),
                    action: policy.action.as_str(),
                    dry_run: policy.dry_run,
                    rule: matched.map(|rule| rule.rule),
                    near_miss: nearest.map(|best| best.told(attrs)),
                });
            }
        }
    }
}

impl Nearest {
    fn told(self, attrs: &HttpAttrs<'_>) -> Miss {
        let field = match &self.when {
            Some(when) => format!("when {}", when.key),
            None => self.field.as_str().to_owned(),
        };
        let mut got = match &self.when {
            Some(when) => super::matching::when_text(when, attrs),
            None => super::matching::field_text(self.field, attrs),
        };
        let mut end = got.len().min(200);
        while !got.is_char_boundary(end) {
            end -= 1;
        }
        got.truncate(end);
        Miss {
            rule: self.rule,
            field,
            got,
            held: self.held,
        }
    }
}

impl fmt::Display for PolicyTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dry_run = if self.dry_run { "dry-run " } else { "" };
        write!(f, "{dry_run}{} {}: ", self.action, self.policy)?;
        match (&self.rule, &self.near_miss) {
            (Some(rule), _) => write!(f, "rule {rule} matches"),
            (None, Some(miss)) => write!(
                f,
                "no rule matches; rule {} fails at {}, which is {:?}",
                miss.rule, miss.field, miss.got
            ),
            (None, None) => f.write_str("has no rules"),
        }
    }
}
