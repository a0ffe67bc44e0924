//! The certificate authority: its root, checks of certificate requests, signing
//! (`control-plane-contract` 7).
//!
//! Owns the signing key. Doesn't own who may ask for which identity: that is
//! decided before [`CertificateAuthority::sign`] is called.

mod authority;
mod der;
mod issue;
mod load;
mod request;
mod state;

pub use authority::CertificateAuthority;
pub use issue::{DEFAULT_TTL, MAX_TTL, SignCsrError};
pub use load::LoadError;

#[cfg(test)]
mod tests;
