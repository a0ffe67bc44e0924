//! Why a flow was refused or ended: one closed list, and one table per consumer.

use serde::Serialize;

/// Which side of a pod a flow was captured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The pod accepted it: 15006 and 15008.
    Inbound,
    /// The pod opened it: 15001.
    Outbound,
}

impl Direction {
    /// Value of the metric label `reporter`.
    pub fn reporter(self) -> &'static str {
        match self {
            Self::Inbound => "destination",
            Self::Outbound => "source",
        }
    }

    /// Value of the access-log field `direction`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// Value of the metric label `response_flags` (`ztunnel-contract` 3.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResponseFlag {
    /// Success, and connections cut by a drain.
    None,
    /// Refused by policy, at the start or later.
    Deny,
    /// Everything that is not listed elsewhere.
    Connect,
    /// TLS could not be set up.
    TlsFailure,
    /// HTTP/2 could not be set up.
    H2HandshakeFailure,
    /// The dial to the HBONE port timed out.
    NetworkPolicy,
    /// Our own certificate could not be had.
    IdentityError,
    /// A certificate revocation list cut the tunnel.
    CertRevoked,
}

impl ResponseFlag {
    /// The label's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
            Self::CertRevoked => "CERT_REVOKED",
        }
    }
}

/// Whose fault a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The other end of the connection.
    Peer,
    /// What an operator wrote or what the control plane sent.
    Configuration,
    /// The network, the kernel, a missing control plane.
    Environment,
    /// This program: limits and lifecycle.
    Us,
}

/// Every reason for which a flow is refused or cut. Errors map onto it with an
/// exhaustive match; HTTP status, flag and label come from here alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FlowReason {
    /// A policy denied it before it began.
    PolicyDenied,
    /// A policy turned against it while it ran.
    PolicyClosed,
    /// The workload that opened or accepted it isn't known here (yet).
    UnknownLocalWorkload,
    /// A name or an address that the request needs isn't known.
    UnknownDestination,
    /// No endpoint of the service may be used, or its port is unknown.
    NoHealthyUpstream,
    /// The waypoint that the destination names can't be resolved or isn't ready.
    UnknownWaypoint,
    /// The destination needs a path that this build doesn't have (another network).
    Unsupported,
    /// The connection would come back to this proxy.
    RecursiveCall,
    /// CONNECT names an address that isn't this pod's.
    AddressMismatch,
    /// Not a CONNECT, or one without a usable authority.
    BadRequest,
    /// The peer's answer to CONNECT wasn't 200.
    ConnectRejected,
    /// The TCP connection was refused, reset or unroutable.
    PeerUnreachable,
    /// A plain TCP dial took too long.
    DialTimeout,
    /// The dial to the HBONE port took too long.
    HboneDialTimeout,
    /// A TLS or HTTP/2 handshake took too long.
    HandshakeTimeout,
    /// CONNECT wasn't answered in time.
    ConnectTimeout,
    /// The peer's certificate isn't one that we accept.
    PeerUntrusted,
    /// TLS failed in another way: garbage, no common version.
    TlsFailure,
    /// HTTP/2 failed.
    Http2Failure,
    /// Our own certificate couldn't be had.
    CertificateUnavailable,
    /// The wait for our own certificate took too long.
    CertificateTimeout,
    /// The peer's certificate was revoked.
    CertificateRevoked,
    /// A bound on connections, handshakes or streams was reached.
    LimitReached,
    /// The copy between the two sockets failed.
    CopyFailed,
    /// This proxy is going away.
    Drained,
}

