//! The authority as the control plane uses it.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_identity::to_pem;
use ambit_types::SpiffeId;
use arc_swap::ArcSwap;
use rand::RngExt;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::der::AltName;
use crate::issue::{DEFAULT_TTL, MAX_TTL, SignCsrError, Signer};
use crate::load::{self, LoadError};
use crate::request::proven_key;
use crate::state::RootDir;

/// How often the age of a self-signed root is looked at.
const ROTATION_CHECK: Duration = Duration::from_secs(60 * 60);
/// The control plane's own certificate lives as long as its key does, which is
/// until the process ends; ten years as upstream.
const SERVER_TTL: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// Signs workload certificates (`control-plane-contract` 7). Clone-free: share
/// it in an `Arc`; signing takes no lock.
pub struct CertificateAuthority {
    signer: ArcSwap<Signer>,
    /// Set for a root of our own, which is renewed; a plugged-in one isn't ours.
    root_dir: Option<RootDir>,
}

impl CertificateAuthority {
    /// The self-signed authority kept in `state_dir`, made on the first start.
    ///
    /// # Errors
    /// The state can't be read or written, is damaged, or is for another trust
    /// domain. It is never replaced.
    pub fn self_signed(state_dir: &Path, trust_domain: &str) -> Result<Self, LoadError> {
        let root_dir = RootDir::new(state_dir, trust_domain);
        let signer = root_dir.load_or_create(SystemTime::now())?;
        Ok(Self {
            signer: ArcSwap::from_pointee(signer),
            root_dir: Some(root_dir),
        })
    }

    /// The authority of a plugged-in directory with `ca-cert.pem`, `ca-key.pem`,
    /// `cert-chain.pem` and `root-cert.pem`.
    ///
    /// # Errors
    /// A file is missing, or the files don't fit together.
    pub fn plugged_in(dir: &Path) -> Result<Self, LoadError> {
        let signer = load::plugged_in(dir, SystemTime::now())?;
        Ok(Self {
            signer: ArcSwap::from_pointee(signer),
            root_dir: None,
        })
    }

    /// The root bundle to publish, PEM.
    pub fn roots_pem(&self) -> String {
        bundle(&self.signer.load().roots)
    }

    /// End of the signing certificate's life.
    pub fn not_after(&self) -> SystemTime {
        self.signer.load().not_after
    }

    /// Signs `csr_pem` for `id`: leaf, each intermediate, the root bundle last.
    /// No lifetime, or zero, means [`DEFAULT_TTL`].
    ///
    /// # Errors
    /// The request or the lifetime isn't acceptable, or the signer has expired.
    pub fn sign(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        ttl: Option<Duration>,
    ) -> Result<Vec<String>, SignCsrError> {
        let asked = ttl.filter(|ttl| !ttl.is_zero()).unwrap_or(DEFAULT_TTL);
        if asked > MAX_TTL {
            return Err(SignCsrError::TtlTooLong {
                asked,
                max: MAX_TTL,
            });
        }
        let key = proven_key(csr_pem)?;
        let signer = self.signer.load();
        let names = [AltName::Uri(id.to_string())];
        let leaf = signer.issue(&key, &names, asked, SystemTime::now())?;
        let mut chain = Vec::with_capacity(signer.intermediates.len() + 2);
        chain.push(to_pem(&leaf));
        chain.extend(signer.intermediates.iter().map(to_pem));
        chain.push(bundle(&signer.roots));
        Ok(chain)
    }

    /// A certificate with a new key for the control plane's own listener: the
    /// chain as sent in handshakes, and the key.
    ///
    /// # Errors
    /// The signer has expired or the crypto library failed.
    pub fn server_certificate(
        &self,
        dns: &[String],
        ips: &[IpAddr],
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), SignCsrError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(SignCsrError::Crypto)?;
        let key = Zeroizing::new(key);
        let names: Vec<AltName> = (dns.iter().cloned().map(AltName::Dns))
            .chain(ips.iter().copied().map(AltName::Ip))
            .collect();
        let signer = self.signer.load();
        let now = SystemTime::now();
        let leaf = signer.issue(&key.subject_public_key_info(), &names, SERVER_TTL, now)?;
        let mut chain = vec![leaf];
        chain.extend(signer.intermediates.iter().cloned());
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((chain, der.into()))
    }

    /// Renews a self-signed root in the last fifth of its life, with the same
    /// key, so that certificates in use still verify. Whether it did.
    ///
    /// # Errors
    /// The state changed under us or the new root can't be written; the old one
    /// stays in force.
    pub fn rotate_if_due(&self, now: SystemTime) -> Result<bool, LoadError> {
        let Some(root_dir) = &self.root_dir else {
            return Ok(false);
        };
        let signer = self.signer.load();
        if !is_due(&signer, now) {
            return Ok(false);
        }
        // Another replica may have renewed it already.
        let kept = root_dir.load(now)?;
        if kept.key.public_key_raw() != signer.key.public_key_raw() {
            return Err(root_dir.replaced());
        }
        let renewed = if is_due(&kept, now) {
            root_dir.reissue(now)?
        } else {
            kept
        };
        self.signer.store(Arc::new(renewed));
        Ok(true)
    }

    /// Looks once an hour, from a random moment on, whether the root is due, and
    /// calls `renewed` after each renewal, for publishing. Never returns.
    pub async fn keep_fresh(&self, mut renewed: impl FnMut(&Self)) {
        let offset = ROTATION_CHECK.mul_f64(rand::rng().random_range(0.0..1.0));
        tokio::time::sleep(offset).await;
        loop {
            match self.rotate_if_due(SystemTime::now()) {
                Ok(true) => {
                    info!("renewed the self-signed root");
                    renewed(self);
                }
                Ok(false) => {}
                Err(e) => error!(error = %e, "the self-signed root can't be renewed"),
            }
            tokio::time::sleep(ROTATION_CHECK).await;
        }
    }
}

/// In the last fifth of its life.
fn is_due(signer: &Signer, now: SystemTime) -> bool {
    let lifetime = signer.not_after.duration_since(signer.not_before);
    let left = signer.not_after.duration_since(now);
    left.unwrap_or_default() < lifetime.unwrap_or_default() / 5
}

fn bundle(certs: &[CertificateDer<'_>]) -> String {
    certs.iter().map(to_pem).collect()
}
