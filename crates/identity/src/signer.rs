//! Where certificates come from: a CA that signs requests, or anything else
//! that yields a whole SVID.

use std::sync::Arc;
use std::time::Duration;

use ambit_types::SpiffeId;
use async_trait::async_trait;

use crate::csr::{CsrError, csr};
use crate::provider::TlsOptions;
use crate::svid::{Svid, SvidError};

/// Why a CA gave no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// It couldn't be reached, or the connection broke.
    #[error("the certificate authority can't be reached: {detail}")]
    Unreachable {
        /// The transport's words.
        detail: String,
    },
    /// It answered with an error.
    #[error("the certificate authority refused ({code}): {detail}")]
    Refused {
        /// Name of the gRPC status.
        code: &'static str,
        /// The CA's words.
        detail: String,
    },
    /// It didn't answer in time.
    #[error("the certificate authority did not answer within {0:?}")]
    Timeout(Duration),
    /// It answered with something that isn't a chain.
    #[error("the certificate authority's answer is not usable: {detail}")]
    BadAnswer {
        /// What is wrong with it.
        detail: String,
    },
}

/// A CA, as the certificate store sees it (`ztunnel-contract` 4.6).
#[async_trait]
pub trait CertificateSigner: Send + Sync + 'static {
    /// Has `csr_pem` signed for `id`. The answer is the leaf, then the
    /// intermediates, then the roots, the last possibly several in one text.
    async fn sign(
        &self,
        id: &SpiffeId,
        csr_pem: &str,
        ttl: Duration,
    ) -> Result<Vec<String>, SignError>;
}

/// Why there is no SVID.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The CA gave none.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The request couldn't be made.
    #[error("certificate request: {0}")]
    Csr(#[from] CsrError),
    /// What the CA gave can't be used.
    #[error("the certificate authority's answer is not usable: {0}")]
    Svid(#[from] SvidError),
    /// The source took too long.
    #[error("no certificate within {0:?}")]
    Timeout(Duration),
    /// The certificate is past its end already: one of the two clocks is wrong.
    #[error("the certificate that came has expired already")]
    AlreadyExpired,
    /// The source has a bug; it is asked again like one that failed.
    #[error("the source of certificates panicked")]
    Panicked,
}

/// Anything that yields SVIDs: a CA with our own keys ([`CsrSource`]), later
/// SPIRE's Workload API, which brings keys along.
#[async_trait]
pub trait SvidSource: Send + Sync + 'static {
    /// A fresh SVID for `id`, asking for the lifetime `ttl`.
    async fn fetch(&self, id: &SpiffeId, ttl: Duration) -> Result<Svid, FetchError>;
}

/// SVIDs from a CA: a new key and a new request for every fetch.
pub struct CsrSource {
    signer: Arc<dyn CertificateSigner>,
    tls: TlsOptions,
}

impl CsrSource {
    /// A source on top of `signer`; the SVIDs' TLS configurations follow `tls`.
    pub fn new(signer: Arc<dyn CertificateSigner>, tls: TlsOptions) -> Self {
        Self { signer, tls }
    }
}

#[async_trait]
impl SvidSource for CsrSource {
    async fn fetch(&self, id: &SpiffeId, ttl: Duration) -> Result<Svid, FetchError> {
        let (request, key) = csr(id)?;
        let chain = self.signer.sign(id, &request, ttl).await?;
        Ok(Svid::from_pem_with(&chain, key.as_pkcs8(), id, self.tls)?)
    }
}
