//! Judging a peer's certificate: a webpki chain to our own roots, the right
//! usage, then the SPIFFE rules of `ztunnel-contract` 2.1 and 2.2.
//!
//! Names other than SPIFFE URIs play no part, and there is no fallback: what
//! doesn't match is refused, with a [`TlsFault`] that says why.

use std::sync::Arc;

use ambit_types::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use crate::fault::TlsFault;

/// Which identity a peer must have.
#[derive(Debug, Clone)]
pub(crate) enum PeerRule {
    /// As a server we admit every workload of our own trust domain, and of its
    /// aliases.
    TrustDomains(Arc<[Arc<str>]>),
    /// As a client we want one of these URIs, byte for byte. An empty list
    /// matches nobody.
    OneOf(Arc<[String]>),
}

/// Verifies either end's certificates against one set of roots.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    roots: Arc<[TrustAnchor<'static>]>,
    algorithms: WebPkiSupportedAlgorithms,
    rule: PeerRule,
}

impl PeerVerifier {
    pub(crate) fn new(
        roots: Arc<[TrustAnchor<'static>]>,
        provider: &CryptoProvider,
        rule: PeerRule,
    ) -> Self {
        Self {
            roots,
            algorithms: provider.signature_verification_algorithms,
            rule,
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        let leaf = EndEntityCert::try_from(leaf).map_err(chain_error)?;
        leaf.verify_for_usage(
            self.algorithms.all,
            &self.roots,
            intermediates,
            now,
            usage,
            None,
            None,
        )
        .map_err(chain_error)?;
        self.rule.check(leaf.valid_uri_names())
    }
}

impl PeerRule {
    fn check<'a>(&self, uris: impl Iterator<Item = &'a str>) -> Result<(), Error> {
        // SANs that aren't SPIFFE IDs of our grammar are skipped.
        let mut ids = uris
            .filter_map(|uri| Some((uri, uri.parse::<SpiffeId>().ok()?)))
            .peekable();
        if ids.peek().is_none() {
            return Err(TlsFault::NotSpiffe.into());
        }
        match self {
            Self::TrustDomains(domains) => ids
                .any(|(_, id)| domains.contains(id.trust_domain()))
                .then_some(())
                .ok_or_else(|| TlsFault::WrongTrustDomain.into()),
            Self::OneOf(expected) => ids
                .any(|(uri, _)| expected.iter().any(|want| want == uri))
                .then_some(())
                .ok_or_else(|| TlsFault::WrongIdentity.into()),
        }
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now, KeyUsage::server_auth())
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: a peer has one certificate, and the hints cost bytes in
        // every handshake.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now, KeyUsage::client_auth())
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// rustls' own words where it has them, so that the peer gets the right alert.
fn chain_error(error: webpki::Error) -> Error {
    use webpki::Error as Chain;
    let certificate = match error {
        Chain::BadDer | Chain::BadDerTime | Chain::TrailingData(_) => CertificateError::BadEncoding,
        Chain::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        Chain::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        Chain::InvalidCertValidity => CertificateError::Expired,
        // Also what a self-signed CA certificate is, and a chain to another
        // mesh's root of the same name: its signature fails with our key.
        Chain::UnknownIssuer | Chain::CaUsedAsEndEntity | Chain::InvalidSignatureForPublicKey => {
            CertificateError::UnknownIssuer
        }
        Chain::CertRevoked => CertificateError::Revoked,
        Chain::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        _ => CertificateError::ApplicationVerificationFailure,
    };
    Error::InvalidCertificate(certificate)
}

/// The URI names of the leaf, in order, whatever their scheme. Empty for
/// something that isn't a certificate.
pub fn uri_names(certs: &[CertificateDer<'_>]) -> Vec<String> {
    let leaf = certs.first().map(EndEntityCert::try_from);
    match leaf {
        Some(Ok(leaf)) => leaf.valid_uri_names().map(str::to_owned).collect(),
        Some(Err(_)) | None => Vec::new(),
    }
}

/// The peer's identity for policy and logs: the first SPIFFE URI of the leaf
/// that parses. The chain must have been verified before.
pub fn peer_identity(certs: &[CertificateDer<'_>]) -> Option<SpiffeId> {
    let leaf = EndEntityCert::try_from(certs.first()?).ok()?;
    leaf.valid_uri_names().find_map(|uri| uri.parse().ok())
}
