//! Dials, with a deadline and perhaps with the client's own address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ambit_types::FlowReason;
use socket2::{SockRef, Socket};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tracing::debug;

use crate::sockets::{PodSockets, family, set_transparent};

/// Deadline of every dial (`ztunnel-contract` 1.2).
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket couldn't be made: namespace, mark, descriptors.
    #[error("socket for {peer}")]
    Socket {
        /// Where it was going.
        peer: SocketAddr,
        /// What failed.
        source: io::Error,
    },
    /// Refused, reset or unroutable.
    #[error("connect to {peer}")]
    Connect {
        /// Where it was going.
        peer: SocketAddr,
        /// What failed.
        source: io::Error,
    },
    /// Nobody answered in time. The text is the one that upstream logs.
    #[error("io error: deadline has elapsed")]
    Timeout {
        /// Where it was going.
        peer: SocketAddr,
    },
}

impl ConnectError {
    /// The reason that the flow's record carries.
    pub fn reason(&self) -> FlowReason {
        match self {
            Self::Socket { .. } | Self::Connect { .. } => FlowReason::PeerUnreachable,
            Self::Timeout { .. } => FlowReason::DialTimeout,
        }
    }
}

impl PodSockets {
    /// Dials from the pod's namespace.
    ///
    /// # Errors
    /// See [`ConnectError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket.
    pub async fn connect(
        &self,
        dst: SocketAddr,
        timeout: Duration,
    ) -> Result<TcpStream, ConnectError> {
        let socket = self.dial_socket(dst)?;
        finish(socket, dst, timeout).await
    }

    /// Dials with `src` as the source address, whoever owns it. If that can't
    /// be had the dial goes on without, and says so in the log; it isn't tried
    /// when the source is the destination, or is of another family.
    ///
    /// # Errors
    /// See [`ConnectError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket.
    pub async fn connect_from(
        &self,
        src: IpAddr,
        dst: SocketAddr,
        timeout: Duration,
    ) -> Result<TcpStream, ConnectError> {
        let mut socket = self.dial_socket(dst)?;
        let src = src.to_canonical();
        if src != dst.ip().to_canonical() && src.is_ipv4() == dst.is_ipv4() {
            let bound = set_transparent(&socket, src)
                .and_then(|()| socket.bind(&SocketAddr::new(src, 0).into()));
            if let Err(error) = bound {
                debug!(%src, %dst, %error, "source address not kept");
                // A half-prepared socket isn't used: a transparent one that is
                // bound to nothing would be answered to nobody.
                socket = self.dial_socket(dst)?;
            }
        }
        finish(socket, dst, timeout).await
    }

    /// A UDP socket in the pod's namespace that talks to `dst` alone, from a
    /// port of its own.
    ///
    /// # Errors
    /// See [`ConnectError`]; that nobody listens shows when it is used.
    pub async fn connect_datagram(&self, dst: SocketAddr) -> Result<UdpSocket, ConnectError> {
        let made = self
            .datagram_socket(family(dst))
            .and_then(|socket| UdpSocket::from_std(socket.into()));
        let socket = made.map_err(|source| ConnectError::Socket { peer: dst, source })?;
        let connected = socket.connect(dst).await;
        connected.map_err(|source| ConnectError::Connect { peer: dst, source })?;
        Ok(socket)
    }

    fn dial_socket(&self, dst: SocketAddr) -> Result<Socket, ConnectError> {
        let make = || {
            let socket = self.socket(family(dst))?;
            socket.set_tcp_nodelay(true)?;
            self.keepalive.apply(&SockRef::from(&socket))?;
            Ok(socket)
        };
        make().map_err(|source| ConnectError::Socket { peer: dst, source })
    }
}

async fn finish(
    socket: Socket,
    dst: SocketAddr,
    timeout: Duration,
) -> Result<TcpStream, ConnectError> {
    let socket = TcpSocket::from_std_stream(socket.into());
    match tokio::time::timeout(timeout, socket.connect(dst)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(ConnectError::Connect { peer: dst, source }),
        Err(_) => Err(ConnectError::Timeout { peer: dst }),
    }
}

#[cfg(test)]
mod tests;
