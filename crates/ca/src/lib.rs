//! The certificate authority: its root, checks of certificate requests, signing
//! (`control-plane-contract` 7).
//!
//! Owns the signing key. Doesn't own who may ask for which identity: that is
//! decided before [`CertificateAuthority::sign`] is called. Nor does it speak
//! gRPC, publish roots or revoke.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use ambit_ca::CertificateAuthority;
//! use ambit_identity::{Svid, csr};
//! use ambit_types::SpiffeId;
//!
//! let state = tempfile::tempdir()?;
//! let authority = CertificateAuthority::self_signed(state.path(), "cluster.local")?;
//! let id = SpiffeId::new("cluster.local", "shop", "cart")?;
//! let (request, key) = csr(&id)?;
//! let chain = authority.sign(&request, &id, None)?;
//! assert_eq!(chain.last(), Some(&authority.roots_pem()));
//! Svid::from_pem(&chain, key.as_pkcs8(), &id)?;
//! # Ok(())
//! # }
//! ```

mod authority;
mod der;
mod issue;
mod kept;
mod load;
mod request;
mod state;

pub use authority::{Adopted, CertificateAuthority, Issued, Lifetimes, Reloaded};
pub use issue::{DEFAULT_TTL, MAX_TTL, SignCsrError};
pub use kept::RootPem;
pub use load::{Fingerprint, LoadError};

#[cfg(test)]
mod tests;
