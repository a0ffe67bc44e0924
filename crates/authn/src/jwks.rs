//! The issuer's public keys, read from a file and re-read when it changes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::Mutex;
use serde::Deserialize;
use tracing::{debug, info, warn};

/// Far above any real key set.
const MAX_FILE: u64 = 1024 * 1024;
/// How often the file is looked at while all keys are known.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Why a key set can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// The file can't be read.
    #[error("{}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is larger than any key set.
    #[error("{} is larger than {MAX_FILE} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file isn't a JSON web key set.
    #[error("{} is not a JSON web key set", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's complaint.
        source: serde_json::Error,
    },
    /// No key in it verifies signatures.
    #[error("{} holds no key for verifying signatures: RSA, P-256, P-384 or Ed25519, with a key id", path.display())]
    NoUsableKey {
        /// The file.
        path: PathBuf,
    },
}

/// One public key and what it may verify.
pub(crate) struct Key {
    id: String,
    algorithms: Vec<Algorithm>,
    pub(crate) decoding: DecodingKey,
}

impl Key {
    pub(crate) fn verifies(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// `None` for keys that verify no signatures of ours: secrets, encryption
    /// keys, other curves, keys without an id.
    fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let for_signatures = match &common.public_key_use {
            None | Some(PublicKeyUse::Signature) => true,
            Some(_) => false,
        };
        let verifies = match &common.key_operations {
            None => true,
            Some(operations) => operations.contains(&KeyOperations::Verify),
        };
        if !for_signatures || !verifies {
            return None;
        }
        let mut algorithms = possible(&jwk.algorithm).to_vec();
        if let Some(only) = common.key_algorithm {
            let only = Algorithm::try_from(only).ok()?;
            algorithms.retain(|algorithm| *algorithm == only);
        }
        if algorithms.is_empty() {
            return None;
        }
        Some(Self {
            id: common.key_id.clone()?,
            algorithms,
            decoding: DecodingKey::from_jwk(jwk).ok()?,
        })
    }
}

fn possible(parameters: &AlgorithmParameters) -> &'static [Algorithm] {
    match parameters {
        AlgorithmParameters::RSA(_) => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(okp) => match okp.curve {
            EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
            _ => &[],
        },
        _ => &[],
    }
}

/// The keys of one reading.
pub(crate) struct KeySet(Vec<Key>);

impl KeySet {
    /// The keys with that id; more than one only in an odd set.
    pub(crate) fn with_id<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Key> {
        self.0.iter().filter(move |key| key.id == id)
    }
}

/// What tells one version of the file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
}

/// The file, with the last good set that came from it.
pub(crate) struct JwksFile {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    keys: Arc<KeySet>,
    /// Of the last reading, good or bad; a bad one isn't read again and again.
    stamp: Option<Stamp>,
    checked: Instant,
}

impl JwksFile {
    pub(crate) fn open(path: PathBuf) -> Result<Self, JwksError> {
        let stamp = stamp(&path).ok();
        let keys = Arc::new(read(&path)?);
        let state = State {
            keys,
            stamp,
            checked: Instant::now(),
        };
        Ok(Self {
            path,
            state: Mutex::new(state),
        })
    }

    /// The keys, after a look at the file if the last one is a second old.
    pub(crate) fn keys(&self) -> Arc<KeySet> {
        let mut state = self.state.lock();
        if state.checked.elapsed() >= CHECK_EVERY {
            self.refresh(&mut state);
        }
        Arc::clone(&state.keys)
    }

    /// The keys after a look at the file now: somebody used a key that isn't in
    /// the set, perhaps the issuer has a new one.
    pub(crate) fn fresh_keys(&self) -> Arc<KeySet> {
        let mut state = self.state.lock();
        self.refresh(&mut state);
        Arc::clone(&state.keys)
    }

    /// One `stat`, and a read of a small file when it changed.
    fn refresh(&self, state: &mut State) {
        state.checked = Instant::now();
        let now = match stamp(&self.path) {
            Ok(now) => Some(now),
            Err(error) => {
                // Between two versions, or gone: what was good stays in force.
                debug!(path = %self.path.display(), %error, "no key set");
                return;
            }
        };
        if now == state.stamp {
            return;
        }
        state.stamp = now;
        match read(&self.path) {
            Ok(keys) => {
                info!(path = %self.path.display(), keys = keys.0.len(), "read a new key set");
                state.keys = Arc::new(keys);
            }
            Err(error) => {
                warn!(path = %self.path.display(), %error, "the new key set is not usable, keeping the old one");
            }
        }
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let found = fs::metadata(path)?;
    Ok(Stamp {
        inode: found.ino(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
        size: found.size(),
    })
}

fn read(path: &Path) -> Result<KeySet, JwksError> {
    /// One key that isn't understood must not cost the others.
    #[derive(Deserialize)]
    struct Document {
        keys: Vec<serde_json::Value>,
    }
    let failed = |source| JwksError::Read {
        path: path.into(),
        source,
    };
    let mut text = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE + 1)
        .read_to_end(&mut text)
        .map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|len| len > MAX_FILE) {
        return Err(JwksError::TooLarge { path: path.into() });
    }
    let document: Document = serde_json::from_slice(&text).map_err(|source| JwksError::Parse {
        path: path.into(),
        source,
    })?;
    let keys: Vec<Key> = document
        .keys
        .into_iter()
        .filter_map(|value| Key::from_jwk(&serde_json::from_value(value).ok()?))
        .collect();
    if keys.is_empty() {
        return Err(JwksError::NoUsableKey { path: path.into() });
    }
    Ok(KeySet(keys))
}
