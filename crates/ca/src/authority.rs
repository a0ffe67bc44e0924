//! The authority as the control plane uses it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
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
use crate::kept::{KeptRoot, RootPem};
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
    source: Source,
    lifetimes: Lifetimes,
}

/// Where the signing key is from.
enum Source {
    /// A root of our own in a directory, which is renewed there.
    Dir(RootDir),
    /// Somebody else's files, which are read again when they change.
    PluggedIn(PathBuf),
    /// A root of our own that is kept elsewhere; whoever keeps it renews it.
    Kept(KeptRoot),
}

/// How long workload certificates live (`control-plane-contract` 7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Where none is asked for.
    pub default: Duration,
    /// The longest that is granted.
    pub max: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            default: DEFAULT_TTL,
            max: MAX_TTL,
        }
    }
}

/// A certificate and what may be said of it in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Leaf, each intermediate, the root bundle last.
    pub chain: Vec<String>,
    /// The serial number, in hexadecimal.
    pub serial: String,
    /// The end of its life.
    pub not_after: SystemTime,
}

/// What reading a plugged-in CA again came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// It is what is in force, or the CA isn't plugged in.
    Same,
    /// Another signer below the same roots.
    Signer,
    /// More roots, or fewer; the signer may be another as well.
    Roots,
}

