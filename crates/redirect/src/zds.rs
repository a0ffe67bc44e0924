//! ZDS: how a node agent hands pods to a proxy (`ztunnel-contract` 4.5).
//!
//! One datagram of a `SOCK_SEQPACKET` socket is one message; each request is
//! acknowledged before the next one is sent. [`client`] is the proxy's half,
//! [`server`] the agent's.

pub mod client;
mod decode;
pub mod server;
mod socket;
mod table;

use std::io;

pub use client::{ZdsClient, ZdsError, ZdsFault, ZdsRequest};
pub use server::{ZdsConfig, ZdsHandle, ZdsServer};
pub use table::ProxyState;

/// Who runs in a pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkloadInfo {
    /// Name of the pod.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
}

/// A datagram that isn't a message of the protocol.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Longer than the 1024 bytes that either side reads.
    #[error("datagram longer than {MAX_DATAGRAM} bytes")]
    Truncated,
    /// Ancillary data didn't fit: more than one descriptor.
    #[error("more than one descriptor came with a datagram")]
    ControlTruncated,
    /// Not a protobuf of the expected type.
    #[error("undecodable message")]
    Protobuf(#[source] prost::DecodeError),
    /// No payload, or one of a newer protocol.
    #[error("message without a known payload")]
    UnknownPayload,
    /// Descriptors where none belong, or not exactly one where one does.
    #[error("{count} descriptors came with {message}")]
    Descriptors {
        /// The message's name.
        message: &'static str,
        /// How many came.
        count: usize,
    },
    /// A hello with a version that isn't spoken here.
    #[error("protocol version {0}")]
    Version(i32),
}

/// Where a proxy finds its agent by default (`INPOD_UDS`).
pub const DEFAULT_SOCKET: &str = "/var/run/ztunnel/ztunnel.sock";

/// Both sides read into buffers of this size.
const MAX_DATAGRAM: usize = 1024;

fn truncated(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn closed() -> io::Error {
    io::Error::from(io::ErrorKind::UnexpectedEof)
}
