//! Redirection inside a pod's network namespace, and the protocol by which a
//! node agent tells a proxy which pods are its own.
//!
//! Owns the nftables rule set, the policy route that brings transparent
//! replies back, their verification and repair, and both ends of ZDS. Linux
//! only.
//!
//! Left out on purpose: which pods are enrolled (the node agent decides) and
//! what happens to a captured connection (the proxy decides).
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use ambit_netns::NetNs;
//! use ambit_redirect::{Capture, Found, Redirector, RuleSet};
//!
//! let ns = NetNs::open("/var/run/netns/web-0")?;
//! let redirector = Redirector::new();
//! let wanted = RuleSet::Capture(Capture::default());
//! redirector.ensure(&ns, &wanted).await?;
//! assert_eq!(redirector.look(&ns, &wanted).await?, Found::Wanted);
//! # Ok(()) }
//! ```

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
