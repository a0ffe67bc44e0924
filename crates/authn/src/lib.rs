//! Who calls the control plane: service-account tokens and client certificates.
//!
//! Owns authentication only. What a caller may do is decided by whoever serves it.

use std::path::PathBuf;

use ambit_types::SpiffeId;
use rustls_pki_types::CertificateDer;

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its identity.
    pub id: SpiffeId,
    /// The pod that a token is bound to.
    pub pod: Option<PodClaims>,
    /// How it proved who it is.
    pub via: Via,
}

/// The pod that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaims {
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Node of the pod, where the token says so.
    pub node: Option<String>,
}

/// How a caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A service-account token.
    Token,
    /// A TLS client certificate.
    ClientCertificate,
}

impl Caller {
    /// The pod facts, which impersonation needs.
    ///
    /// # Errors
    /// The token isn't bound to a pod, or a certificate was used.
    pub fn require_pod(&self) -> Result<&PodClaims, TokenError> {
        self.pod.as_ref().ok_or(TokenError::NotBoundToPod)
    }
}

/// Why a caller isn't authenticated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token isn't a JWT.
    #[error("not a JSON web token")]
    Malformed,
    /// The token isn't bound to a pod.
    #[error("the caller has no pod claims")]
    NotBoundToPod,
}

/// Checks service-account tokens against a JWKS file.
pub struct TokenVerifier(());

impl TokenVerifier {
    /// A verifier for one issuer; a token must be for one of `audiences`.
    ///
    /// # Errors
    /// The JWKS file can't be read or holds no usable key.
    pub fn new(
        jwks_path: impl Into<PathBuf>,
        issuer: impl Into<String>,
        audiences: Vec<String>,
        trust_domain: &str,
    ) -> Result<Self, TokenError> {
        let _ = (jwks_path.into(), issuer.into(), audiences, trust_domain);
        Err(TokenError::Malformed)
    }

    /// The caller behind a bearer token (without `Bearer `).
    ///
    /// # Errors
    /// The token isn't acceptable; the error never repeats it.
    pub fn verify(&self, bearer: &str) -> Result<Caller, TokenError> {
        let _ = bearer;
        Err(TokenError::Malformed)
    }
}

/// The caller behind a verified client certificate: exactly one URI name, in
/// our trust domain.
///
/// # Errors
/// The certificate names nobody, several, or somebody of another trust domain.
pub fn caller_from_certificate(
    certs: &[CertificateDer<'_>],
    trust_domain: &str,
) -> Result<Caller, TokenError> {
    let _ = (certs, trust_domain);
    Err(TokenError::Malformed)
}
