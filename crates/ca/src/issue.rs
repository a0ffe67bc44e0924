//! A signer and what it issues (`control-plane-contract` 7.4).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    SigningKey,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::der::{self, AltName};

/// Lifetime where none is asked for.
pub const DEFAULT_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest lifetime that is granted to a workload.
pub const MAX_TTL: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Leaves begin this much in the past, for clocks that lag.
pub(crate) const BACKDATE: Duration = Duration::from_secs(2 * 60);

/// Why a request isn't signed.
#[derive(Debug, thiserror::Error)]
pub enum SignCsrError {
    /// Not a PEM PKCS#10 request.
    #[error("the certificate request can't be parsed")]
    Malformed,
    /// The request doesn't prove that its sender has the key.
    #[error("the signature of the certificate request doesn't verify")]
    BadSignature,
    /// A kind of key that isn't signed.
    #[error("keys of this kind aren't signed: EC P-256, P-384, RSA and Ed25519 are")]
    UnsupportedKey,
    /// An RSA key of another size.
    #[error("RSA keys of {0} bits aren't signed: 2048 to 8192 are")]
    RsaSize(usize),
    /// A longer life than allowed; not cut down silently.
    #[error("a lifetime of {}s is above the maximum of {}s", asked.as_secs(), max.as_secs())]
    TtlTooLong {
        /// What was asked for.
        asked: Duration,
        /// What is granted at most.
        max: Duration,
    },
    /// The identity can't be written into a certificate.
    #[error("{0:?} is not a name that a certificate can carry")]
    Name(String),
    /// The signing certificate is past its end.
    #[error("the signing certificate has expired")]
    SignerExpired,
    /// The crypto library failed.
    #[error("signing")]
    Crypto(#[source] rcgen::Error),
    /// No randomness for a serial number.
    #[error("no random serial number")]
    Random,
}

impl SignCsrError {
    /// Whether the caller can mend it: `InvalidArgument` rather than `Internal`.
    pub fn is_callers_fault(&self) -> bool {
        match self {
            Self::Malformed
            | Self::BadSignature
            | Self::UnsupportedKey
            | Self::RsaSize(_)
            | Self::Name(_)
            | Self::TtlTooLong { .. } => true,
            Self::SignerExpired | Self::Crypto(_) | Self::Random => false,
        }
    }
}

/// A CA certificate with its key and its way up to the roots.
#[derive(Clone)]
pub(crate) struct Signer {
    pub(crate) key: Arc<Zeroizing<KeyPair>>,
    pub(crate) algorithm: SignatureOid,
    /// Subject of the CA certificate, as it is encoded there.
    pub(crate) name: Vec<u8>,
    pub(crate) key_id: Option<Vec<u8>>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// From the CA certificate up, without roots; empty for a root that signs itself.
    pub(crate) intermediates: Vec<CertificateDer<'static>>,
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// Roots that are published beside: of a key that isn't signed with yet.
    pub(crate) held_back: Vec<CertificateDer<'static>>,
}

/// A certificate that was signed, without its way up.
pub(crate) struct Leaf {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) serial: [u8; 16],
    pub(crate) not_after: SystemTime,
}

/// How a signer signs: always with SHA-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignatureOid {
    EcdsaSha256,
    EcdsaSha384,
    Ed25519,
    RsaSha256,
}

impl SignatureOid {
    /// `None` for keys that aren't supported as signers (P-521).
    pub(crate) fn of(key: &KeyPair) -> Option<Self> {
        let algorithm = rcgen::PublicKeyData::algorithm(key);
        [
            (&PKCS_ECDSA_P256_SHA256, Self::EcdsaSha256),
            (&PKCS_ECDSA_P384_SHA384, Self::EcdsaSha384),
            (&PKCS_ED25519, Self::Ed25519),
            (&PKCS_RSA_SHA256, Self::RsaSha256),
        ]
        .into_iter()
        .find_map(|(known, oid)| (algorithm == known).then_some(oid))
    }

    fn encode(self) -> Vec<u8> {
        match self {
            Self::EcdsaSha256 => {
                der::sequence(&[&der::oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])])
            }
            Self::EcdsaSha384 => {
                der::sequence(&[&der::oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3])])
            }
            Self::Ed25519 => der::sequence(&[&der::oid(&[0x2b, 0x65, 0x70])]),
            Self::RsaSha256 => {
                let oid = der::oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11]);
                der::sequence(&[&oid, &der::null()])
            }
        }
    }
}

impl Signer {
    /// Whether both are one certificate and key, with one way up.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.key.public_key_raw() == other.key.public_key_raw()
            && self.not_before == other.not_before
            && self.not_after == other.not_after
            && self.intermediates == other.intermediates
    }

    /// A leaf for the given key and names.
    pub(crate) fn issue(
        &self,
        public_key: &[u8],
        names: &[AltName],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, SignCsrError> {
        let leaf = self.issue_leaf(public_key, names, ttl, now)?;
        Ok(leaf.certificate)
    }

    /// The same, with what is written into logs.
    pub(crate) fn issue_leaf(
        &self,
        public_key: &[u8],
        names: &[AltName],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Leaf, SignCsrError> {
        if now >= self.not_after {
            return Err(SignCsrError::SignerExpired);
        }
        if let Some(name) = names.iter().find_map(AltName::unwritable) {
            return Err(SignCsrError::Name(name.to_owned()));
        }
        let mut serial = [0; 16];
        aws_lc_rs::rand::fill(&mut serial).map_err(|_| SignCsrError::Random)?;
        let not_after = (now + ttl).min(self.not_after);
        let validity = der::sequence(&[&der::time(now - BACKDATE), &der::time(not_after)]);
        let key_id = self.key_id.as_deref().map(der::authority_key_id);
        let extensions = der::sequence(&[
            &der::leaf_key_usage(),
            &der::leaf_extended_key_usage(),
            &der::not_a_ca(),
            &key_id.unwrap_or_default(),
            &der::alt_names(names),
        ]);
        let algorithm = self.algorithm.encode();
        let version_3 = der::explicit(0, &der::unsigned(&[2]));
        let subject = der::sequence(&[]);
        let signed = der::sequence(&[
            &version_3,
            &der::unsigned(&serial),
            &algorithm,
            &self.name,
            &validity,
            &subject,
            public_key,
            &der::explicit(3, &extensions),
        ]);
        let signature = self.key.sign(&signed).map_err(SignCsrError::Crypto)?;
        let certificate = der::sequence(&[&signed, &algorithm, &der::bits(&signature)]);
        Ok(Leaf {
            certificate: certificate.into(),
            serial,
            not_after,
        })
    }
}
