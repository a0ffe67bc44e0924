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
    let key = Zeroizing::new(key);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = id.to_string().try_into().map_err(encode)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let request = params
        .serialize_request(&*key)
        .and_then(|request| request.pem())
        .map_err(encode)?;
    Ok((request, PrivateKey(Zeroizing::new(key.serialize_der()))))
}

#[cfg(test)]
mod tests {
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::oid_registry::OID_SIG_ECDSA_WITH_SHA256;
    use x509_parser::prelude::{FromDer, X509CertificationRequest};

    use super::*;

    #[test]
    fn a_request_has_the_contracts_shape() {
        let id = SpiffeId::new("cluster.local", "shop", "cart").unwrap();
        let (pem, key) = csr(&id).unwrap();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
        let (_, der) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&der.contents).unwrap();
        request.verify_signature().unwrap();
        let info = &request.certification_request_info;
        assert_eq!(info.subject.iter().count(), 0);
        assert_eq!(
            request.signature_algorithm.algorithm,
            OID_SIG_ECDSA_WITH_SHA256
        );
        let extensions: Vec<_> = request.requested_extensions().unwrap().collect();
        let [ParsedExtension::SubjectAlternativeName(san)] = &extensions[..] else {
            panic!("{extensions:?}");
        };
        assert_eq!(san.general_names, [GeneralName::URI(&id.to_string())]);
        // OID 2.5.29.17, then BOOLEAN TRUE: the extension is critical.
        let critical = [0x06, 0x03, 0x55, 0x1d, 0x11, 0x01, 0x01, 0xff];
        assert!(der.contents.windows(critical.len()).any(|w| w == critical));
        assert!(KeyPair::try_from(key.as_pkcs8()).is_ok());
    }

    #[test]
    fn every_request_has_its_own_key_and_no_key_is_printed() {
        let id = SpiffeId::new("cluster.local", "shop", "cart").unwrap();
        let (_, first) = csr(&id).unwrap();
        let (_, second) = csr(&id).unwrap();
        assert_ne!(first.as_pkcs8(), second.as_pkcs8());
        assert_eq!(format!("{first:?}"), "PrivateKey(..)");
    }
}
