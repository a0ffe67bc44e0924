//! Why a TLS handshake failed, with one stable name each.

use std::io;

use ambit_types::FlowReason;
use rustls::{CertificateError, Error, OtherError};

/// What was wrong with a handshake. The names are stable: metrics and logs
/// carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum TlsFault {
    /// The peer presented no certificate.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// A certificate of the peer's chain has expired.
    #[error("the peer's certificate has expired")]
    Expired,
    /// A certificate of the peer's chain isn't valid yet.
    #[error("the peer's certificate is not valid yet")]
    NotYetValid,
    /// The chain doesn't lead to one of our roots; a self-signed certificate is this.
    #[error("the peer's certificate was not issued by a root of ours")]
    UnknownIssuer,
    /// No SPIFFE identity of the peer is in our trust domain.
    #[error("the peer's identity is not in our trust domain")]
    WrongTrustDomain,
    /// The peer is somebody else than expected.
    #[error("the peer's identity is none of the expected ones")]
    WrongIdentity,
    /// The certificate carries no SPIFFE identity.
    #[error("the peer's certificate carries no SPIFFE identity")]
    NotSpiffe,
    /// The certificate may not be used for this end of a connection.
    #[error("the peer's certificate is not meant for this use")]
    WrongPurpose,
    /// The certificate was revoked.
    #[error("the peer's certificate was revoked")]
    Revoked,
    /// The certificate or a signature is broken in another way.
    #[error("the peer's certificate is not acceptable")]
    BadCertificate,
    /// The peer ended the handshake with an alert: it doesn't accept us.
    #[error("the peer refused the handshake with an alert")]
    RefusedByPeer,
    /// The two ends share no version, suite, group or protocol.
    #[error("no TLS parameters in common with the peer")]
    Incompatible,
    /// What arrived isn't TLS, or breaks its rules.
    #[error("the peer does not speak TLS correctly")]
    Protocol,
    /// The peer went away during the handshake.
    #[error("the connection closed during the TLS handshake")]
    Closed,
    /// The handshake took too long.
    #[error("the TLS handshake took too long")]
    Timeout,
    /// Our own side failed: configuration, randomness, a missing key.
    #[error("our own side of TLS failed")]
    Internal,
}

impl TlsFault {
    /// All of them, for tables and tests.
    pub const ALL: &'static [Self] = &[
        Self::NoCertificate,
        Self::Expired,
        Self::NotYetValid,
        Self::UnknownIssuer,
        Self::WrongTrustDomain,
        Self::WrongIdentity,
        Self::NotSpiffe,
        Self::WrongPurpose,
        Self::Revoked,
        Self::BadCertificate,
        Self::RefusedByPeer,
        Self::Incompatible,
        Self::Protocol,
        Self::Closed,
        Self::Timeout,
        Self::Internal,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::WrongTrustDomain => "wrong_trust_domain",
            Self::WrongIdentity => "wrong_identity",
            Self::NotSpiffe => "not_spiffe",
            Self::WrongPurpose => "wrong_purpose",
            Self::Revoked => "revoked",
            Self::BadCertificate => "bad_certificate",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Incompatible => "incompatible",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }

    /// The reason that the flow's record carries.
    pub fn reason(self) -> FlowReason {
        match self {
            Self::NoCertificate
            | Self::Expired
            | Self::NotYetValid
            | Self::UnknownIssuer
            | Self::WrongTrustDomain
            | Self::WrongIdentity
            | Self::NotSpiffe
            | Self::WrongPurpose
            | Self::BadCertificate => FlowReason::PeerUntrusted,
            Self::Revoked => FlowReason::CertificateRevoked,
            Self::RefusedByPeer | Self::Incompatible | Self::Protocol | Self::Internal => {
                FlowReason::TlsFailure
            }
            Self::Closed => FlowReason::PeerUnreachable,
            Self::Timeout => FlowReason::HandshakeTimeout,
        }
    }
}

impl From<TlsFault> for Error {
    /// The verifier's answer to rustls, from which [`classify`] recovers the fault.
    fn from(fault: TlsFault) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(std::sync::Arc::new(
            fault,
        ))))
    }
}

/// The fault behind an error of rustls.
pub fn classify(error: &Error) -> TlsFault {
    match error {
        Error::InvalidCertificate(certificate) => classify_certificate(certificate),
        Error::NoCertificatesPresented => TlsFault::NoCertificate,
        Error::AlertReceived(_) => TlsFault::RefusedByPeer,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => TlsFault::Incompatible,
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::InvalidMessage(_)
        | Error::DecryptError
        | Error::PeerSentOversizedRecord
        | Error::PeerMisbehaved(_) => TlsFault::Protocol,
        Error::UnsupportedNameType => TlsFault::BadCertificate,
        _ => TlsFault::Internal,
    }
}

fn classify_certificate(error: &CertificateError) -> TlsFault {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFault::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsFault::NotYetValid
        }
        CertificateError::UnknownIssuer => TlsFault::UnknownIssuer,
        CertificateError::Revoked => TlsFault::Revoked,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            TlsFault::WrongPurpose
        }
        CertificateError::Other(OtherError(other)) => other
            .downcast_ref::<TlsFault>()
            .copied()
            .unwrap_or(TlsFault::BadCertificate),
        _ => TlsFault::BadCertificate,
    }
}

/// The fault behind an I/O error of a TLS stream.
pub fn classify_io(error: &io::Error) -> TlsFault {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    if let Some(tls) = inner {
        return classify(tls);
    }
    if let Some(fault) = error.get_ref().and_then(|e| e.downcast_ref::<TlsFault>()) {
        return *fault;
    }
    match error.kind() {
        io::ErrorKind::TimedOut => TlsFault::Timeout,
        io::ErrorKind::InvalidData => TlsFault::Protocol,
        _ => TlsFault::Closed,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rustls::AlertDescription;

    use super::*;

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = TlsFault::ALL.iter().map(|fault| fault.as_str()).collect();
        assert_eq!(names.len(), TlsFault::ALL.len());
    }

    #[test]
    fn a_fault_survives_the_way_through_rustls_and_io() {
        for fault in TlsFault::ALL {
            let tls = Error::from(*fault);
            assert_eq!(classify(&tls), *fault);
            assert_eq!(classify_io(&io::Error::other(tls)), *fault);
            assert_eq!(classify_io(&io::Error::other(*fault)), *fault);
        }
    }

    #[test]
    fn other_errors_have_their_own_names() {
        let alert = Error::AlertReceived(AlertDescription::CertificateExpired);
        let cases = [
            (classify(&alert), TlsFault::RefusedByPeer),
            (classify(&Error::DecryptError), TlsFault::Protocol),
            (
                classify(&Error::General("bug".to_owned())),
                TlsFault::Internal,
            ),
            (
                classify(&CertificateError::Revoked.into()),
                TlsFault::Revoked,
            ),
            (
                classify_io(&io::ErrorKind::TimedOut.into()),
                TlsFault::Timeout,
            ),
            (
                classify_io(&io::ErrorKind::ConnectionReset.into()),
                TlsFault::Closed,
            ),
        ];
        for (got, want) in cases {
            assert_eq!(got, want);
        }
        assert_eq!(TlsFault::Revoked.reason(), FlowReason::CertificateRevoked);
        assert_eq!(TlsFault::Expired.reason(), FlowReason::PeerUntrusted);
        assert_eq!(TlsFault::Protocol.reason(), FlowReason::TlsFailure);
    }
}
