//! Service-account tokens as an API server would issue them, and their JWKS.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// Who a token is for.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// Namespace of the service account and the pod.
    pub namespace: &'a str,
    /// Service account.
    pub service_account: &'a str,
    /// Pod that the token is bound to.
    pub pod: &'a str,
    /// `metadata.uid` of the pod.
    pub pod_uid: &'a str,
    /// Node that the pod runs on.
    pub node: &'a str,
}

/// Issues tokens with a key of its own (ES256).
pub struct TokenIssuer {
    issuer: String,
    key_id: String,
    signing: EncodingKey,
    public: (String, String),
}

impl TokenIssuer {
    /// A new issuer with a new key.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn new(issuer: &str) -> Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        let pkcs8 = pair.to_pkcs8v1()?;
        // Uncompressed point: 0x04, 32 bytes of x, 32 bytes of y.
        let point = pair.public_key().as_ref();
        let coordinate = |range| point.get(range).map(|b: &[u8]| URL_SAFE_NO_PAD.encode(b));
        let x = coordinate(1..33).context("short public key")?;
        let y = coordinate(33..65).context("short public key")?;
        Ok(Self {
            issuer: issuer.to_owned(),
            key_id: format!("key-{}", x.get(..8).unwrap_or_default()),
            signing: EncodingKey::from_ec_der(pkcs8.as_ref()),
            public: (x, y),
        })
    }

    /// The issuer's name.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its public keys.
    pub fn jwks(&self) -> Value {
        let (x, y) = &self.public;
        json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
            "kid": self.key_id, "x": x, "y": y}]})
    }

    /// Writes the public keys to a file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_jwks(&self, path: &Path) -> Result<()> {
        Ok(std::fs::write(path, self.jwks().to_string())?)
    }

    /// A token for the audience `istio-ca`, valid for an hour.
    ///
    /// # Errors
    /// If it can't be signed.
    pub fn token(&self, subject: &Subject<'_>) -> Result<String> {
        self.sign(&self.claims(subject, "istio-ca", Duration::from_secs(3600))?)
    }

    /// The claims of [`token`](Self::token), to be changed by a test.
    ///
    /// # Errors
    /// If the clock is before 1970.
    pub fn claims(&self, subject: &Subject<'_>, audience: &str, life: Duration) -> Result<Value> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let Subject {
            namespace,
            service_account,
            pod,
            pod_uid,
            node,
        } = subject;
        Ok(json!({
            "iss": self.issuer,
            "aud": [audience],
            "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
            "iat": now,
            "nbf": now,
            "exp": now + life.as_secs(),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": service_account, "uid": format!("sa-{service_account}")},
                "pod": {"name": pod, "uid": pod_uid},
                "node": {"name": node, "uid": format!("node-{node}")},
            },
        }))
    }

    /// Signs any claims.
    ///
    /// # Errors
    /// If they can't be signed.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let header = Header {
            kid: Some(self.key_id.clone()),
            ..Header::new(Algorithm::ES256)
        };
        Ok(jsonwebtoken::encode(&header, claims, &self.signing)?)
    }
}
