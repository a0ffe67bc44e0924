//! Key documents (RFC 7517) and signatures (RFC 7518). The algorithm of a token
//! must be the key's: what kind of key it is decides, never the token alone.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use crate::json;

/// Most keys of a document; the rest is ignored.
const MAX_KEYS: usize = 100;
/// Most keys that are tried for one token.
const MAX_TRIES: usize = 8;
/// Shortest secret of an `oct` key in bytes (RFC 7518 3.2, for HS256).
const MIN_SECRET: usize = 32;

/// What a token can be signed with; `none` isn't one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alg {
    Other(Algorithm),
    Es512,
}

impl Alg {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "ES512" => Some(Self::Es512),
            other => other.parse().ok().map(Self::Other),
        }
    }
}

/// What kind of key it is, hence which algorithms it can verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    P521,
    Ed25519,
    Secret,
}

impl Kind {
    fn takes(self, alg: Alg) -> bool {
        use Algorithm as A;
        match (self, alg) {
            (Self::Rsa, Alg::Other(alg)) => matches!(
                alg,
                A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512
            ),
            (Self::P256, Alg::Other(alg)) => alg == A::ES256,
            (Self::P384, Alg::Other(alg)) => alg == A::ES384,
            (Self::P521, alg) => alg == Alg::Es512,
            (Self::Ed25519, Alg::Other(alg)) => alg == A::EdDSA,
            (Self::Secret, Alg::Other(alg)) => matches!(alg, A::HS256 | A::HS384 | A::HS512),
            (_, Alg::Es512) => false,
        }
    }
}

/// One key.
pub struct Key {
    kid: Option<String>,
    alg: Option<Alg>,
    kind: Kind,
    material: Material,
}

enum Material {
    Known(DecodingKey),
    /// An uncompressed point.
    P521(Vec<u8>),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("kid", &self.kid)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// The usable keys of one document. Every document is a set of its own: what
/// was verified by another one counts no more.
#[derive(Debug)]
pub struct KeySet {
    pub(crate) id: u64,
    keys: Vec<Key>,
    skipped: usize,
}

/// A document without a usable key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    /// Not an object with a list `keys`.
    #[error("not a JWKS document")]
    Document,
    /// No key can be used.
    #[error("none of its {0} keys can be used to verify signatures")]
    NoKey(usize),
}

/// What a signature check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    Good,
    Bad,
    /// No key for this `kid` and `alg`.
    NoKey,
}

impl KeySet {
    /// Reads a document. Keys that can't be used are skipped: another curve, a
    /// short modulus, another purpose (4.9).
    ///
    /// # Errors
    /// If no key is left.
    pub fn parse(document: &[u8]) -> Result<Self, InvalidKeys> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let document = json::object(document).ok_or(InvalidKeys::Document)?;
        let list = document.get("keys").and_then(Value::as_array);
        let list = list.ok_or(InvalidKeys::Document)?;
        let keys: Vec<_> = list
            .iter()
            .take(MAX_KEYS)
            .filter_map(|key| read_key(key.as_object()?))
            .collect();
        if keys.is_empty() {
            return Err(InvalidKeys::NoKey(list.len()));
        }
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            skipped: list.len() - keys.len(),
            keys,
        })
    }

    /// How many keys can be used.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Never: such a document isn't accepted.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys of the document were skipped.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    pub(crate) fn check(
        &self,
        alg: Alg,
        kid: Option<&str>,
        signed: &str,
        signature: &[u8],
    ) -> Checked {
        let fits = |key: &&Key| {
            let named = match (kid, key.kid.as_deref()) {
                (Some(wanted), Some(kid)) => wanted == kid,
                _ => true,
            };
            named && key.kind.takes(alg) && key.alg.is_none_or(|own| own == alg)
        };
        let mut found = Checked::NoKey;
        for key in self.keys.iter().filter(fits).take(MAX_TRIES) {
            if key.verifies(alg, signed, signature) {
                return Checked::Good;
            }
            found = Checked::Bad;
        }
        found
    }
}

impl Key {
    fn verifies(&self, alg: Alg, signed: &str, signature: &[u8]) -> bool {
        match (&self.material, alg) {
            (Material::Known(key), Alg::Other(alg)) => {
                let text = URL_SAFE_NO_PAD.encode(signature);
                jsonwebtoken::crypto::verify(&text, signed.as_bytes(), key, alg).unwrap_or(false)
            }
            (Material::P521(point), Alg::Es512) => {
                UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point)
                    .verify(signed.as_bytes(), signature)
                    .is_ok()
            }
            _ => false,
        }
    }
}

fn read_key(jwk: &Map<String, Value>) -> Option<Key> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let bytes = |name: &str| {
        URL_SAFE_NO_PAD
            .decode(text(name)?.trim_end_matches('='))
            .ok()
    };
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    if let Some(operations) = jwk.get("key_ops") {
        let verify = |one: &Value| one.as_str() == Some("verify");
        if !operations.as_array()?.iter().any(verify) {
            return None;
        }
    }
    let alg = match text("alg") {
        None => None,
        Some(name) => Some(Alg::parse(name)?),
    };
    let (kind, material) = match text("kty")? {
        "RSA" => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            let bits = bit_length(&n);
            if !(2048..=8192).contains(&bits) || e.is_empty() || e.len() > 8 {
                return None;
            }
            let key = DecodingKey::from_rsa_raw_components(&n, &e);
            (Kind::Rsa, Material::Known(key))
        }
        "EC" => read_point(text("crv")?, &bytes("x")?, &bytes("y")?)?,
        "OKP" if text("crv")? == "Ed25519" => {
            let x = bytes("x").filter(|x| x.len() == 32)?;
            (Kind::Ed25519, Material::Known(DecodingKey::from_ed_der(&x)))
        }
        "oct" => {
            let secret = bytes("k").filter(|secret| secret.len() >= MIN_SECRET)?;
            let key = DecodingKey::from_secret(&secret);
            (Kind::Secret, Material::Known(key))
        }
        _ => return None,
    };
    if alg.is_some_and(|alg| !kind.takes(alg)) {
        return None;
    }
    Some(Key {
        kid: text("kid").map(str::to_owned),
        alg,
        kind,
        material,
    })
}

fn read_point(curve: &str, x: &[u8], y: &[u8]) -> Option<(Kind, Material)> {
    let (kind, length) = match curve {
        "P-256" => (Kind::P256, 32),
        "P-384" => (Kind::P384, 48),
        "P-521" => (Kind::P521, 66),
        _ => return None,
    };
    if x.len() != length || y.len() != length {
        return None;
    }
    let point = [&[4][..], x, y].concat();
    let material = match kind {
        Kind::P521 => Material::P521(point),
        _ => Material::Known(DecodingKey::from_ec_der(&point)),
    };
    Some((kind, material))
}

fn bit_length(number: &[u8]) -> usize {
    let significant = number.iter().position(|byte| *byte != 0);
    significant.map_or(0, |at| {
        let lead = number
            .get(at)
            .map_or(0, |byte| byte.leading_zeros() as usize);
        (number.len() - at) * 8 - lead
    })
}
