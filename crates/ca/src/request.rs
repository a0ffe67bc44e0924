//! Checking a certificate request. Only its public key and its signature count;
//! the names in it are ignored (`control-plane-contract` 7.1).

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::issue::SignCsrError;

/// Requests are about 500 bytes; RSA 8192 stays below 4 KiB.
const MAX_REQUEST: usize = 16 * 1024;
const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 8192;

/// The DER of the request's public key, once the request proves to own it.
pub(crate) fn proven_key(csr_pem: &str) -> Result<Vec<u8>, SignCsrError> {
    if csr_pem.len() > MAX_REQUEST {
        return Err(SignCsrError::Malformed);
    }
    let (_, pem) = x509_parser::pem::parse_x509_pem(csr_pem.as_bytes())
        .map_err(|_| SignCsrError::Malformed)?;
    if !matches!(
        pem.label.as_str(),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"
    ) {
        return Err(SignCsrError::Malformed);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|_| SignCsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(SignCsrError::Malformed);
    }
    let key = &request.certification_request_info.subject_pki;
    check_key(key)?;
    request
        .verify_signature()
        .map_err(|_| SignCsrError::BadSignature)?;
    Ok(key.raw.to_vec())
}

fn check_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), SignCsrError> {
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let parameters = key.algorithm.parameters.as_ref();
        let curve = parameters.and_then(|any| any.as_oid().ok());
        return match curve {
            Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => Ok(()),
            Some(_) | None => Err(SignCsrError::UnsupportedKey),
        };
    }
    if *algorithm == OID_SIG_ED25519 {
        return Ok(());
    }
    if *algorithm != OID_PKCS1_RSAENCRYPTION {
        return Err(SignCsrError::UnsupportedKey);
    }
    let Ok(PublicKey::RSA(rsa)) = key.parsed() else {
        return Err(SignCsrError::UnsupportedKey);
    };
    match rsa.key_size() {
        MIN_RSA_BITS..=MAX_RSA_BITS => Ok(()),
        bits => Err(SignCsrError::RsaSize(bits)),
    }
}
