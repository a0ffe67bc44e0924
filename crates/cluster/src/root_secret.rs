//! The Secret of a self-signed root (`control-plane-contract` 7.5): the first
//! replica to create it wins, the others read it back.
//!
//! Owns the conversation only. What the texts mean, and when a root is renewed,
//! is the authority's business. No error and no log repeats a value.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use zeroize::Zeroizing;

/// One Secret.
#[derive(Clone)]
pub struct RootSecret {
    api: Api<Secret>,
    namespace: String,
    name: String,
}

/// A root as a Secret keeps it.
#[derive(Clone)]
pub struct KeptRoot {
    /// `ca-cert.pem`.
    pub certificate: String,
    /// `ca-key.pem`.
    pub key: Zeroizing<String>,
    /// `root-cert.pem`: roots that are published beside; empty unless an operator says otherwise.
    pub beside: String,
    /// What the Secret was when it was read, for [`RootSecret::replace`].
    pub version: String,
}

/// Why a Secret can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It was changed, made or deleted meanwhile: read it again.
    #[error("another replica was faster")]
    Conflict,
    /// A value that a root has isn't there, or isn't text.
    #[error("it has no {0} that is text")]
    Incomplete(&'static str),
    /// The API server said no, or nothing.
    #[error("{0}")]
    Api(String),
}

impl RootSecret {
    /// The Secret of this name.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// `namespace/name`.
    pub fn place(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What it holds; none where there is no such Secret.
    ///
    /// # Errors
    /// It can't be read, or holds no root.
    pub async fn read(&self) -> Result<Option<KeptRoot>, SecretError> {
        let Some(secret) = self.api.get_opt(&self.name).await.map_err(said)? else {
            return Ok(None);
        };
        let version = secret.metadata.resource_version.unwrap_or_default();
        let mut data = secret.data.unwrap_or_default();
        let mut text = |key: &'static str| {
            let bytes = data.remove(key).map(|ByteString(bytes)| bytes);
            let text = bytes.map(String::from_utf8).transpose();
            text.map_err(|_| SecretError::Incomplete(key))
        };
        let filled = |text: &String| !text.trim().is_empty();
        let certificate = text(CERTIFICATE)?.filter(filled);
        let key = text(KEY)?.filter(filled).map(Zeroizing::new);
        let beside = text(BESIDE)?.unwrap_or_default();
        Ok(Some(KeptRoot {
            certificate: certificate.ok_or(SecretError::Incomplete(CERTIFICATE))?,
            key: key.ok_or(SecretError::Incomplete(KEY))?,
            beside,
            version,
        }))
    }

    /// Makes it; never touches one that is there.
    ///
    /// # Errors
    /// [`SecretError::Conflict`] if there is one, and what the API server says.
    pub async fn create(&self, root: &KeptRoot) -> Result<(), SecretError> {
        let secret = self.secret(root, None);
        let made = self.api.create(&PostParams::default(), &secret).await;
        made.map(|_| ()).map_err(said)
    }

    /// Replaces what was read as `root.version`.
    ///
    /// # Errors
    /// [`SecretError::Conflict`] if it is another meanwhile, and what the API server says.
    pub async fn replace(&self, root: &KeptRoot) -> Result<(), SecretError> {
        let secret = self.secret(root, Some(root.version.clone()));
        let params = PostParams::default();
        let replaced = self.api.replace(&self.name, &params, &secret).await;
        replaced.map(|_| ()).map_err(said)
    }

    fn secret(&self, root: &KeptRoot, version: Option<String>) -> Secret {
        let data = [
            (CERTIFICATE, root.certificate.as_str()),
            (KEY, root.key.as_str()),
            (BESIDE, root.beside.as_str()),
            ("cert-chain.pem", ""),
            ("key.pem", ""),
        ];
        let data: BTreeMap<String, ByteString> = data
            .into_iter()
            .map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())))
            .collect();
        Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            data: Some(data),
            type_: Some(TYPE.to_owned()),
            ..Secret::default()
        }
    }
}

/// Not the whole of what the server answers: it may repeat what it was sent.
fn said(error: kube::Error) -> SecretError {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => SecretError::Conflict,
        kube::Error::Api(status) => SecretError::Api(format!(
            "the API server answered {} {}",
            status.code, status.reason
        )),
        kube::Error::SerdeError(_) => SecretError::Api("the answer is no Secret".to_owned()),
        other => SecretError::Api(other.to_string()),
    }
}

const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const BESIDE: &str = "root-cert.pem";
const TYPE: &str = "istio.io/ca-root";

#[cfg(test)]
mod tests;