impl FlowReason {
    /// All of them, for tables and tests.
    pub const ALL: &'static [Self] = &[
        Self::PolicyDenied,
        Self::PolicyClosed,
        Self::UnknownLocalWorkload,
        Self::UnknownDestination,
        Self::NoHealthyUpstream,
        Self::UnknownWaypoint,
        Self::Unsupported,
        Self::RecursiveCall,
        Self::AddressMismatch,
        Self::BadRequest,
        Self::ConnectRejected,
        Self::PeerUnreachable,
        Self::DialTimeout,
        Self::HboneDialTimeout,
        Self::HandshakeTimeout,
        Self::ConnectTimeout,
        Self::PeerUntrusted,
        Self::TlsFailure,
        Self::Http2Failure,
        Self::CertificateUnavailable,
        Self::CertificateTimeout,
        Self::CertificateRevoked,
        Self::LimitReached,
        Self::CopyFailed,
        Self::Drained,
    ];

    /// The name that logs and our own `reason` labels carry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PolicyDenied => "policy_denied",
            Self::PolicyClosed => "policy_closed",
            Self::UnknownLocalWorkload => "unknown_local_workload",
            Self::UnknownDestination => "unknown_destination",
            Self::NoHealthyUpstream => "no_healthy_upstream",
            Self::UnknownWaypoint => "unknown_waypoint",
            Self::Unsupported => "unsupported",
            Self::RecursiveCall => "recursive_call",
            Self::AddressMismatch => "address_mismatch",
            Self::BadRequest => "bad_request",
            Self::ConnectRejected => "connect_rejected",
            Self::PeerUnreachable => "peer_unreachable",
            Self::DialTimeout => "dial_timeout",
            Self::HboneDialTimeout => "hbone_dial_timeout",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::ConnectTimeout => "connect_timeout",
            Self::PeerUntrusted => "peer_untrusted",
            Self::TlsFailure => "tls_failure",
            Self::Http2Failure => "http2_failure",
            Self::CertificateUnavailable => "certificate_unavailable",
            Self::CertificateTimeout => "certificate_timeout",
            Self::CertificateRevoked => "certificate_revoked",
            Self::LimitReached => "limit_reached",
            Self::CopyFailed => "copy_failed",
            Self::Drained => "drained",
        }
    }

    /// Istio's `response_flags` (`ztunnel-contract` 3.6).
    pub fn flag(self) -> ResponseFlag {
        match self {
            Self::PolicyDenied | Self::PolicyClosed => ResponseFlag::Deny,
            Self::Drained => ResponseFlag::None,
            Self::HboneDialTimeout => ResponseFlag::NetworkPolicy,
            Self::TlsFailure | Self::PeerUntrusted => ResponseFlag::TlsFailure,
            Self::Http2Failure => ResponseFlag::H2HandshakeFailure,
            Self::CertificateUnavailable | Self::CertificateTimeout => ResponseFlag::IdentityError,
            Self::CertificateRevoked => ResponseFlag::CertRevoked,
            Self::UnknownLocalWorkload
            | Self::UnknownDestination
            | Self::NoHealthyUpstream
            | Self::UnknownWaypoint
            | Self::Unsupported
            | Self::RecursiveCall
            | Self::AddressMismatch
            | Self::BadRequest
            | Self::ConnectRejected
            | Self::PeerUnreachable
            | Self::DialTimeout
            | Self::HandshakeTimeout
            | Self::ConnectTimeout
            | Self::LimitReached
            | Self::CopyFailed => ResponseFlag::Connect,
        }
    }

    /// HTTP status of the answer to CONNECT (`ztunnel-contract` 2.5).
    pub fn connect_status(self) -> u16 {
        match self {
            Self::BadRequest | Self::AddressMismatch => 400,
            Self::PolicyDenied | Self::PolicyClosed => 401,
            _ => 503,
        }
    }

    /// Whose fault it is.
    pub fn fault(self) -> Fault {
        match self {
            Self::BadRequest
            | Self::AddressMismatch
            | Self::PeerUntrusted
            | Self::TlsFailure
            | Self::Http2Failure
            | Self::HandshakeTimeout
            | Self::ConnectTimeout
            | Self::ConnectRejected
            | Self::CertificateRevoked
            | Self::RecursiveCall => Fault::Peer,
            Self::PolicyDenied
            | Self::PolicyClosed
            | Self::UnknownDestination
            | Self::NoHealthyUpstream
            | Self::UnknownWaypoint
            | Self::Unsupported => Fault::Configuration,
            Self::UnknownLocalWorkload
            | Self::PeerUnreachable
            | Self::DialTimeout
            | Self::HboneDialTimeout
            | Self::CertificateUnavailable
            | Self::CertificateTimeout
            | Self::CopyFailed => Fault::Environment,
            Self::LimitReached | Self::Drained => Fault::Us,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        let names: HashSet<_> = FlowReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(names.len(), FlowReason::ALL.len());
        assert!(names.iter().all(|n| {
            n.bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'2')
        }));
    }

    #[test]
    fn statuses_follow_the_contract() {
        assert_eq!(FlowReason::PolicyDenied.connect_status(), 401);
        assert_eq!(FlowReason::AddressMismatch.connect_status(), 400);
        assert_eq!(FlowReason::NoHealthyUpstream.connect_status(), 503);
        assert_eq!(FlowReason::PeerUnreachable.connect_status(), 503);
    }
}
