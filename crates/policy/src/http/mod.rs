//! L7 authorization of a waypoint (`waypoint-contract` section 4).
//!
//! Owns what an `ambit.waypoint.v1.Authorization` means: which frontends it
//! holds for, which requests its rules match, and in which order policies
//! decide. Whoever serves a frontend binds its [`HttpPolicies`] once for each
//! configuration; a decision then borrows everything and allocates nothing.
//!
//! Left out on purpose: asking CUSTOM providers (the proxy does), verifying
//! tokens (`jwt`), normalising paths (`route`).
//!
//! Closed by default, in three places where the letter of a rule leaves a gap:
//! what can't be known here (`experimental.*` keys, an unusable part of a rule,
//! HTTP fields on a TCP connection) never satisfies an ALLOW and never stops a
//! DENY; a DENY looks into every element of a repeated or comma-joined header
//! (4.7); and a policy that can't be read refuses everything it is bound to.

mod attrs;
mod decode;
mod evaluate;
mod matching;
mod model;
mod template;
mod trace;
mod values;

pub use attrs::{HttpAttrs, HttpRequest, RequestAuth};
pub use decode::UnreadableHttp;
pub use evaluate::{Asked, Decision, HttpDeniedBy, HttpPolicies, HttpVerdict, RuleRef, Shadow};
pub use model::{
    Account, Attachment, AttributeKey, HttpAction, HttpAuthorization, HttpRule, Operation, Path,
    Source, Text, When, WhenKey, WhenTest,
};
pub use template::{InvalidTemplate, PathTemplate};
pub use trace::{HttpField, HttpStep, HttpTrace, HttpTracer, Miss, PolicyTrace};

#[cfg(test)]
mod tests;
