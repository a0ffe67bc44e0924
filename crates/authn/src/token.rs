//! Service-account tokens: signature, issuer, audience, time, and the claims
//! that Kubernetes binds them with.

use std::collections::HashSet;
use std::path::PathBuf;

use ambit_types::SpiffeId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode};
use serde::Deserialize;

use crate::caller::{Caller, PodClaims, Via};
use crate::jwks::{JwksError, JwksFile, Key, KeySet};

/// Real tokens are below 2 KiB.
const MAX_TOKEN: usize = 16 * 1024;
/// How far the issuer's clock may be from ours, in seconds.
const LEEWAY: u64 = 10;

/// Why a token isn't accepted. None of these repeats any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TokenError {
    /// Longer than any service-account token.
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// Not three parts of base64 with JSON in them.
    #[error("not a JSON web token")]
    Malformed,
    /// `none`, a shared-secret algorithm, or one that isn't known.
    #[error("the token's signature algorithm is not accepted")]
    UnsupportedAlgorithm,
    /// The header names no key.
    #[error("the token names no key")]
    NoKeyId,
    /// The header names a key that the issuer doesn't have.
    #[error("the token's key is not in the key set")]
    UnknownKey,
    /// The named key isn't for the named algorithm.
    #[error("the token's key is not for its algorithm")]
    KeyNotForAlgorithm,
    /// The signature doesn't verify.
    #[error("the token's signature does not verify")]
    BadSignature,
    /// Past its end.
    #[error("the token has expired")]
    Expired,
    /// Before its beginning.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// From somebody else.
    #[error("the token is from another issuer")]
    WrongIssuer,
    /// For somebody else.
    #[error("the token is for another audience")]
    WrongAudience,
    /// A claim that every service-account token has is missing or has another form.
    #[error("the token lacks a claim of service-account tokens")]
    MissingClaim,
    /// The subject isn't `system:serviceaccount:NAMESPACE:NAME`.
    #[error("the token's subject is not a service account")]
    NotServiceAccount,
    /// The subject and the Kubernetes claims name different accounts.
    #[error("the token's subject and its Kubernetes claims disagree")]
    ClaimsDisagree,
}

impl TokenError {
    /// A stable name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::NoKeyId => "no_key_id",
            Self::UnknownKey => "unknown_key",
            Self::KeyNotForAlgorithm => "key_not_for_algorithm",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::MissingClaim => "missing_claim",
            Self::NotServiceAccount => "not_service_account",
            Self::ClaimsDisagree => "claims_disagree",
        }
    }
}

/// Checks service-account tokens against a JWKS file, which is read again when
/// it changes; a version that can't be used leaves the last good one in force.
pub struct TokenVerifier {
    keys: JwksFile,
    issuer: String,
    audiences: HashSet<String>,
    trust_domain: String,
}

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
    ) -> Result<Self, JwksError> {
        Ok(Self {
            keys: JwksFile::open(jwks_path.into())?,
            issuer: issuer.into(),
            audiences: audiences.into_iter().collect(),
            trust_domain: trust_domain.to_owned(),
        })
    }

    /// The caller behind a bearer token (without `Bearer `).
    ///
    /// # Errors
    /// The token isn't acceptable.
    pub fn verify(&self, bearer: &str) -> Result<Caller, TokenError> {
        let (algorithm, key_id) = parse_header(bearer)?;
        let mut keys = self.keys.keys();
        if keys.with_id(&key_id).next().is_none() {
            keys = self.keys.fresh_keys();
        }
        let key = choose(&keys, &key_id, algorithm)?;
        let claims = decode::<Claims>(bearer, &key.decoding, &self.validation(algorithm))
            .map_err(|e| classify(e.kind()))?
            .claims;
        self.caller(claims)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.aud = Some(self.audiences.clone());
        validation.iss = Some(HashSet::from([self.issuer.clone()]));
        validation.required_spec_claims = ["exp", "iss", "aud", "sub"].map(str::to_owned).into();
        validation
    }

    fn caller(&self, claims: Claims) -> Result<Caller, TokenError> {
        let Claims { sub, kubernetes } = claims;
        let mut parts = sub.split(':');
        let (Some("system"), Some("serviceaccount"), Some(namespace), Some(account), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(TokenError::NotServiceAccount);
        };
        if namespace.is_empty() || account.is_empty() {
            return Err(TokenError::NotServiceAccount);
        }
        if kubernetes.namespace != namespace || kubernetes.serviceaccount.name != account {
            return Err(TokenError::ClaimsDisagree);
        }
        let id = SpiffeId::new(self.trust_domain.as_str(), namespace, account)
            .map_err(|_| TokenError::NotServiceAccount)?;
        let node = kubernetes.node.map(|node| node.name);
        let pod = match kubernetes.pod {
            None => None,
            Some(Reference { name, uid }) if !name.is_empty() && !uid.is_empty() => {
                Some(PodClaims { name, uid, node })
            }
            Some(_) => return Err(TokenError::MissingClaim),
        };
        Ok(Caller {
            id,
            pod,
            via: Via::Token,
        })
    }
}

