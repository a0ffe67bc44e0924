//! Who we are and whom we believe: workload certificates (SVIDs), how peers'
//! certificates are judged, the certificates' renewal, and the one crypto
//! provider that every handshake of the workspace uses.
//!
//! Doesn't own: how a CA is spoken to (`channel`, behind [`CertificateSigner`]),
//! how one signs (`ca`), or what an identity may do (`policy`). No private key
//! ever reaches a disk or a `Debug` text.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # fn sign(_csr_pem: &str) -> Vec<String> { Vec::new() }
//! use ambit_identity::{Svid, SvidError, csr};
//! use ambit_types::SpiffeId;
//!
//! let id = SpiffeId::new("cluster.local", "shop", "cart")?;
//! let (request, key) = csr(&id)?;
//! // A CA answers with the leaf, the intermediates and the roots.
//! match Svid::from_pem(&sign(&request), key.as_pkcs8(), &id) {
//!     Ok(svid) => drop((svid.server_config(), svid.client_config(&[id]))),
//!     Err(SvidError::TooShort(elements)) => assert_eq!(elements, 0),
//!     Err(other) => return Err(other.into()),
//! }
//! # Ok(())
//! # }
//! ```

#[cfg(not(any(feature = "aws-lc", feature = "boring")))]
compile_error!("ambit-identity needs a crypto provider: feature `aws-lc` or `boring`");

mod clock;
mod csr;
mod dump;
mod fault;
mod provider;
mod signer;
mod store;
mod svid;
#[cfg(test)]
mod testing;
mod verify;

pub use clock::{Clock, SystemClock};
pub use csr::{CsrError, PrivateKey, csr};
pub use dump::{CertDump, CertificateText, to_pem};
pub use fault::{TlsFault, classify, classify_io};
pub use provider::{
    KeyExchange, PROVIDER_NAME, ProviderAlreadyInstalled, TlsOptions, TlsVersions, install,
    provider, provider_with,
};
pub use signer::{CertificateSigner, CsrSource, FetchError, SignError, SvidSource};
pub use store::{CertError, CertStore, CertStoreConfig};
pub use svid::{Svid, SvidError};
pub use verify::{peer_identity, uri_names};
