use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const ISSUER: &str = "https://kubernetes.default.svc";

/// An issuer's key.
struct Issuer {
    id: &'static str,
    signs: EncodingKey,
    public: Value,
}

impl Issuer {
    fn new(id: &'static str, kind: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(kind).unwrap();
        let pem = key.serialize_pem();
        let (signs, algorithm) = if kind == &PKCS_RSA_SHA256 {
            (EncodingKey::from_rsa_pem(pem.as_bytes()), Algorithm::RS256)
        } else if kind == &PKCS_ED25519 {
            (EncodingKey::from_ed_pem(pem.as_bytes()), Algorithm::EdDSA)
        } else if kind == &PKCS_ECDSA_P384_SHA384 {
            (EncodingKey::from_ec_pem(pem.as_bytes()), Algorithm::ES384)
        } else {
            (EncodingKey::from_ec_pem(pem.as_bytes()), Algorithm::ES256)
        };
        let signs = signs.unwrap();
        let mut public = if kind == &PKCS_ED25519 {
            let x = URL_SAFE_NO_PAD.encode(key.public_key_raw());
            json!({"kty": "OKP", "crv": "Ed25519", "x": x})
        } else {
            let jwk = Jwk::from_encoding_key(&signs, algorithm).unwrap();
            serde_json::to_value(jwk).unwrap()
        };
        let fields = public.as_object_mut().unwrap();
        fields.remove("alg");
        fields.insert("kid".to_owned(), json!(id));
        Self { id, signs, public }
    }

    fn sign(&self, algorithm: Algorithm, claims: &Value) -> String {
        let mut header = Header::new(algorithm);
        header.kid = Some(self.id.to_owned());
        encode(&header, claims, &self.signs).unwrap()
    }
}

fn ec(id: &'static str) -> Issuer {
    Issuer::new(id, &PKCS_ECDSA_P256_SHA256)
}

fn write(dir: &TempDir, keys: &[&Value]) -> PathBuf {
    let path = dir.path().join("jwks.json");
    let next = dir.path().join("next.json");
    fs::write(&next, json!({ "keys": keys }).to_string()).unwrap();
    fs::rename(next, &path).unwrap();
    path
}

fn verifier(keys: &[&Value]) -> (TempDir, TokenVerifier) {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, keys);
    let audiences = vec!["istio-ca".to_owned(), "other".to_owned()];
    let verifier = TokenVerifier::new(path, ISSUER, audiences, "cluster.local").unwrap();
    (dir, verifier)
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "sub": "system:serviceaccount:istio-system:ztunnel",
        "aud": ["istio-ca"],
        "iat": now(),
        "nbf": now(),
        "exp": now() + 600,
        "kubernetes.io": {
            "namespace": "istio-system",
            "serviceaccount": {"name": "ztunnel", "uid": "sa-1"},
            "pod": {"name": "ztunnel-x", "uid": "pod-1"},
            "node": {"name": "node-a", "uid": "node-1"},
        },
    })
}

#[test]
fn a_bound_token_names_account_pod_and_node() {
    let issuer = ec("one");
    let (_dir, verifier) = verifier(&[&issuer.public]);
    let caller = verifier
        .verify(&issuer.sign(Algorithm::ES256, &claims()))
        .unwrap();
    assert_eq!(
        caller.id.to_string(),
        "spiffe://cluster.local/ns/istio-system/sa/ztunnel"
    );
    assert_eq!(caller.via, Via::Token);
    let pod = caller.require_pod().unwrap();
    assert_eq!(
        (pod.name.as_str(), pod.uid.as_str()),
        ("ztunnel-x", "pod-1")
    );
    assert_eq!(pod.node.as_deref(), Some("node-a"));
}

#[test]
fn a_token_without_a_pod_authenticates_but_impersonates_nobody() {
    let issuer = ec("one");
    let (_dir, verifier) = verifier(&[&issuer.public]);
    let mut claims = claims();
    claims["aud"] = json!("other");
    claims["kubernetes.io"]
        .as_object_mut()
        .unwrap()
        .remove("pod");
    let caller = verifier
        .verify(&issuer.sign(Algorithm::ES256, &claims))
        .unwrap();
    assert!(caller.require_pod().is_err());
}

