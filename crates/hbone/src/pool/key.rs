//! Who may share a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_types::SpiffeId;

/// The whole identity-and-address value of a connection, compared as such and
/// never by a hash alone. Expected identities are ordered: another list is
/// another connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Who dials.
    pub source: SpiffeId,
    /// Who may answer.
    pub expected: Arc<[SpiffeId]>,
    /// Where: the TCP destination of the tunnel.
    pub peer: SocketAddr,
    /// The client's address.
    pub source_ip: IpAddr,
}
