//! The certificates of this node's workloads: fetched once, shared, renewed at
//! half-life (`ztunnel-contract` 5.2 and 5.3).
//!
//! [`book`] decides what is fetched when, without I/O; here is the one task that
//! does the fetching, on the runtime that made the store, and the handle that
//! any thread may ask. A certificate that can't be renewed is used to its end;
//! then callers are refused with the CA's last error.

mod book;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use ambit_runtime::Scope;
use ambit_types::{FlowReason, SpiffeId};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{debug, warn};

use crate::clock::{Clock, SystemClock};
use crate::dump::CertDump;
use crate::provider::TlsOptions;
use crate::signer::{CertificateSigner, CsrSource, FetchError, SvidSource};
use crate::svid::Svid;
use book::{Answer, Book, Finished, Now, Ticket};

/// Why a caller gets no certificate.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CertError {
    /// The source failed and no valid certificate is left.
    #[error("certificate of {id} unavailable: {cause}")]
    Unavailable {
        /// Whose certificate.
        id: SpiffeId,
        /// The last failure.
        cause: Arc<FetchError>,
    },
    /// None came in time.
    #[error("no certificate of {id} within {waited:?}")]
    Timeout {
        /// Whose certificate.
        id: SpiffeId,
        /// How long the caller waited.
        waited: Duration,
    },
    /// The node's last workload of that identity went away.
    #[error("certificate of {id} is no longer needed")]
    Forgotten {
        /// Whose certificate.
        id: SpiffeId,
    },
}

impl CertError {
    /// The reason that the flow's record carries.
    pub fn reason(&self) -> FlowReason {
        match self {
            Self::Unavailable { .. } | Self::Forgotten { .. } => FlowReason::CertificateUnavailable,
            Self::Timeout { .. } => FlowReason::CertificateTimeout,
        }
    }
}

/// What may be chosen about the store.
#[derive(Debug, Clone)]
pub struct CertStoreConfig {
    /// Lifetime to ask for: `SECRET_TTL`, 24 h.
    pub ttl: Duration,
    /// How long [`CertStore::svid`] waits at most: 10 s, shorter than any
    /// application's patience.
    pub wait: Duration,
    /// Deadline of one fetch: 30 s.
    pub fetch_deadline: Duration,
}

impl Default for CertStoreConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(24 * 60 * 60),
            wait: Duration::from_secs(10),
            fetch_deadline: Duration::from_secs(30),
        }
    }
}

/// Handle on the store; clones share it.
#[derive(Clone)]
pub struct CertStore {
    inner: Arc<Inner>,
}

struct Inner {
    source: Arc<dyn SvidSource>,
    config: CertStoreConfig,
    clock: Arc<dyn Clock>,
    book: Mutex<Book>,
    /// There is something new to fetch.
    wake: Notify,
}

impl Inner {
    fn now(&self) -> Now {
        Now {
            instant: Instant::now(),
            wall: self.clock.now(),
        }
    }
}

impl CertStore {
    /// A store on top of a CA, with the defaults. Its task lives in `scope`, on
    /// the current runtime.
    pub fn new(signer: Arc<dyn CertificateSigner>, ttl: Duration, scope: &Scope) -> Self {
        let source = Arc::new(CsrSource::new(signer, TlsOptions::default()));
        let config = CertStoreConfig {
            ttl,
            ..CertStoreConfig::default()
        };
        Self::with_source(source, config, Arc::new(SystemClock), scope)
    }

    /// A store on top of any source and clock.
    pub fn with_source(
        source: Arc<dyn SvidSource>,
        config: CertStoreConfig,
        clock: Arc<dyn Clock>,
        scope: &Scope,
    ) -> Self {
        let inner = Arc::new(Inner {
            source,
            config,
            clock,
            book: Mutex::new(Book::default()),
            wake: Notify::new(),
        });
        scope.spawn("certificates", fetch_loop(Arc::clone(&inner)));
        Self { inner }
    }

