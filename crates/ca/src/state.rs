//! The self-signed root: made once, kept in the state directory.
//!
//! Certificate and key appear together, by renaming a finished directory into
//! place, so that a crash leaves either nothing or a whole root. A root that is
//! there but damaged stops the start: a new one would cut every workload off.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::RngExt;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::issue::{BACKDATE, Signer};
use crate::load::{LoadError, assemble, first_certificate, io_error, read_key};

const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
const FILES: &str = "ca-cert.pem and ca-key.pem";

/// Where a self-signed root lives.
#[derive(Debug, Clone)]
pub(crate) struct RootDir {
    state_dir: PathBuf,
    trust_domain: String,
}

impl RootDir {
    pub(crate) fn new(state_dir: &Path, trust_domain: &str) -> Self {
        Self {
            state_dir: state_dir.into(),
            trust_domain: trust_domain.to_owned(),
        }
    }

    fn dir(&self) -> PathBuf {
        self.state_dir.join("ca")
    }

    fn certificate(&self) -> PathBuf {
        self.dir().join("ca-cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir().join("ca-key.pem")
    }

    /// The kept root, or a new one where none was ever made.
    pub(crate) fn load_or_create(&self, now: SystemTime) -> Result<Signer, LoadError> {
        if !self.dir().try_exists().map_err(io_error(&self.dir()))? {
            self.create(now)?;
        }
        self.load(now)
    }

    pub(crate) fn load(&self, now: SystemTime) -> Result<Signer, LoadError> {
        for path in [self.certificate(), self.key()] {
            if !path.try_exists().map_err(io_error(&path))? {
                return Err(LoadError::Missing {
                    path,
                    wanted: FILES,
                });
            }
        }
        tighten(&self.dir(), 0o700)?;
        tighten(&self.key(), 0o600)?;
        let path = self.certificate();
        let own = first_certificate(&path)?;
        check_trust_domain(&own, &path, &self.trust_domain)?;
        let roots = vec![own.clone()];
        assemble(read_key(&self.key())?, (&path, own), Vec::new(), roots, now)
    }

    fn create(&self, now: SystemTime) -> Result<(), LoadError> {
        make_dir(&self.state_dir)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(LoadError::Create)?;
        let key = Zeroizing::new(key);
        let certificate = root_certificate(&self.trust_domain, &key, now)?;
        // Not our process number: in containers every replica's is 1.
        let random = rand::rng().random::<u64>();
        let unfinished = self.state_dir.join(format!("ca.new-{random:016x}"));
        make_dir(&unfinished)?;
        let pem = Zeroizing::new(key.serialize_pem());
        write_new(&unfinished.join("ca-key.pem"), pem.as_bytes(), 0o600)?;
        write_new(
            &unfinished.join("ca-cert.pem"),
            certificate.as_bytes(),
            0o644,
        )?;
        sync_dir(&unfinished)?;
        match fs::rename(&unfinished, self.dir()) {
            Ok(()) => {
                info!(path = %self.dir().display(), trust_domain = %self.trust_domain, "made a self-signed root")
            }
            // Another replica on the same directory was faster: its root counts.
            Err(_) if self.key().exists() => {
                fs::remove_dir_all(&unfinished).map_err(io_error(&unfinished))?;
            }
            Err(source) => return Err(io_error(&self.dir())(source)),
        }
        sync_dir(&self.state_dir)
    }

    /// The refusal of a key that isn't the one we started with.
    pub(crate) fn replaced(&self) -> LoadError {
        LoadError::KeyMismatch {
            key: self.key(),
            certificate: self.certificate(),
        }
    }

    /// Replaces the certificate by one with the same key and name and a new life.
    pub(crate) fn reissue(&self, now: SystemTime) -> Result<Signer, LoadError> {
        let (_, key) = read_key(&self.key())?;
        let certificate = root_certificate(&self.trust_domain, &key, now)?;
        let unfinished = self.dir().join("ca-cert.pem.new");
        match fs::remove_file(&unfinished) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(&unfinished)(e)),
            Ok(()) | Err(_) => {}
        }
        write_new(&unfinished, certificate.as_bytes(), 0o644)?;
        let path = self.certificate();
        fs::rename(&unfinished, &path).map_err(io_error(&path))?;
        sync_dir(&self.dir())?;
        self.load(now)
    }
}

/// A root certificate for a key, from now on: O is the trust domain.
pub(crate) fn root_certificate(
    trust_domain: &str,
    key: &KeyPair,
    now: SystemTime,
) -> Result<String, LoadError> {
    let since_epoch = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial)
        .map_err(|_| LoadError::Create(rcgen::Error::RingUnspecified))?;
    params.serial_number = Some(serial.to_vec().into());
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch.saturating_sub(BACKDATE);
    params.not_after = epoch + since_epoch + ROOT_LIFETIME;
    let certificate = params.self_signed(key).map_err(LoadError::Create)?;
    Ok(certificate.pem())
}

/// A root is for one trust domain, which is its organization.
pub(crate) fn check_trust_domain(
    own: &[u8],
    path: &Path,
    trust_domain: &str,
) -> Result<(), LoadError> {
    let found = x509_parser::parse_x509_certificate(own)
        .ok()
        .and_then(|(_, root)| {
            let organization = root.subject().iter_organization().next()?;
            organization.as_str().ok().map(str::to_owned)
        })
        .unwrap_or_default();
    if found == trust_domain {
        return Ok(());
    }
    Err(LoadError::TrustDomain {
        path: path.into(),
        wanted: trust_domain.to_owned(),
        found,
    })
}

fn make_dir(path: &Path) -> Result<(), LoadError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error(path))
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), LoadError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let write = |mut file: File| file.write_all(content).and_then(|()| file.sync_all());
    options.open(path).and_then(write).map_err(io_error(path))
}

fn sync_dir(path: &Path) -> Result<(), LoadError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error(path))
}

/// Takes away what others may do with a file; a volume may have opened it up.
fn tighten(path: &Path, mode: u32) -> Result<(), LoadError> {
    let found = fs::metadata(path).map_err(io_error(path))?;
    let permissions = found.permissions().mode() & 0o777;
    if permissions & !mode == 0 {
        return Ok(());
    }
    warn!(path = %path.display(), found = format!("{permissions:o}"), "others could reach the signing key; closing it");
    fs::set_permissions(path, fs::Permissions::from_mode(permissions & mode))
        .map_err(io_error(path))
}