#[test]
fn every_asymmetric_algorithm_verifies() {
    let cases: [(&'static SignatureAlgorithm, &[Algorithm]); 4] = [
        (
            &PKCS_RSA_SHA256,
            &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
        ),
        (&PKCS_ECDSA_P256_SHA256, &[Algorithm::ES256]),
        (&PKCS_ECDSA_P384_SHA384, &[Algorithm::ES384]),
        (&PKCS_ED25519, &[Algorithm::EdDSA]),
    ];
    for (kind, algorithms) in cases {
        let issuer = Issuer::new("k", kind);
        let (_dir, verifier) = verifier(&[&issuer.public]);
        for algorithm in algorithms {
            let token = issuer.sign(*algorithm, &claims());
            assert!(verifier.verify(&token).is_ok(), "{algorithm:?}");
        }
    }
}

#[test]
fn claims_that_do_not_fit_are_refused_by_name() {
    let issuer = ec("one");
    let (_dir, verifier) = verifier(&[&issuer.public]);
    type Change = fn(&mut Value);
    let cases: [(TokenError, Change); 17] = [
        (TokenError::Expired, |c| c["exp"] = json!(now() - 30)),
        (TokenError::MissingClaim, |c| c["exp"] = Value::Null),
        (TokenError::NotYetValid, |c| c["nbf"] = json!(now() + 60)),
        (TokenError::WrongIssuer, |c| {
            c["iss"] = json!("https://other")
        }),
        (TokenError::WrongAudience, |c| c["aud"] = json!(["api"])),
        (TokenError::MissingClaim, |c| c["aud"] = Value::Null),
        (TokenError::NotServiceAccount, |c| c["sub"] = json!("admin")),
        (TokenError::NotServiceAccount, |c| {
            c["sub"] = json!("system:serviceaccount:istio-system:ztunnel:x");
        }),
        (TokenError::NotServiceAccount, |c| {
            c["sub"] = json!("system:serviceaccount::ztunnel");
        }),
        (TokenError::NotServiceAccount, |c| {
            c["sub"] = json!("system:serviceaccount:a/sa/b:ztunnel");
            c["kubernetes.io"]["namespace"] = json!("a/sa/b");
        }),
        (TokenError::ClaimsDisagree, |c| {
            c["sub"] = json!("system:serviceaccount:istio-system:admin");
        }),
        (TokenError::ClaimsDisagree, |c| {
            c["kubernetes.io"]["namespace"] = json!("default");
        }),
        (TokenError::MissingClaim, |c| {
            c.as_object_mut().unwrap().remove("kubernetes.io");
        }),
        (TokenError::MissingClaim, |c| {
            c["kubernetes.io"]["pod"] = json!({"name": "ztunnel-x"});
        }),
        (TokenError::MissingClaim, |c| {
            c["kubernetes.io"]["serviceaccount"] = json!("ztunnel");
        }),
        (TokenError::MissingClaim, |c| {
            c.as_object_mut().unwrap().remove("sub");
        }),
        (TokenError::MissingClaim, |c| c["sub"] = json!(7)),
    ];
    for (want, change) in cases {
        let mut claims = claims();
        change(&mut claims);
        let got = verifier.verify(&issuer.sign(Algorithm::ES256, &claims));
        assert_eq!(got.unwrap_err(), want, "{claims}");
    }
    // Clocks differ a little.
    let mut claims = claims();
    claims["exp"] = json!(now() - 3);
    claims["nbf"] = json!(now() + 3);
    assert!(
        verifier
            .verify(&issuer.sign(Algorithm::ES256, &claims))
            .is_ok()
    );
}

#[test]
fn keys_are_chosen_by_id_and_respected() {
    let (one, two) = (ec("one"), ec("two"));
    let rsa = Issuer::new("rsa", &PKCS_RSA_SHA256);
    let mut only_rs512 = rsa.public.clone();
    only_rs512["alg"] = json!("RS512");
    let mut encrypts = two.public.clone();
    encrypts["use"] = json!("enc");
    let mut signs_only = two.public.clone();
    signs_only["key_ops"] = json!(["sign"]);
    let unknown_kind = json!({"kty": "POST-QUANTUM", "kid": "new"});
    let secret = json!({"kty": "oct", "kid": "secret", "k": "c2VjcmV0"});
    let keys = [
        &unknown_kind,
        &secret,
        &one.public,
        &encrypts,
        &signs_only,
        &only_rs512,
    ];
    let (_dir, verifier) = verifier(&keys);
    let claims = claims();
    let es256 = |issuer: &Issuer| verifier.verify(&issuer.sign(Algorithm::ES256, &claims));
    assert!(es256(&one).is_ok());
    assert_eq!(es256(&two), Err(TokenError::UnknownKey));
    let liar = ec("one");
    assert_eq!(es256(&liar), Err(TokenError::BadSignature));
    let rs = |algorithm| verifier.verify(&rsa.sign(algorithm, &claims));
    assert_eq!(rs(Algorithm::RS256), Err(TokenError::KeyNotForAlgorithm));
    assert!(rs(Algorithm::RS512).is_ok());
    let mut header = Header::new(Algorithm::ES256);
    header.kid = None;
    let nameless = encode(&header, &claims, &one.signs).unwrap();
    assert_eq!(verifier.verify(&nameless), Err(TokenError::NoKeyId));
}

#[test]
fn none_and_shared_secrets_are_never_accepted() {
    let issuer = Issuer::new("rsa", &PKCS_RSA_SHA256);
    let (_dir, verifier) = verifier(&[&issuer.public]);
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for algorithm in ["none", "None", "", "HS256", "ES512", "RSA1_5"] {
        let header = part(&json!({"alg": algorithm, "kid": "rsa"}));
        let token = format!("{header}.{}.", part(&claims()));
        assert_eq!(
            verifier.verify(&token),
            Err(TokenError::UnsupportedAlgorithm),
            "{algorithm}"
        );
    }
    // The classic confusion: the public key as the secret.
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("rsa".to_owned());
    let public = issuer.public["n"].as_str().unwrap();
    let secret = EncodingKey::from_secret(public.as_bytes());
    let token = encode(&header, &claims(), &secret).unwrap();
    assert_eq!(
        verifier.verify(&token),
        Err(TokenError::UnsupportedAlgorithm)
    );
}

#[test]
fn broken_tokens_are_refused_and_not_repeated() {
    let issuer = ec("one");
    let (_dir, verifier) = verifier(&[&issuer.public]);
    let good = issuer.sign(Algorithm::ES256, &claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let other = issuer.sign(Algorithm::ES256, &json!({}));
    let (_, other) = other.rsplit_once('.').unwrap();
    let critical =
        URL_SAFE_NO_PAD.encode(json!({"alg": "ES256", "kid": "one", "crit": ["b64"]}).to_string());
    let cases = [
        (String::new(), TokenError::Malformed),
        ("a.b".to_owned(), TokenError::Malformed),
        ("!.b.c".to_owned(), TokenError::Malformed),
        (format!("{good}.{signature}"), TokenError::Malformed),
        (format!("{critical}.e30.AAAA"), TokenError::Malformed),
        (format!("{signed}."), TokenError::BadSignature),
        (format!("{signed}.{other}"), TokenError::BadSignature),
        ("x".repeat(MAX_TOKEN + 1), TokenError::TooLong),
    ];
    for (token, want) in cases {
        let error = verifier.verify(&token).unwrap_err();
        assert_eq!(error, want, "{token:.40}");
    }
}

#[test]
fn a_new_key_is_found_at_once_and_a_bad_file_keeps_the_last_good_set() {
    let (old, new) = (ec("old"), ec("new"));
    let (dir, verifier) = verifier(&[&old.public]);
    let claims = claims();
    let verify = |issuer: &Issuer| verifier.verify(&issuer.sign(Algorithm::ES256, &claims));
    assert!(verify(&old).is_ok());
    assert_eq!(verify(&new), Err(TokenError::UnknownKey));

    // Found because its id is unknown, without waiting for the next look.
    let path = write(&dir, &[&old.public, &new.public]);
    assert!(verify(&new).is_ok());
    assert!(verify(&old).is_ok());

    for bad in [
        "",
        "{",
        "{\"keys\": []}",
        "{\"keys\": [{\"kty\": \"oct\"}]}",
    ] {
        fs::write(&path, bad).unwrap();
        assert_eq!(verify(&ec("third")), Err(TokenError::UnknownKey), "{bad}");
        assert!(verify(&new).is_ok(), "{bad}");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(verify(&ec("third")), Err(TokenError::UnknownKey));
    assert!(verify(&new).is_ok());

    // A key that was withdrawn stops to count.
    write(&dir, &[&new.public]);
    assert_eq!(verify(&ec("third")), Err(TokenError::UnknownKey));
    assert_eq!(verify(&old), Err(TokenError::UnknownKey));
}

#[test]
fn an_unusable_file_stops_the_start() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("jwks.json");
    let open = || TokenVerifier::new(&path, ISSUER, Vec::new(), "cluster.local").err();
    assert!(matches!(open(), Some(JwksError::Read { .. })));
    fs::write(&path, "junk").unwrap();
    assert!(matches!(open(), Some(JwksError::Parse { .. })));
    fs::write(&path, r#"{"keys": []}"#).unwrap();
    assert!(matches!(open(), Some(JwksError::NoUsableKey { .. })));
    fs::write(&path, vec![b' '; 2 << 20]).unwrap();
    assert!(matches!(open(), Some(JwksError::TooLarge { .. })));
}
