//! In which order policies decide (4.2), and how a verdict is named (4.8).

use std::fmt;
use std::sync::Arc;

use ambit_types::{NamespacedHostname, NamespacedName};
use smallvec::SmallVec;

use super::attrs::HttpAttrs;
use super::matching::rule_matches;
use super::model::{HttpAction, HttpAuthorization};
use super::trace::{HttpStep, HttpTracer};

/// A rule of a policy, by its place in the object. Displays
/// `ns[NS]-policy[NAME]-rule[INDEX]` (4.8).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RuleRef<'p> {
    /// The policy.
    pub policy: &'p HttpAuthorization,
    /// Place of the rule, from 0.
    pub rule: u32,
}

impl fmt::Display for RuleRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NamespacedName { namespace, name } = &self.policy.key;
        write!(f, "ns[{namespace}]-policy[{name}]-rule[{}]", self.rule)
    }
}

/// Whether a request is let in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HttpVerdict<'p> {
    /// By an ALLOW rule, or because no ALLOW policy holds.
    Allow(Option<RuleRef<'p>>),
    /// Answer 403 `RBAC: access denied`, or close a TCP connection.
    Deny(HttpDeniedBy<'p>),
}

/// Why a request is refused. Displays the response code details of 4.8, which
/// belong into logs and never into a body.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HttpDeniedBy<'p> {
    /// A DENY rule matches.
    Rule(RuleRef<'p>),
    /// ALLOW policies hold and none of their rules matches.
    NoAllowMatched,
    /// This policy can't be read and never could.
    Unreadable(&'p NamespacedName),
}

impl fmt::Display for HttpDeniedBy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rbac_access_denied_matched_policy[")?;
        match self {
            Self::Rule(rule) => fmt::Display::fmt(rule, f)?,
            Self::NoAllowMatched => f.write_str("none")?,
            Self::Unreadable(key) => {
                write!(f, "ns[{}]-policy[{}]-unreadable", key.namespace, key.name)?
            }
        }
        f.write_str("]")
    }
}

impl HttpVerdict<'_> {
    /// True for every kind of allowance.
    pub fn is_allow(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// What the dry-run policies would have decided (4.8): span tags
/// `istio.authorization.dry_run.{deny,allow}_policy.{name,result}`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shadow<'p> {
    /// There are dry-run DENY policies: the rule that would deny.
    pub deny: Option<Option<RuleRef<'p>>>,
    /// There are dry-run ALLOW policies: the rule that would allow.
    pub allow: Option<Option<RuleRef<'p>>>,
}

impl Shadow<'_> {
    /// `result` of the DENY tag: `denied` or `allowed`.
    pub fn deny_result(&self) -> Option<&'static str> {
        self.deny
            .map(|hit| if hit.is_some() { "denied" } else { "allowed" })
    }

    /// `result` of the ALLOW tag: `denied` or `allowed`.
    pub fn allow_result(&self) -> Option<&'static str> {
        self.allow
            .map(|hit| if hit.is_some() { "allowed" } else { "denied" })
    }
}

/// A verdict with what went along.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision<'p> {
    /// What holds.
    pub verdict: HttpVerdict<'p>,
    /// An AUDIT rule that matched.
    pub audit: Option<RuleRef<'p>>,
    /// What dry-run policies would have decided.
    pub shadow: Shadow<'p>,
}

/// A provider that must agree before the request goes on (4.5).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked<'p> {
    /// The provider's name.
    pub provider: &'p str,
    /// The CUSTOM rule that matched.
    pub rule: RuleRef<'p>,
}

/// The policies that hold for one service port (or one address): those of the
/// class, the gateway and the service are one pool (4.2).
///
/// Policies that name workloads are a pool of their own, because they stand in
/// for a policy that the workload itself would enforce: once the destination
/// workload is known, [`evaluate_workload`](Self::evaluate_workload) must allow
/// as well.
#[derive(Debug, Clone, Default)]
pub struct HttpPolicies {
    pool: Vec<Arc<HttpAuthorization>>,
    workloads: Vec<Arc<HttpAuthorization>>,
    unreadable: Vec<NamespacedName>,
}

