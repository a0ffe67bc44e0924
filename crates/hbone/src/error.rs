//! What can go wrong, one enum per operation, each with one reason for the
//! flow's record.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ambit_identity::{CertError, TlsFault};
use ambit_net::ConnectError;
use ambit_types::FlowReason;
use http::{Method, StatusCode};

/// Why a connection to a peer couldn't be made. Shared by all the flows that
/// waited for it.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Our own certificate couldn't be had.
    #[error("own certificate")]
    Certificate(#[source] CertError),
    /// Nobody answered on the HBONE port. The hint is upstream's.
    #[error("connection to {peer} timed out, maybe a NetworkPolicy is blocking HBONE port 15008")]
    Timeout {
        /// Where it was going.
        peer: SocketAddr,
    },
    /// TCP failed.
    #[error("dial")]
    Connect(#[source] ConnectError),
    /// TLS failed.
    #[error("TLS with {peer}: {fault}")]
    Tls {
        /// Who it was with.
        peer: SocketAddr,
        /// What was wrong.
        fault: TlsFault,
    },
    /// TLS and HTTP/2 weren't up in time.
    #[error("handshake with {peer} took too long")]
    HandshakeTimeout {
        /// Who it was with.
        peer: SocketAddr,
    },
    /// HTTP/2 failed.
    #[error("HTTP/2 with {peer}")]
    Http2 {
        /// Who it was with.
        peer: SocketAddr,
        /// What was wrong.
        source: io::Error,
    },
    /// The dial was dropped before it ended: its pool went away.
    #[error("dial abandoned")]
    Abandoned,
}

impl DialError {
    /// The reason that the flow's record carries.
    pub fn reason(&self) -> FlowReason {
        match self {
            Self::Certificate(error) => error.reason(),
            Self::Timeout { .. } => FlowReason::HboneDialTimeout,
            Self::Connect(error) => error.reason(),
            Self::Tls { fault, .. } => fault.reason(),
            Self::HandshakeTimeout { .. } => FlowReason::HandshakeTimeout,
            Self::Http2 { .. } => FlowReason::Http2Failure,
            Self::Abandoned => FlowReason::Drained,
        }
    }
}

/// Why a tunnel couldn't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No connection to the peer.
    #[error("{0}")]
    Dial(Arc<DialError>),
    /// The connection ended before CONNECT was answered.
    #[error("connection to {peer} ended before CONNECT was answered: {fault}")]
    Refused {
        /// The peer.
        peer: SocketAddr,
        /// TLS said why: as a rule, the peer doesn't accept our certificate.
        fault: TlsFault,
    },
    /// HTTP/2 failed before CONNECT was answered.
    #[error("CONNECT to {peer}")]
    Http2 {
        /// The peer.
        peer: SocketAddr,
        /// What was wrong.
        source: io::Error,
    },
    /// The peer's answer wasn't 200.
    #[error("http status: {status}")]
    Rejected {
        /// The answer.
        status: StatusCode,
    },
    /// The peer didn't answer CONNECT.
    #[error("no answer to CONNECT from {peer}")]
    Timeout {
        /// The peer.
        peer: SocketAddr,
    },
    /// A part of the request can't travel in a header.
    #[error("request: {0}")]
    Request(#[from] StreamError),
    /// The pool holds as many connections as it may, all in use.
    #[error("the pool's limit of {limit} connections is reached")]
    Limit {
        /// The limit.
        limit: usize,
    },
    /// The pool was closed: its pod went away.
    #[error("pool draining")]
    Closed,
}

impl OpenError {
    /// The reason that the flow's record carries.
    pub fn reason(&self) -> FlowReason {
        match self {
            Self::Dial(error) => error.reason(),
            Self::Refused { fault, .. } => fault.reason(),
            Self::Http2 { .. } => FlowReason::Http2Failure,
            Self::Rejected { .. } => FlowReason::ConnectRejected,
            Self::Timeout { .. } => FlowReason::ConnectTimeout,
            Self::Request(_) => FlowReason::BadRequest,
            Self::Limit { .. } => FlowReason::LimitReached,
            Self::Closed => FlowReason::Drained,
        }
    }
}

/// Why an accepted connection didn't become an HBONE connection.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// TLS failed, or the peer isn't one of ours.
    #[error("TLS: {fault}")]
    Tls {
        /// What was wrong.
        fault: TlsFault,
    },
    /// TLS and the HTTP/2 preface weren't there in time.
    #[error("the handshake took too long")]
    Timeout,
    /// Too many handshakes were under way and this one was the oldest.
    #[error("too many unfinished handshakes")]
    Crowded,
    /// The HTTP/2 preface was wrong.
    #[error("HTTP/2 preface")]
    Http2 {
        /// What was wrong.
        source: io::Error,
    },
}

impl AcceptError {
    /// The reason that the record carries.
    pub fn reason(&self) -> FlowReason {
        match self {
            Self::Tls { fault } => fault.reason(),
            Self::Timeout => FlowReason::HandshakeTimeout,
            Self::Crowded => FlowReason::LimitReached,
            Self::Http2 { .. } => FlowReason::Http2Failure,
        }
    }
}

/// Why a request on an HBONE connection was refused before anybody saw it. It
/// has been answered already; this is for the log and the counters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a CONNECT.
    #[error("{method} instead of CONNECT")]
    Method {
        /// What it was.
        method: Method,
    },
    /// A CONNECT without a host and a port.
    #[error("authority {authority:?} is not of the form HOST:PORT")]
    Authority {
        /// What it was.
        authority: String,
    },
}

impl RequestError {
    /// The reason that the record carries.
    pub fn reason(&self) -> FlowReason {
        match self {
            Self::Method { .. } | Self::Authority { .. } => FlowReason::BadRequest,
        }
    }
}

/// How an HBONE connection failed after its handshake.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The peer stopped answering pings.
    #[error("no answer to pings")]
    PingTimeout,
    /// TCP, TLS or HTTP/2 failed.
    #[error("connection")]
    Io(#[source] io::Error),
}

/// Why a stream's head couldn't be sent.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A text that can't travel in a header.
    #[error("not a legal header value")]
    Header,
    /// The stream or its connection is gone.
    #[error("the stream is gone")]
    Gone,
}