/// The claims that count; the library checks the registered ones.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: KubernetesClaims,
}

#[derive(Deserialize)]
struct KubernetesClaims {
    namespace: String,
    serviceaccount: Reference,
    pod: Option<Reference>,
    node: Option<Reference>,
}

/// An object that a token is bound to.
#[derive(Deserialize)]
struct Reference {
    name: String,
    #[serde(default)]
    uid: String,
}

/// The algorithm and the key id, from the header alone.
fn parse_header(token: &str) -> Result<(Algorithm, String), TokenError> {
    /// Read here so that an algorithm is refused by name and `crit` at all.
    #[derive(Deserialize)]
    struct Header {
        alg: String,
        kid: Option<String>,
        crit: Option<serde_json::Value>,
    }
    if token.len() > MAX_TOKEN {
        return Err(TokenError::TooLong);
    }
    let (header, rest) = token.split_once('.').ok_or(TokenError::Malformed)?;
    if rest.split('.').count() != 2 {
        return Err(TokenError::Malformed);
    }
    let header = URL_SAFE_NO_PAD
        .decode(header)
        .map_err(|_| TokenError::Malformed)?;
    let header: Header = serde_json::from_slice(&header).map_err(|_| TokenError::Malformed)?;
    if header.crit.is_some() {
        return Err(TokenError::Malformed);
    }
    let algorithm = match header.alg.as_str() {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        // Above all `none` and the HMACs, for which a public key is a secret
        // that everybody knows.
        _ => return Err(TokenError::UnsupportedAlgorithm),
    };
    Ok((algorithm, header.kid.ok_or(TokenError::NoKeyId)?))
}

fn choose<'a>(
    keys: &'a KeySet,
    key_id: &'a str,
    algorithm: Algorithm,
) -> Result<&'a Key, TokenError> {
    let mut known = false;
    for key in keys.with_id(key_id) {
        known = true;
        if key.verifies(algorithm) {
            return Ok(key);
        }
    }
    Err(if known {
        TokenError::KeyNotForAlgorithm
    } else {
        TokenError::UnknownKey
    })
}

fn classify(error: &ErrorKind) -> TokenError {
    match error {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYetValid,
        ErrorKind::InvalidIssuer => TokenError::WrongIssuer,
        ErrorKind::InvalidAudience => TokenError::WrongAudience,
        ErrorKind::InvalidSubject => TokenError::NotServiceAccount,
        ErrorKind::MissingRequiredClaim(_)
        | ErrorKind::InvalidClaimFormat(_)
        | ErrorKind::Json(_) => TokenError::MissingClaim,
        ErrorKind::InvalidToken | ErrorKind::Base64(_) | ErrorKind::Utf8(_) => {
            TokenError::Malformed
        }
        ErrorKind::InvalidAlgorithm
        | ErrorKind::InvalidAlgorithmName
        | ErrorKind::UnsupportedAlgorithm
        | ErrorKind::MissingAlgorithm => TokenError::KeyNotForAlgorithm,
        _ => TokenError::BadSignature,
    }
}

#[cfg(test)]
mod tests;
