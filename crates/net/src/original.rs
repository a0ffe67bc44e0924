//! Where a captured connection was going.

use std::net::SocketAddr;

use ambit_types::canonical_socket;
use socket2::SockRef;
use tokio::net::TcpStream;

/// The destination before redirection: conntrack's IPv4 answer, then its IPv6
/// answer, else the socket's own address (TPROXY, or a direct connection).
/// Always canonical: an IPv4-mapped IPv6 address becomes the IPv4 one.
///
/// # Errors
/// The socket has no local address any more.
pub fn original_dst(stream: &TcpStream) -> std::io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let tracked = socket
        .original_dst_v4()
        .or_else(|_| socket.original_dst_v6())
        .ok()
        .and_then(|addr| addr.as_socket());
    let addr = match tracked {
        Some(addr) => addr,
        None => stream.local_addr()?,
    };
    Ok(canonical_socket(addr))
}
