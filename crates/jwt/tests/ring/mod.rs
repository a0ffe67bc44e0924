//! Keys of the tests, made afresh in each run, and their JWKS documents. Signed
//! with the crypto library itself, not with the crate that verifies.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// The present of the tests.
pub(crate) const NOW: Duration = Duration::from_secs(1_800_000_000);

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

struct Ring {
    rsa: RsaKeyPair,
    stranger: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

static RING: LazyLock<Ring> = LazyLock::new(|| Ring {
    rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
    stranger: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
    p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
    p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
    p521: EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap(),
    ed: Ed25519KeyPair::generate().unwrap(),
});

/// base64url without padding.
pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn rsa_jwk(kid: &str) -> Value {
    let public = RING.rsa.public_key();
    json!({
        "kty": "RSA",
        "kid": kid,
        "n": encode(public.modulus().big_endian_without_leading_zero()),
        "e": encode(public.exponent().big_endian_without_leading_zero()),
    })
}

fn ec_jwk(kid: &str, curve: &str, pair: &EcdsaKeyPair) -> Value {
    let point = pair.public_key().as_ref();
    let half = (point.len() - 1) / 2;
    json!({
        "kty": "EC",
        "kid": kid,
        "crv": curve,
        "x": encode(&point[1..=half]),
        "y": encode(&point[half + 1..]),
    })
}

fn with(mut jwk: Value, name: &str, value: &str) -> Value {
    jwk[name] = json!(value);
    jwk
}

/// A document with these keys.
pub(crate) fn jwks(names: &[&str]) -> String {
    let key = |name: &&str| match *name {
        "rsa" => rsa_jwk("rsa"),
        "rsa-only-rs512" => with(rsa_jwk("rsa-only-rs512"), "alg", "RS512"),
        "rsa-enc" => with(rsa_jwk("rsa-enc"), "use", "enc"),
        "p256" => ec_jwk("p256", "P-256", &RING.p256),
        "p384" => ec_jwk("p384", "P-384", &RING.p384),
        "p521" => ec_jwk("p521", "P-521", &RING.p521),
        "ed" => json!({
            "kty": "OKP",
            "kid": "ed",
            "crv": "Ed25519",
            "x": encode(RING.ed.public_key().as_ref()),
        }),
        "oct" => json!({"kty": "oct", "kid": "oct", "k": encode(SECRET)}),
        "junk" => json!({"kty": 7, "x": [], "n": "!"}),
        "short-rsa" => json!({"kty": "RSA", "n": encode(&[0xff; 128]), "e": "AQAB"}),
        "odd-curve" => ec_jwk("odd-curve", "secp256k1", &RING.p256),
        "short-oct" => json!({"kty": "oct", "k": encode(b"short")}),
        other => panic!("no key {other}"),
    };
    json!({"keys": names.iter().map(key).collect::<Vec<_>>()}).to_string()
}

/// A signature with a key of the ring.
pub(crate) fn sign(key: &str, alg: &str, message: &[u8]) -> Vec<u8> {
    let random = SystemRandom::new();
    let rsa = |pair: &RsaKeyPair| {
        let padding: &dyn signature::RsaEncoding = match alg {
            "RS384" => &signature::RSA_PKCS1_SHA384,
            "RS512" => &signature::RSA_PKCS1_SHA512,
            "PS256" => &signature::RSA_PSS_SHA256,
            "PS384" => &signature::RSA_PSS_SHA384,
            "PS512" => &signature::RSA_PSS_SHA512,
            _ => &signature::RSA_PKCS1_SHA256,
        };
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(padding, &random, message, &mut signature)
            .unwrap();
        signature
    };
    let ec = |pair: &EcdsaKeyPair| pair.sign(&random, message).unwrap().as_ref().to_vec();
    let mac = |secret: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        hmac::sign(&key, message).as_ref().to_vec()
    };
    match key {
        "rsa" => rsa(&RING.rsa),
        "stranger" => rsa(&RING.stranger),
        "p256" => ec(&RING.p256),
        "p384" => ec(&RING.p384),
        "p521" => ec(&RING.p521),
        "ed" => RING.ed.sign(message).as_ref().to_vec(),
        "oct" => mac(SECRET),
        // What a confused verifier would take as the secret.
        "rsa-public-as-secret" => mac(RING.rsa.public_key().as_ref()),
        other => panic!("no key {other}"),
    }
}