    /// The certificate of `id`, fetched now if there is none (priority
    /// `RealTime`). Waits no longer than the configured bound.
    ///
    /// # Errors
    /// There is none and none came.
    ///
    /// # Cancel safety
    /// Safe: the fetch goes on for others.
    pub async fn svid(&self, id: &SpiffeId) -> Result<Arc<Svid>, CertError> {
        let waited = self.inner.config.wait;
        let deadline = Instant::now() + waited;
        let unavailable = |cause| CertError::Unavailable {
            id: id.clone(),
            cause,
        };
        let answer = self.inner.book.lock().ask(id, &self.inner.now());
        let mut outcome = match answer {
            Answer::Ready(svid) => return Ok(svid),
            Answer::Refused(cause) => return Err(unavailable(cause)),
            Answer::Wait(outcome) => outcome,
        };
        self.inner.wake.notify_one();
        loop {
            match timeout_at(deadline, outcome.changed()).await {
                Err(_) => {
                    // An earlier failure says more than that time is up.
                    let timeout = || CertError::Timeout {
                        id: id.clone(),
                        waited,
                    };
                    let earlier = outcome.borrow().error();
                    return Err(earlier.map_or_else(timeout, unavailable));
                }
                Ok(Err(_)) => return Err(CertError::Forgotten { id: id.clone() }),
                Ok(Ok(())) => {}
            }
            let known = outcome.borrow_and_update();
            if let Some(svid) = known.valid_at(self.inner.clock.now()) {
                return Ok(svid);
            }
            if let Some(cause) = known.error() {
                return Err(unavailable(cause));
            }
        }
    }

    /// Has the certificate of `id` fetched before anybody asks (`Warmup`). Does
    /// nothing where it is known already or too many wait; the first connection
    /// fetches it then.
    pub fn prefetch(&self, id: &SpiffeId) {
        if self.inner.book.lock().prefetch(id, &self.inner.now()) {
            self.inner.wake.notify_one();
        } else {
            debug!(identity = %id, "not prefetched");
        }
    }

    /// Drops `id`: no workload of this node has it any more. Who waits for it is
    /// told so.
    pub fn forget(&self, id: &SpiffeId) {
        self.inner.book.lock().forget(id);
    }

    /// The `certificates` part of `config_dump`, by identity.
    pub fn dump(&self) -> Vec<CertDump> {
        self.inner.book.lock().dump(self.inner.clock.now())
    }
}

/// Fetches what the book says, a few at a time, for as long as the store lives.
async fn fetch_loop(inner: Arc<Inner>) {
    let mut running = FuturesUnordered::new();
    loop {
        let next = loop {
            let mut book = inner.book.lock();
            match book.start(&inner.now()) {
                Ok(ticket) => running.push(fetch(Arc::clone(&inner), ticket)),
                Err(next) => break next,
            }
        };
        tokio::select! {
            Some(finished) = running.next() => finish(&inner, finished),
            () = inner.wake.notified() => {}
            () = sleep_until(next) => {}
        }
    }
}

async fn fetch(inner: Arc<Inner>, ticket: Ticket) -> Finished {
    let deadline = inner.config.fetch_deadline;
    let fetching = inner.source.fetch(ticket.id(), inner.config.ttl);
    let result = match timeout(deadline, AssertUnwindSafe(fetching).catch_unwind()).await {
        Err(_) => Err(FetchError::Timeout(deadline)),
        Ok(Err(_panic)) => Err(FetchError::Panicked),
        Ok(Ok(result)) => result,
    };
    ticket.finish(result)
}

fn finish(inner: &Inner, finished: Finished) {
    let outcome = inner.book.lock().finish(finished, &inner.now());
    match outcome {
        book::Outcome::Renewed { id, not_after } => {
            let until = humantime::format_rfc3339_seconds(not_after);
            debug!(identity = %id, %until, "certificate received");
        }
        book::Outcome::Failed { id, error, retry } => {
            warn!(identity = %id, %error, retry_in = ?retry, "no certificate");
        }
        book::Outcome::NotNeeded => {}
    }
}
