//! Turning files into a [`Signer`], with every check that makes the difference
//! between a start that fails and certificates that nobody accepts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_identity::provider;
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use zeroize::{Zeroize, Zeroizing};

use crate::der::AltName;
use crate::issue::{SignCsrError, SignatureOid, Signer};

/// Why the authority can't start. None of these is mended by making a new
/// root: certificates that are in use would stop to verify.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file of the set isn't there.
    #[error("{} is missing; the set is {wanted}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The names of the whole set.
        wanted: &'static str,
    },
    /// A file or the directory can't be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file isn't PEM with a certificate in it.
    #[error("{} holds no PEM certificate that can be parsed", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
    },
    /// A file isn't PEM with a usable private key in it.
    #[error("{} holds no usable private key: unencrypted PKCS#8, PKCS#1 or SEC1, of RSA, EC P-256, P-384 or Ed25519", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The key belongs to another certificate.
    #[error("the key in {} is not that of the certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The certificate may not sign others.
    #[error("{} is not a CA certificate", path.display())]
    NotCa {
        /// The file.
        path: PathBuf,
    },
    /// What it signs doesn't verify up to the roots.
    #[error("certificates signed with {} do not verify up to the roots: {source}", path.display())]
    Chain {
        /// The CA certificate's file.
        path: PathBuf,
        /// Where the chain breaks.
        source: webpki::Error,
    },
    /// The kept root was made for another trust domain.
    #[error("the root in {} is for the trust domain {found:?}, not {wanted:?}", path.display())]
    TrustDomain {
        /// The file.
        path: PathBuf,
        /// The configured trust domain.
        wanted: String,
        /// The root's.
        found: String,
    },
    /// A change of roots that would cut workloads off: neither all of the old ones are there, nor only some of them.
    #[error("{} exchanges the roots: publish old and new together first, then leave out the old", path.display())]
    RootsExchanged {
        /// The file.
        path: PathBuf,
    },
    /// The crypto library made no root.
    #[error("making a root")]
    Create(#[source] rcgen::Error),
    /// A trial signature failed.
    #[error("signing with {}", path.display())]
    Sign {
        /// The key's file.
        path: PathBuf,
        /// Why.
        source: SignCsrError,
    },
}

/// The files of a plugged-in CA (`control-plane-contract` 7.5).
const PLUGGED_IN: &str = "ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem, \
     or tls.crt, tls.key and ca.crt";
const STANDARD: [&str; 4] = [
    "ca-cert.pem",
    "ca-key.pem",
    "cert-chain.pem",
    "root-cert.pem",
];
/// As cert-manager writes them; the first has the way up as well.
const CERT_MANAGER: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// The signer of a directory with one of the two sets of files.
pub(crate) fn plugged_in(dir: &Path, now: SystemTime) -> Result<Signer, LoadError> {
    let there = |name: &&str| dir.join(name).exists();
    let other = CERT_MANAGER.iter().any(there) && !STANDARD.iter().any(there);
    let [cert, key, chain, root] = if other {
        let [cert, key, root] = CERT_MANAGER;
        [cert, key, cert, root]
    } else {
        STANDARD
    }
    .map(|name| dir.join(name));
    for path in [&cert, &key, &chain, &root] {
        if !path.try_exists().map_err(io_error(path))? {
            return Err(LoadError::Missing {
                path: path.clone(),
                wanted: PLUGGED_IN,
            });
        }
    }
    let key = read_key(&key)?;
    let own = first_certificate(&cert)?;
    let roots = certificates(&root)?;
    // Roots are never sent in handshakes, so they don't belong to the way up.
    let mut intermediates = Vec::new();
    if !roots.contains(&own) {
        intermediates.push(own.clone());
        let chain = possibly_none(&chain)?;
        let above = chain
            .into_iter()
            .filter(|c| *c != own && !roots.contains(c));
        intermediates.extend(above);
    }
    assemble(key, (&cert, own), intermediates, roots, now)
}

/// Whether a directory has any file of a plugged-in CA: then it is meant to be one.
pub(crate) fn is_plugged_in(dir: &Path) -> bool {
    let names = STANDARD.iter().chain(&CERT_MANAGER);
    names.into_iter().any(|name| dir.join(name).exists())
}

/// What tells one state of a plugged-in directory from another, links followed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fingerprint(Vec<Option<(u64, i64, i64, u64)>>);

