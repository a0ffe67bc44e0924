//! Who calls the control plane: service-account tokens and client certificates
//! (`control-plane-contract` 7.2).
//!
//! Owns authentication only. What a caller may do, impersonation above all, is
//! decided by whoever serves it. No error and no log repeats a token. It asks no
//! API server: a token of a deleted pod is good until it expires, so whoever lets
//! a caller impersonate checks that its pod still exists.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use ambit_authn::TokenVerifier;
//!
//! let issuer = "https://kubernetes.default.svc";
//! let audiences = vec!["istio-ca".to_owned()];
//! let tokens = TokenVerifier::new("jwks.json", issuer, audiences, "cluster.local")?;
//! let caller = tokens.verify("eyJhbGciOi...")?;
//! println!("{} on {:?}", caller.id, caller.require_pod()?.node);
//! # Ok(())
//! # }
//! ```

mod caller;
mod jwks;
mod token;

pub use caller::{Caller, CallerError, NotBoundToPod, PodClaims, Via, caller_from_certificate};
pub use jwks::JwksError;
pub use token::{TokenError, TokenVerifier};
