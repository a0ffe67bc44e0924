//! Why an endpoint couldn't be reached.

use std::io;

use ambit_hbone::OpenError;
use ambit_net::ConnectError;

/// One enum for all transports; the text goes into logs, and into the body of
/// the answer where 1.10 says so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialFailure {
    /// Plain TCP.
    #[error("{0}")]
    Connect(#[source] ConnectError),
    /// The tunnel.
    #[error("{0}")]
    Hbone(#[source] OpenError),
    /// The PROXY header couldn't be sent.
    #[error("PROXY header")]
    ProxyHeader(#[source] io::Error),
    /// TLS that we originate.
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    /// It wasn't up in time.
    #[error("TLS handshake timeout")]
    TlsTimeout,
    /// HTTP wasn't up.
    #[error("HTTP handshake")]
    Http(#[source] hyper::Error),
    /// The limit of connections is reached.
    #[error("overflow")]
    Overflow,
}

impl DialFailure {
    /// The reset reason in Envoy's words, for the body of 1.10.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Connect(ConnectError::Timeout { .. }) | Self::TlsTimeout => "connection timeout",
            Self::Overflow => "overflow",
            Self::Connect(_)
            | Self::Hbone(_)
            | Self::ProxyHeader(_)
            | Self::Tls(_)
            | Self::Http(_) => "remote connection failure",
        }
    }
}
