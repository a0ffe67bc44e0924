//! A self-signed root as texts, for keeping it where several replicas find it
//! (`control-plane-contract` 7.5): the control plane keeps it in a Secret.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use zeroize::Zeroizing;

use crate::authority::is_due;
use crate::issue::Signer;
use crate::load::{LoadError, assemble, certificates_of, key_of};
use crate::state::{check_trust_domain, root_certificate};

/// A self-signed root: its certificate, its key, and roots that are published beside it.
#[derive(Clone, PartialEq, Eq)]
pub struct RootPem {
    certificate: String,
    key: Zeroizing<String>,
    beside: String,
}

impl RootPem {
    /// What was kept: `ca-cert.pem`, `ca-key.pem` and `root-cert.pem`, which may be empty. Nothing is checked yet.
    pub fn new(certificate: String, key: Zeroizing<String>, beside: String) -> Self {
        Self {
            certificate,
            key,
            beside,
        }
    }

    /// A new root.
    ///
    /// # Errors
    /// The crypto library failed.
    pub fn make(trust_domain: &str, now: SystemTime) -> Result<Self, LoadError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(LoadError::Create)?;
        let key = Zeroizing::new(key);
        Ok(Self {
            certificate: root_certificate(trust_domain, &key, now)?,
            key: Zeroizing::new(key.serialize_pem()),
            beside: String::new(),
        })
    }

    /// The same key and name with a new life, if it is in the last fifth of the old one.
    ///
    /// # Errors
    /// What is kept is damaged, or for another trust domain.
    pub fn renewed_if_due(
        &self,
        trust_domain: &str,
        place: &Path,
        now: SystemTime,
    ) -> Result<Option<Self>, LoadError> {
        let signer = KeptRoot::new(trust_domain, place).load(self, now)?;
        if !is_due(&signer, now) {
            return Ok(None);
        }
        Ok(Some(Self {
            certificate: root_certificate(trust_domain, &signer.key, now)?,
            ..self.clone()
        }))
    }

    /// The certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The key, PEM.
    pub fn key(&self) -> &Zeroizing<String> {
        &self.key
    }

    /// Roots that are published beside it, PEM; may be empty.
    pub fn beside(&self) -> &str {
        &self.beside
    }
}

/// Without the key.
impl fmt::Debug for RootPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootPem")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// What a kept root has to be.
#[derive(Debug, Clone)]
pub(crate) struct KeptRoot {
    trust_domain: String,
    place: PathBuf,
}

impl KeptRoot {
    pub(crate) fn new(trust_domain: &str, place: &Path) -> Self {
        Self {
            trust_domain: trust_domain.to_owned(),
            place: place.into(),
        }
    }

    /// Its signer; its own certificate is the first of the roots.
    pub(crate) fn load(&self, root: &RootPem, now: SystemTime) -> Result<Signer, LoadError> {
        let at = |name: &str| self.place.join(name);
        let path = at("ca-cert.pem");
        let own = certificates_of(root.certificate.as_bytes(), &path)?;
        let own = own.into_iter().next();
        let own = own.ok_or_else(|| LoadError::Certificate { path: path.clone() })?;
        check_trust_domain(&own, &path, &self.trust_domain)?;
        let key = key_of(root.key.as_bytes(), &at("ca-key.pem"))?;
        let mut roots = vec![own.clone()];
        for beside in certificates_of(root.beside.as_bytes(), &at("root-cert.pem"))? {
            if !roots.contains(&beside) {
                roots.push(beside);
            }
        }
        assemble(key, (&path, own), Vec::new(), roots, now)
    }
}
