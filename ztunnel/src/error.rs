//! Why a connection was refused or cut: one variant per step that can fail.

use std::io;
use std::sync::Arc;

use ambit_hbone::{AcceptError, DialError, OpenError, RequestError, StreamError};
use ambit_identity::CertError;
use ambit_net::{ConnectError, RelayError};
use ambit_policy::DeniedBy;
use ambit_state::RouteError;
use ambit_types::{FlowReason, WorkloadUid};

use crate::identify::UnknownPod;

/// The failure of one connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlowError {
    /// accept: the socket was gone before it could be asked.
    #[error("address of an accepted connection")]
    Accepted(#[source] io::Error),
    /// accept: the peer didn't get through TLS and HTTP/2.
    #[error(transparent)]
    Handshake(Box<AcceptError>),
    /// accept: our own certificate can't be had.
    #[error(transparent)]
    Certificate(#[from] CertError),
    /// accept: what came over a good connection is no CONNECT that we take.
    #[error(transparent)]
    Request(RequestError),
    /// identify: a static workload without a trust domain.
    #[error("workload {0} has no identity")]
    NoIdentity(WorkloadUid),
    /// identify.
    #[error(transparent)]
    Identify(#[from] UnknownPod),
    /// decide.
    #[error(transparent)]
    Route(#[from] Box<RouteError>),
    /// authorize: refused from the start.
    #[error("connection closed due to policy rejection: {0}")]
    Denied(DeniedBy),
    /// authorize: policy turned against it while it ran.
    #[error("connection closed due to policy change")]
    PolicyClosed,
    /// connect: plain TCP.
    #[error(transparent)]
    Connect(Box<ConnectError>),
    /// connect: no connection for a tunnel.
    #[error(transparent)]
    Dial(Arc<DialError>),
    /// connect: a tunnel.
    #[error(transparent)]
    Open(Box<OpenError>),
    /// connect: the client's tunnel went away before it was answered.
    #[error("answer CONNECT")]
    Answer(#[source] StreamError),
    /// connect: the application didn't take the PROXY protocol header.
    #[error("PROXY protocol header")]
    Announce(#[source] io::Error),
    /// copy.
    #[error(transparent)]
    Relay(RelayError),
    /// The proxy is going away.
    #[error("connection closed due to connection drain")]
    Drained,
}

impl FlowError {
    /// The one name of this failure.
    pub(crate) fn reason(&self) -> FlowReason {
        match self {
            Self::Accepted(_) | Self::Answer(_) | Self::Announce(_) => FlowReason::PeerUnreachable,
            Self::Handshake(error) => error.reason(),
            Self::Request(error) => error.reason(),
            Self::NoIdentity(_) => FlowReason::CertificateUnavailable,
            Self::Certificate(error) => error.reason(),
            Self::Identify(error) => error.reason(),
            Self::Route(error) => error.reason(),
            Self::Denied(_) => FlowReason::PolicyDenied,
            Self::PolicyClosed => FlowReason::PolicyClosed,
            Self::Connect(error) => error.reason(),
            Self::Dial(error) => error.reason(),
            Self::Open(error) => error.reason(),
            Self::Relay(error) => error.reason(),
            Self::Drained => FlowReason::Drained,
        }
    }

    /// The name under which a refusal is counted: what is wrong with a peer's
    /// certificate where that is known, else the reason.
    pub(crate) fn name(&self) -> &'static str {
        let fault = match self {
            Self::Handshake(error) => match &**error {
                AcceptError::Tls { fault } => Some(*fault),
                _ => None,
            },
            Self::Dial(error) => match &**error {
                DialError::Tls { fault, .. } => Some(*fault),
                _ => None,
            },
            _ => None,
        };
        match fault {
            Some(fault) if fault.reason() == FlowReason::PeerUntrusted => fault.as_str(),
            Some(_) | None => self.reason().as_str(),
        }
    }
}

impl From<RouteError> for FlowError {
    fn from(error: RouteError) -> Self {
        Self::Route(Box::new(error))
    }
}

impl From<ConnectError> for FlowError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(Box::new(error))
    }
}

impl From<OpenError> for FlowError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Dial(error) => Self::Dial(error),
            other => Self::Open(Box::new(other)),
        }
    }
}

impl From<AcceptError> for FlowError {
    fn from(error: AcceptError) -> Self {
        Self::Handshake(Box::new(error))
    }
}
