//! L4 authorization: decode and evaluate, pure.
//!
//! Owns the meaning of an `istio.security.Authorization`: what its wire form
//! says (`decode`), which connections it matches, and in which order
//! policies decide (`ztunnel-contract` sections 4.4 and 6). It knows neither
//! where policies are kept nor which of them bind a workload (`state` does),
//! and it never waits: no async, no I/O, no clock.
//!
//! That is the root of the crate, for the node proxy: AUDIT, CUSTOM and every
//! L7 attribute are left out of it on purpose, and the control plane keeps them
//! from the node proxy. [`http`] has them, for waypoints.
//!
//! ```
//! use ambit_policy::{Attrs, Authorization, PolicySet, Verdict, evaluate};
//! use ambit_types::SpiffeId;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = Authorization::deny_all("shop/closed".parse()?);
//! let mut set = PolicySet::default();
//! set.push(&policy);
//! let peer: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse()?;
//! let attrs = Attrs {
//!     source_ip: "10.0.0.1".parse()?,
//!     destination: "10.0.0.2:80".parse()?,
//!     peer: Some(&peer),
//! };
//! let verdict = evaluate(&set, &attrs);
//! assert_eq!(verdict.to_string(), "explicitly denied by shop/closed");
//! # Ok(())
//! # }
//! ```

mod decode;
mod evaluate;
pub mod http;
mod matching;
mod model;
mod set;
mod trace;

pub use decode::Unreadable;
pub use evaluate::{AllowedBy, Attrs, DeniedBy, Verdict, evaluate, evaluate_with};
pub use model::{
    Action, Authorization, Clause, InvalidMatch, Match, Rule, Scope, ServiceAccountMatch,
    StringMatch,
};
pub use set::{Blocked, BlockedWhy, PolicySet};
pub use trace::{DecisionLog, Field, Step, Trace, Tracer};
