//! Keys that are fetched: which to fetch when, what is kept meanwhile (4.9).
//! Nothing here does I/O: [`KeyCache::wanted`] says what to fetch,
//! [`KeyCache::done`] is told how it went.
//!
//! A source is fetched at once when it is first seen, then every 20 minutes. A
//! failure is retried after 1 minute, then 2, and so on up to 60; the last good
//! keys stay meanwhile. A token that the keys can't verify asks for a fetch
//! earlier, at most every 30 seconds. Before the first good document there are
//! no keys: tokens are refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use serde_json::Value;

use crate::guard::{ForbiddenUrl, check_url};
use crate::json;
use crate::keys::{InvalidKeys, KeySet};
use crate::model::RemoteKeys;

/// Largest document, in bytes.
pub const MAX_DOCUMENT: usize = 512 * 1024;
/// Between two good fetches.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// After the first failure in a row; doubles.
const RETRY: Duration = Duration::from_secs(60);
/// Longest time after a failure.
const MAX_RETRY: Duration = Duration::from_secs(60 * 60);
/// Between two fetches that tokens ask for.
const ASKED: Duration = Duration::from_secs(30);

/// What to fetch with a GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Whose keys.
    pub source: Arc<RemoteKeys>,
    /// The URL, checked by [`check_url`]; each address that its host resolves
    /// to must pass [`is_forbidden`](crate::is_forbidden), too. Redirects are
    /// failures, never followed.
    pub url: String,
    /// What comes back.
    pub step: FetchStep,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchStep {
    /// An OIDC discovery document, which names the keys'.
    Discovery,
    /// Keys.
    Keys,
}

/// Why a fetch brought no document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchFailure {
    /// No connection, or it broke. The text is the transport's.
    #[error("{0}")]
    Transport(String),
    /// It took longer than [`RemoteKeys::timeout`].
    #[error("timed out")]
    Timeout,
    /// Another status than 200.
    #[error("status {0}")]
    Status(u16),
    /// A redirect.
    #[error("redirects are not followed")]
    Redirect,
    /// More than [`MAX_DOCUMENT`] bytes.
    #[error("the document is larger than {MAX_DOCUMENT} bytes")]
    TooLarge,
    /// The host resolves to an address that keys are never fetched from.
    #[error(transparent)]
    Forbidden(#[from] ForbiddenUrl),
}

/// Why there are no new keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// No document.
    #[error("fetch the document")]
    Fetch(#[from] FetchFailure),
    /// A document without usable keys.
    #[error("read the keys")]
    Keys(#[from] InvalidKeys),
    /// Not a discovery document of this issuer with a `jwks_uri`.
    #[error("the discovery document doesn't name keys of this issuer")]
    Discovery,
    /// The discovery document names a URL that nothing is fetched from.
    #[error("the discovery document names {url}")]
    Discovered {
        /// The URL.
        url: String,
        /// What is wrong with it.
        source: ForbiddenUrl,
    },
}

/// The state of one source, for `/config_dump`.
#[derive(Debug, Clone)]
pub struct SourceStatus {
    /// Whose keys.
    pub source: Arc<RemoteKeys>,
    /// How many keys are usable now.
    pub keys: usize,
    /// Failures in a row.
    pub failures: u32,
    /// The last failure.
    pub error: Option<KeysError>,
}

#[derive(Debug)]
struct Entry {
    keys: Option<Arc<KeySet>>,
    due: Instant,
    in_flight: bool,
    /// A fetch has ended, however.
    tried: bool,
    failures: u32,
    asked: Option<Instant>,
    error: Option<KeysError>,
}

/// The keys of every remote source that the configuration names.
#[derive(Debug, Default)]
pub struct KeyCache {
    entries: RwLock<HashMap<Arc<RemoteKeys>, Entry>>,
    version: AtomicU64,
}

/// What is known of a source's keys.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    Keys(Arc<KeySet>),
    /// The first fetch hasn't ended.
    Coming,
    /// There are none.
    Failed,
}

impl KeyCache {
    /// Keeps exactly these sources: new ones are wanted at once, others go.
    pub fn retain(&self, sources: impl IntoIterator<Item = Arc<RemoteKeys>>, now: Instant) {
        let mut entries = self.entries.write();
        let mut kept = HashMap::new();
        for source in sources {
            let known = entries.remove(&source);
            let entry = known.unwrap_or_else(|| Entry {
                keys: None,
                due: now,
                in_flight: false,
                tried: false,
                failures: 0,
                asked: None,
                error: None,
            });
            // A source can be named more than once.
            kept.entry(source).or_insert(entry);
        }
        *entries = kept;
    }

