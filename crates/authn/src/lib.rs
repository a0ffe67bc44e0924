//! Who calls the control plane: service-account tokens and client certificates
//! (`control-plane-contract` 7.2).
//!
//! Owns authentication only. What a caller may do, impersonation above all, is
//! decided by whoever serves it. No error and no log repeats a token.

mod caller;
mod jwks;
mod token;

pub use caller::{Caller, CallerError, NotBoundToPod, PodClaims, Via, caller_from_certificate};
pub use jwks::JwksError;
pub use token::{TokenError, TokenVerifier};