impl HttpPolicies {
    /// Those of `policies` that hold for a service port, or without a service
    /// for an address, in the order in which they are given.
    pub fn bind<'a>(
        policies: impl IntoIterator<Item = &'a Arc<HttpAuthorization>>,
        frontend: Option<&NamespacedHostname>,
        port: u16,
    ) -> Self {
        let mut bound = Self::default();
        for policy in policies {
            if policy.holds_for(frontend, port) {
                let pool = if policy.workloads.is_empty() {
                    &mut bound.pool
                } else {
                    &mut bound.workloads
                };
                pool.push(Arc::clone(policy));
            }
        }
        bound
    }

    /// Refuses everything because of a policy that holds here and can't be read.
    pub fn block(&mut self, key: NamespacedName) {
        self.unreadable.push(key);
    }

    /// True if every request is let in without a look.
    pub fn is_empty(&self) -> bool {
        self.pool.is_empty() && self.workloads.is_empty() && self.unreadable.is_empty()
    }

    /// Whether [`evaluate_workload`](Self::evaluate_workload) has anything to say.
    pub fn asks_workload(&self) -> bool {
        !self.workloads.is_empty()
    }

    /// Whether any CUSTOM policy holds.
    pub fn asks_providers(&self) -> bool {
        let mut all = self.pool.iter().chain(&self.workloads);
        all.any(|policy| policy.action == HttpAction::Custom)
    }

    /// The policies, for `/config_dump`.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<HttpAuthorization>> {
        self.pool.iter().chain(&self.workloads)
    }

    /// Decides with AUDIT, DENY and ALLOW, in this order (1.11 row 6). CUSTOM
    /// comes before, see [`custom`](Self::custom).
    pub fn evaluate<'p>(&'p self, attrs: &HttpAttrs<'_>) -> Decision<'p> {
        self.evaluate_with(attrs, &mut ())
    }

    /// [`evaluate`](Self::evaluate), telling each step to `tracer`.
    pub fn evaluate_with<'p, T: HttpTracer>(
        &'p self,
        attrs: &HttpAttrs<'_>,
        tracer: &mut T,
    ) -> Decision<'p> {
        let mut decision = decide(|| self.pool.iter().map(|policy| &**policy), attrs, tracer);
        if let (Some(key), true) = (self.unreadable.first(), decision.verdict.is_allow()) {
            decision.verdict = HttpVerdict::Deny(HttpDeniedBy::Unreadable(key));
        }
        decision
    }

    /// Decides for the workload that the request goes to, by the policies that
    /// name workloads.
    pub fn evaluate_workload<'p>(&'p self, uid: &str, attrs: &HttpAttrs<'_>) -> Decision<'p> {
        self.evaluate_workload_with(uid, attrs, &mut ())
    }

    /// [`evaluate_workload`](Self::evaluate_workload), telling each step to `tracer`.
    pub fn evaluate_workload_with<'p, T: HttpTracer>(
        &'p self,
        uid: &str,
        attrs: &HttpAttrs<'_>,
        tracer: &mut T,
    ) -> Decision<'p> {
        let of = || {
            let named = |policy: &&HttpAuthorization| {
                policy.workloads.iter().any(|one| one.as_str() == uid)
            };
            self.workloads.iter().map(|policy| &**policy).filter(named)
        };
        decide(of, attrs, tracer)
    }

    /// The providers that must agree, each once, with the rule that asks first.
    /// Evaluated before tokens are: `attrs.http.auth` should be absent (1.11).
    pub fn custom<'p>(&'p self, attrs: &HttpAttrs<'_>) -> SmallVec<[Asked<'p>; 1]> {
        self.custom_with(attrs, &mut ())
    }

    /// [`custom`](Self::custom), telling each step to `tracer`.
    pub fn custom_with<'p, T: HttpTracer>(
        &'p self,
        attrs: &HttpAttrs<'_>,
        tracer: &mut T,
    ) -> SmallVec<[Asked<'p>; 1]> {
        let mut asked: SmallVec<[Asked<'p>; 1]> = SmallVec::new();
        let custom = |policy: &&Arc<HttpAuthorization>| policy.action == HttpAction::Custom;
        for policy in self.pool.iter().filter(custom) {
            let known = |one: &Asked<'_>| *one.provider == *policy.provider;
            if let Some(rule) = matched(policy, attrs, tracer)
                && !asked.iter().any(known)
            {
                asked.push(Asked {
                    provider: &policy.provider,
                    rule,
                });
            }
        }
        asked
    }
}

/// The first rule of a policy that matches.
fn matched<'p, T: HttpTracer>(
    policy: &'p HttpAuthorization,
    attrs: &HttpAttrs<'_>,
    tracer: &mut T,
) -> Option<RuleRef<'p>> {
    let mut rules = policy.rules.iter();
    let found = rules.find(|rule| rule_matches(policy, rule, attrs, tracer));
    let matched = found.map(|rule| RuleRef {
        policy,
        rule: rule.index,
    });
    if T::ENABLED {
        tracer.step(HttpStep::Policy {
            policy,
            matched,
            attrs,
        });
    }
    matched
}

/// What the policies of one action said.
struct Said<'p> {
    any: bool,
    hit: Option<RuleRef<'p>>,
}

fn decide<'p, T: HttpTracer, I: Iterator<Item = &'p HttpAuthorization>>(
    policies: impl Fn() -> I,
    attrs: &HttpAttrs<'_>,
    tracer: &mut T,
) -> Decision<'p> {
    let mut run = |action: HttpAction, dry_run: bool| {
        let mut said = Said {
            any: false,
            hit: None,
        };
        for policy in policies().filter(|p| p.action == action && p.dry_run == dry_run) {
            said.any = true;
            // A trace shows every policy; a decision stops at the first match.
            if said.hit.is_none() || T::ENABLED {
                said.hit = said.hit.or(matched(policy, attrs, tracer));
            }
        }
        said
    };
    let audit = run(HttpAction::Audit, false).hit;
    let shadow_deny = run(HttpAction::Deny, true);
    let deny = run(HttpAction::Deny, false).hit;
    let shadow_allow = run(HttpAction::Allow, true);
    let shadow = Shadow {
        deny: shadow_deny.any.then_some(shadow_deny.hit),
        allow: shadow_allow.any.then_some(shadow_allow.hit),
    };
    let verdict = match deny {
        Some(rule) if !T::ENABLED => HttpVerdict::Deny(HttpDeniedBy::Rule(rule)),
        _ => {
            let allow = run(HttpAction::Allow, false);
            match (deny, allow.any, allow.hit) {
                (Some(rule), ..) => HttpVerdict::Deny(HttpDeniedBy::Rule(rule)),
                (None, true, None) => HttpVerdict::Deny(HttpDeniedBy::NoAllowMatched),
                (None, _, rule) => HttpVerdict::Allow(rule),
            }
        }
    };
    Decision {
        verdict,
        audit,
        shadow,
    }
}