    /// What to fetch now. Each is in flight until [`done`](Self::done), which must
    /// be called for every one, also where a fetch was cancelled.
    pub fn wanted(&self, now: Instant) -> Vec<Fetch> {
        let mut entries = self.entries.write();
        let due = entries
            .iter_mut()
            .filter(|(_, entry)| !entry.in_flight && entry.due <= now);
        due.map(|(source, entry)| {
            entry.in_flight = true;
            Fetch {
                source: Arc::clone(source),
                url: source.url.clone(),
                step: match source.discover {
                    Some(_) => FetchStep::Discovery,
                    None => FetchStep::Keys,
                },
            }
        })
        .collect()
    }

    /// When [`wanted`](Self::wanted) has something next; none without sources
    /// that aren't in flight.
    pub fn next_due(&self) -> Option<Instant> {
        let entries = self.entries.read();
        let idle = entries.values().filter(|entry| !entry.in_flight);
        idle.map(|entry| entry.due).min()
    }

    /// Changes whenever a fetch ends: whoever waits for keys looks again then.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// A fetch has ended. After a discovery document the next fetch is returned,
    /// to be done at once.
    ///
    /// # Errors
    /// Why there are no new keys; older ones stay.
    pub fn done(
        &self,
        fetch: &Fetch,
        result: Result<&[u8], FetchFailure>,
        now: Instant,
    ) -> Result<Option<Fetch>, KeysError> {
        let read = result
            .map_err(KeysError::from)
            .and_then(|document| read(fetch, document));
        match read {
            Ok(Read::Next(next)) => Ok(Some(next)),
            Ok(Read::Keys(keys)) => {
                self.end(fetch, now, Ok(keys));
                Ok(None)
            }
            Err(error) => {
                self.end(fetch, now, Err(error.clone()));
                Err(error)
            }
        }
    }

    fn end(&self, fetch: &Fetch, now: Instant, result: Result<KeySet, KeysError>) {
        if let Some(entry) = self.entries.write().get_mut(&fetch.source) {
            entry.in_flight = false;
            entry.tried = true;
            match result {
                Ok(keys) => {
                    entry.keys = Some(Arc::new(keys));
                    entry.failures = 0;
                    entry.error = None;
                    entry.due = now + REFRESH;
                }
                Err(error) => {
                    let wait = RETRY.saturating_mul(1 << entry.failures.min(6));
                    entry.failures = entry.failures.saturating_add(1);
                    entry.error = Some(error);
                    entry.due = now + wait.min(MAX_RETRY);
                }
            }
        }
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The state of every source, for `/config_dump`.
    pub fn status(&self) -> Vec<SourceStatus> {
        let entries = self.entries.read();
        entries
            .iter()
            .map(|(source, entry)| SourceStatus {
                source: Arc::clone(source),
                keys: entry.keys.as_ref().map_or(0, |keys| keys.len()),
                failures: entry.failures,
                error: entry.error.clone(),
            })
            .collect()
    }

    pub(crate) fn known(&self, source: &RemoteKeys) -> Known {
        match self.entries.read().get(source) {
            Some(Entry {
                keys: Some(keys), ..
            }) => Known::Keys(Arc::clone(keys)),
            Some(entry) if !entry.tried => Known::Coming,
            _ => Known::Failed,
        }
    }

    /// A token can't be verified with what is here. True if that brought the
    /// next fetch forward: then [`wanted`](Self::wanted) has it.
    pub(crate) fn ask(&self, source: &RemoteKeys, now: Instant) -> bool {
        let mut entries = self.entries.write();
        let Some(entry) = entries.get_mut(source) else {
            return false;
        };
        let lately = entry.asked.is_some_and(|at| now < at + ASKED);
        if lately || entry.in_flight || entry.due <= now {
            return false;
        }
        entry.asked = Some(now);
        entry.due = now;
        true
    }
}

enum Read {
    Keys(KeySet),
    Next(Fetch),
}

fn read(fetch: &Fetch, document: &[u8]) -> Result<Read, KeysError> {
    if document.len() > MAX_DOCUMENT {
        return Err(FetchFailure::TooLarge.into());
    }
    if fetch.step == FetchStep::Keys {
        return Ok(Read::Keys(KeySet::parse(document)?));
    }
    let document = json::object(document).ok_or(KeysError::Discovery)?;
    let text = |name| document.get(name).and_then(Value::as_str);
    // OpenID Connect Discovery 4.3: it must speak of the issuer that was asked for.
    if text("issuer") != fetch.source.discover.as_deref() {
        return Err(KeysError::Discovery);
    }
    let url = text("jwks_uri").ok_or(KeysError::Discovery)?.to_owned();
    if let Err(source) = check_url(&url) {
        return Err(KeysError::Discovered { url, source });
    }
    Ok(Read::Next(Fetch {
        source: Arc::clone(&fetch.source),
        url,
        step: FetchStep::Keys,
    }))
}
