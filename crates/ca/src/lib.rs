//! The certificate authority: roots, checks of certificate requests, signing.
//!
//! Owns the signing key. Doesn't own who may ask for which identity: that is
//! decided before [`CertificateAuthority::sign`] is called.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ambit_types::SpiffeId;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why the authority can't start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is missing.
    #[error("{} is missing: the CA directory must hold ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
}

/// Why a request isn't signed.
#[derive(Debug, thiserror::Error)]
pub enum SignCsrError {
    /// The request isn't a PEM PKCS#10 request.
    #[error("the certificate request can't be parsed")]
    Malformed,
}

/// Signs workload certificates (`control-plane-contract` 7).
pub struct CertificateAuthority(());

impl CertificateAuthority {
    /// The self-signed authority kept in `state_dir`; made on the first start.
    ///
    /// # Errors
    /// The state can't be read, written, or isn't consistent.
    pub fn self_signed(state_dir: &Path, trust_domain: &str) -> Result<Self, LoadError> {
        let _ = trust_domain;
        Err(LoadError::Missing {
            path: state_dir.into(),
        })
    }

    /// The authority of a plugged-in directory with the standard four files.
    ///
    /// # Errors
    /// A file is missing, or the files don't fit together.
    pub fn plugged_in(dir: &Path) -> Result<Self, LoadError> {
        Err(LoadError::Missing { path: dir.into() })
    }

    /// The root bundle to publish, PEM.
    pub fn roots_pem(&self) -> String {
        String::new()
    }

    /// Signs `csr_pem` for `id`: leaf, each intermediate, the root bundle.
    ///
    /// # Errors
    /// The request or the lifetime isn't acceptable, or the signer has expired.
    pub fn sign(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        ttl: Option<Duration>,
    ) -> Result<Vec<String>, SignCsrError> {
        let _ = (csr_pem, id, ttl);
        Err(SignCsrError::Malformed)
    }

    /// A certificate with key for the control plane's own listener.
    ///
    /// # Errors
    /// As [`CertificateAuthority::sign`].
    pub fn server_certificate(
        &self,
        dns: &[String],
        ips: &[IpAddr],
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), SignCsrError> {
        let _ = (dns, ips);
        Err(SignCsrError::Malformed)
    }
}
