//! Redirection inside a pod's network namespace, and the protocol by which a
//! node agent tells a proxy which pods are its own.
//!
//! Owns the nftables rule set, the policy route that brings transparent
//! replies back, their verification and repair, and both ends of ZDS. Linux
//! only.
//!
//! Left out on purpose: which pods are enrolled (the node agent decides) and
//! what happens to a captured connection (the proxy decides).

mod live;
mod nft;
mod pod;
mod probe;
mod readiness;
pub mod rules;
mod watch;
pub mod zds;

pub use live::live_connections;
pub use nft::NftError;
pub use pod::{Ensured, Found, RedirectError, Redirector};
pub use probe::Probes;
pub use rules::{Capture, Inbound, RuleSet};
pub use watch::Changes;