/// What taking over a kept root came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// It is what is in force.
    Same,
    /// It is in force now: a new certificate of the same key, or a key whose root was published before.
    InForce,
    /// It has another key and comes unannounced: it is trusted from now on, and signed with only after a restart.
    OnlyTrusted,
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
            source: Source::Dir(root_dir),
            lifetimes: Lifetimes::default(),
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
            source: Source::PluggedIn(dir.into()),
            lifetimes: Lifetimes::default(),
        })
    }

    /// The authority of a root that is kept elsewhere; `place` is repeated in errors.
    ///
    /// # Errors
    /// It is damaged, or for another trust domain.
    pub fn kept(root: &RootPem, trust_domain: &str, place: &Path) -> Result<Self, LoadError> {
        let kept = KeptRoot::new(trust_domain, place);
        let signer = kept.load(root, SystemTime::now())?;
        Ok(Self {
            signer: ArcSwap::from_pointee(signer),
            source: Source::Kept(kept),
            lifetimes: Lifetimes::default(),
        })
    }

    /// Whether a directory has any file of a plugged-in CA, and so is meant to be one: whole, or an error.
    pub fn is_plugged_in(dir: &Path) -> bool {
        load::is_plugged_in(dir)
    }

    /// The same with other bounds; a default above the maximum is cut down to it.
    #[must_use]
    pub fn with_lifetimes(self, lifetimes: Lifetimes) -> Self {
        let default = lifetimes.default.min(lifetimes.max);
        Self {
            lifetimes: Lifetimes {
                default,
                ..lifetimes
            },
            ..self
        }
    }

    /// The root bundle to publish, PEM.
    pub fn roots_pem(&self) -> String {
        let signer = self.signer.load();
        let mut roots = bundle(&signer.roots);
        roots.push_str(&bundle(&signer.held_back));
        roots
    }

    /// The list of revoked certificates of a plugged-in CA, PEM; empty without one. Blocks on the disk.
    pub fn revoked_pem(&self) -> String {
        match &self.source {
            Source::PluggedIn(dir) => {
                std::fs::read_to_string(dir.join(load::REVOKED)).unwrap_or_default()
            }
            Source::Dir(_) | Source::Kept(_) => String::new(),
        }
    }

    /// The files of a plugged-in CA.
    pub fn plugged_in_dir(&self) -> Option<&Path> {
        match &self.source {
            Source::PluggedIn(dir) => Some(dir),
            Source::Dir(_) | Source::Kept(_) => None,
        }
    }

    /// End of the signing certificate's life.
    pub fn not_after(&self) -> SystemTime {
        self.signer.load().not_after
    }

    /// The earliest end among the roots.
    pub fn roots_end(&self) -> Option<SystemTime> {
        let signer = self.signer.load();
        signer.roots.iter().filter_map(load::ends).min()
    }

    /// The earliest end on the way up to the roots; none where a root signs itself.
    pub fn chain_ends(&self) -> Option<SystemTime> {
        let signer = self.signer.load();
        signer.intermediates.iter().filter_map(load::ends).min()
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
        self.issue(csr_pem, id, ttl).map(|issued| issued.chain)
    }

    /// The same, with what an audit wants to know.
    ///
    /// # Errors
    /// As for [`sign`](Self::sign).
    pub fn issue(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        ttl: Option<Duration>,
    ) -> Result<Issued, SignCsrError> {
        let Lifetimes { default, max } = self.lifetimes;
        let asked = ttl.filter(|ttl| !ttl.is_zero()).unwrap_or(default);
        if asked > max {
            return Err(SignCsrError::TtlTooLong { asked, max });
        }
        let key = proven_key(csr_pem)?;
        let signer = self.signer.load();
        let names = [AltName::Uri(id.to_string())];
        let leaf = signer.issue_leaf(&key, &names, asked, SystemTime::now())?;
        let mut chain = Vec::with_capacity(signer.intermediates.len() + 2);
        chain.push(to_pem(&leaf.certificate));
        chain.extend(signer.intermediates.iter().map(to_pem));
        chain.push(format!(
            "{}{}",
            bundle(&signer.roots),
            bundle(&signer.held_back)
        ));
        Ok(Issued {
            chain,
            serial: leaf
                .serial
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            not_after: leaf.not_after,
        })
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
        let Source::Dir(root_dir) = &self.source else {
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

    /// Reads a plugged-in CA again. A signer below the same roots is in force at once; roots may only be added, or
    /// left out, so that nobody is cut off. Blocks on the disk.
    ///
    /// # Errors
    /// The files don't fit together, or exchange the roots; what was in force stays.
    pub fn reload(&self, now: SystemTime) -> Result<Reloaded, LoadError> {
        let Source::PluggedIn(dir) = &self.source else {
            return Ok(Reloaded::Same);
        };
        let new = load::plugged_in(dir, now)?;
        let old = self.signer.load();
        let within = |a: &[CertificateDer<'_>], b: &[CertificateDer<'_>]| {
            a.iter().all(|root| b.contains(root))
        };
        let (kept, nothing_new) = (
            within(&old.roots, &new.roots),
            within(&new.roots, &old.roots),
        );
        let came_to = match (kept, nothing_new) {
            (true, true) if old.is(&new) => Reloaded::Same,
            (true, true) => Reloaded::Signer,
            (false, false) => return Err(LoadError::RootsExchanged { path: dir.clone() }),
            (true, false) | (false, true) => Reloaded::Roots,
        };
        if came_to != Reloaded::Same {
            self.signer.store(Arc::new(new));
        }
        Ok(came_to)
    }

    /// Takes over a kept root as another replica, or an operator, has left it.
    ///
    /// # Errors
    /// It is damaged, or this authority's key isn't of such a root; what was in force stays.
    pub fn adopt(&self, root: &RootPem, now: SystemTime) -> Result<Adopted, LoadError> {
        let Source::Kept(kept) = &self.source else {
            return Ok(Adopted::Same);
        };
        let new = kept.load(root, now)?;
        let old = self.signer.load();
        let same_key = new.key.public_key_raw() == old.key.public_key_raw();
        let announced = new.roots.first().is_some_and(|own| old.roots.contains(own));
        if same_key || announced {
            if old.is(&new) && new.roots == old.roots && old.held_back.is_empty() {
                return Ok(Adopted::Same);
            }
            self.signer.store(Arc::new(new));
            return Ok(Adopted::InForce);
        }
        let known =
            |root: &CertificateDer<'_>| old.roots.contains(root) || old.held_back.contains(root);
        if new.roots.iter().all(known) {
            return Ok(Adopted::Same);
        }
        let mut signer = Signer::clone(&old);
        let more = new.roots.into_iter().filter(|root| !known(root));
        signer.held_back.extend(more);
        self.signer.store(Arc::new(signer));
        Ok(Adopted::OnlyTrusted)
    }

    /// Whether the signing certificate is in the last fifth of its life.
    pub fn is_due(&self, now: SystemTime) -> bool {
        is_due(&self.signer.load(), now)
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
pub(crate) fn is_due(signer: &Signer, now: SystemTime) -> bool {
    let lifetime = signer.not_after.duration_since(signer.not_before);
    let left = signer.not_after.duration_since(now);
    left.unwrap_or_default() < lifetime.unwrap_or_default() / 5
}

fn bundle(certs: &[CertificateDer<'_>]) -> String {
    certs.iter().map(to_pem).collect()
}
