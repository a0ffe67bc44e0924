//! Keys and certificate requests (`ztunnel-contract` 5.1).

use std::fmt;

use ambit_types::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use zeroize::Zeroizing;

/// Why no request could be made.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// The crypto library made no key.
    #[error("key generation")]
    Key(#[source] rcgen::Error),
    /// The identity or the key can't be written into a request.
    #[error("encoding of the certificate request for {id}")]
    Encode {
        /// Whose request.
        id: SpiffeId,
        /// The encoder's complaint.
        source: rcgen::Error,
    },
}

/// A private key as PKCS#8, wiped when dropped and never printed.
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    /// The PKCS#8 DER.
    pub fn as_pkcs8(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// A new P-256 key, and a request for `id` signed with it: empty subject, one
/// critical subject alternative name, the SPIFFE URI. The request is PEM.
///
/// # Errors
/// The crypto library failed, or the identity isn't ASCII.
pub fn csr(id: &SpiffeId) -> Result<(String, PrivateKey), CsrError> {
    let encode = |source| CsrError::Encode {
        id: id.clone(),
        source,
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CsrError::Key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = id.to_string().try_into().map_err(encode)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let request = params
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .map_err(encode)?;
    Ok((request, PrivateKey(Zeroizing::new(key.serialize_der()))))
}