impl Fingerprint {
    /// Of the directory as it is now. Blocks on the disk.
    pub fn of(dir: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        let names = STANDARD.iter().chain(&CERT_MANAGER).chain(&[REVOKED]);
        let facts = names.map(|name| {
            let found = fs::metadata(dir.join(name)).ok()?;
            Some((found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
        });
        Self(facts.collect())
    }
}

/// The list of revoked certificates of a plugged-in CA, if it has one.
pub(crate) const REVOKED: &str = "ca-crl.pem";

/// A key with the file that it came from.
pub(crate) type FileKey = (PathBuf, Zeroizing<KeyPair>);

/// Puts a signer together and proves that what it signs verifies.
pub(crate) fn assemble(
    (key_path, key): FileKey,
    (path, own): (&Path, CertificateDer<'static>),
    intermediates: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    now: SystemTime,
) -> Result<Signer, LoadError> {
    let unreadable = || LoadError::Certificate { path: path.into() };
    let (_, parsed) = x509_parser::parse_x509_certificate(&own).map_err(|_| unreadable())?;
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(LoadError::KeyMismatch {
            key: key_path,
            certificate: path.into(),
        });
    }
    if !may_sign(&parsed) {
        return Err(LoadError::NotCa { path: path.into() });
    }
    let Some(algorithm) = SignatureOid::of(&key) else {
        return Err(LoadError::Key { path: key_path });
    };
    let signer = Signer {
        key: Arc::new(key),
        algorithm,
        name: parsed.subject().as_raw().to_vec(),
        key_id: key_id(&parsed),
        not_before: system_time(parsed.validity().not_before.timestamp()),
        not_after: system_time(parsed.validity().not_after.timestamp()),
        intermediates,
        roots,
        held_back: Vec::new(),
    };
    prove(&signer, path, now)?;
    Ok(signer)
}

fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    let is_ca = match certificate.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        Ok(None) | Err(_) => false,
    };
    let signs = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    is_ca && signs
}

fn key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
}

/// Signs a throw-away leaf and verifies it as a peer would.
fn prove(signer: &Signer, path: &Path, now: SystemTime) -> Result<(), LoadError> {
    let chain = |source| LoadError::Chain {
        path: path.into(),
        source,
    };
    let key = KeyPair::generate().map_err(LoadError::Create)?;
    let names = [AltName::Uri("spiffe://probe/ns/probe/sa/probe".to_owned())];
    let leaf = signer.issue(
        &key.subject_public_key_info(),
        &names,
        Duration::from_secs(60),
        now,
    );
    let leaf = match leaf {
        Ok(leaf) => leaf,
        Err(SignCsrError::SignerExpired) => {
            let since_epoch = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH);
            let unix = |at| UnixTime::since_unix_epoch(since_epoch(at).unwrap_or_default());
            return Err(chain(webpki::Error::CertExpired {
                time: unix(now),
                not_after: unix(signer.not_after),
            }));
        }
        Err(source) => {
            return Err(LoadError::Sign {
                path: path.into(),
                source,
            });
        }
    };
    verify_leaf(&leaf, &signer.intermediates, &signer.roots, now).map_err(chain)
}

/// What a peer does with a leaf, names aside.
pub(crate) fn verify_leaf(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), webpki::Error> {
    let anchors: Vec<TrustAnchor<'_>> = roots
        .iter()
        .map(anchor_from_trusted_cert)
        .collect::<Result<_, _>>()?;
    let since_epoch = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    EndEntityCert::try_from(leaf)?
        .verify_for_usage(
            provider().signature_verification_algorithms.all,
            &anchors,
            intermediates,
            UnixTime::since_unix_epoch(since_epoch),
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map(|_| ())
}

pub(crate) fn read_key(path: &Path) -> Result<FileKey, LoadError> {
    let pem = Zeroizing::new(fs::read(path).map_err(io_error(path))?);
    key_of(&pem, path)
}

/// The private key of a PEM text; the path is only repeated in errors.
pub(crate) fn key_of(pem: &[u8], path: &Path) -> Result<FileKey, LoadError> {
    let unusable = || LoadError::Key { path: path.into() };
    let mut der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| unusable())?;
    let key = KeyPair::try_from(&der).map_err(|_| unusable());
    der.zeroize();
    Ok((path.into(), Zeroizing::new(key?)))
}

/// The certificates of a PEM file; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let found = possibly_none(path)?;
    if found.is_empty() {
        return Err(LoadError::Certificate { path: path.into() });
    }
    Ok(found)
}

pub(crate) fn first_certificate(path: &Path) -> Result<CertificateDer<'static>, LoadError> {
    let first = certificates(path)?.into_iter().next();
    first.ok_or_else(|| LoadError::Certificate { path: path.into() })
}

fn possibly_none(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let pem = fs::read(path).map_err(io_error(path))?;
    certificates_of(&pem, path)
}

/// The certificates of a PEM text, possibly none; the path is only repeated in errors.
pub(crate) fn certificates_of(
    pem: &[u8],
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    CertificateDer::pem_slice_iter(pem)
        .map(|parsed| {
            let der = parsed.ok()?;
            x509_parser::parse_x509_certificate(&der).ok()?;
            Some(der)
        })
        .collect::<Option<_>>()
        .ok_or_else(|| LoadError::Certificate { path: path.into() })
}

pub(crate) fn io_error(path: &Path) -> impl Fn(io::Error) -> LoadError {
    let path = path.to_path_buf();
    move |source| LoadError::Io {
        path: path.clone(),
        source,
    }
}

/// The end of a certificate's life.
pub(crate) fn ends(certificate: &CertificateDer<'static>) -> Option<SystemTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(system_time(parsed.validity().not_after.timestamp()))
}

fn system_time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
