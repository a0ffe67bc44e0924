//! Listeners in a pod's namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ambit_types::canonical_socket;
use socket2::{Domain, SockRef, Socket};
use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

use crate::sockets::{PodSockets, Transparent};

/// How to listen.
#[derive(Debug, Clone, Copy)]
pub struct ListenOptions {
    /// Bind address; none is the wildcard of the pod's families.
    pub ip: Option<IpAddr>,
    /// Connections that may wait to be accepted. The contract's 128 is a
    /// minimum: one thread's burst of a few hundred connects overflows it, and
    /// an overflow costs each client a SYN retransmission of one second.
    pub backlog: u32,
    /// Accepted sockets have TCP keepalive. HBONE has pings instead.
    pub keepalive: bool,
    /// Apply [`PodSockets::transparent`] here.
    pub transparent: bool,
}

impl Default for ListenOptions {
    /// A captured port: wildcard, keepalive, transparent.
    fn default() -> Self {
        Self {
            ip: None,
            backlog: 1024,
            keepalive: true,
            transparent: true,
        }
    }
}

/// Why a listener couldn't be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The socket couldn't be made: namespace, mark, descriptors.
    #[error("socket for port {port}")]
    Socket {
        /// The port.
        port: u16,
        /// What failed.
        source: io::Error,
    },
    /// Source preservation is required and the kernel refuses it.
    #[error("transparent socket for port {port}: ENABLE_ORIG_SRC=true needs CAP_NET_ADMIN")]
    Transparent {
        /// The port.
        port: u16,
        /// What failed.
        source: io::Error,
    },
    /// The address is taken, or may not be used.
    #[error("bind {addr}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What failed.
        source: io::Error,
    },
}

/// A bound and listening socket that no runtime knows yet: it may be made on
/// one thread and served on another.
#[derive(Debug)]
pub struct BoundListener {
    socket: std::net::TcpListener,
    transparent: bool,
}

/// A listening socket on this thread's runtime.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    transparent: bool,
}

impl PodSockets {
    /// Binds and listens. Options that accepted sockets inherit (no-delay,
    /// keepalive, mark) are set once, here, and cost nothing per connection.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind(&self, port: u16, options: ListenOptions) -> Result<BoundListener, ListenError> {
        let ip = options.ip.unwrap_or(if self.ipv6 {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        });
        let addr = SocketAddr::new(ip, port);
        let failed = |source| ListenError::Socket { port, source };
        let socket = self.listening_socket(ip, options).map_err(failed)?;
        if self.port_reuse
            && let Err(error) = socket.set_reuse_port(true)
        {
            warn!(port, %error, "SO_REUSEPORT not set: upgrades of the proxy will refuse connections");
        }
        let transparent = self.make_transparent(&socket, port, options)?;
        let bound = socket
            .bind(&addr.into())
            .and_then(|()| socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX)));
        bound.map_err(|source| ListenError::Bind { addr, source })?;
        Ok(BoundListener {
            socket: socket.into(),
            transparent,
        })
    }

    /// [`bind`](Self::bind) and [`register`](BoundListener::register) in one.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn listen(&self, port: u16, options: ListenOptions) -> Result<Listener, ListenError> {
        let failed = |source| ListenError::Socket { port, source };
        self.bind(port, options)?.register().map_err(failed)
    }

    fn listening_socket(&self, ip: IpAddr, options: ListenOptions) -> io::Result<Socket> {
        let socket = self.socket(if ip.is_ipv4() {
            Domain::IPV4
        } else {
            Domain::IPV6
        })?;
        if ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            socket.set_only_v6(false)?;
        }
        // A restarted proxy binds over connections in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        if options.keepalive {
            self.keepalive.apply(&SockRef::from(&socket))?;
        }
        Ok(socket)
    }

    /// Only the IPv4-level option exists for listeners, also on `[::]`
    /// (`ztunnel-contract` 1.2).
    fn make_transparent(
        &self,
        socket: &Socket,
        port: u16,
        options: ListenOptions,
    ) -> Result<bool, ListenError> {
        if !options.transparent || self.transparent == Transparent::Never {
            return Ok(false);
        }
        match socket.set_ip_transparent_v4(true) {
            Ok(()) => Ok(true),
            Err(source) if self.transparent == Transparent::Required => {
                Err(ListenError::Transparent { port, source })
            }
            Err(error) => {
                warn!(port, %error, "listener not transparent: clients' addresses won't be kept");
                Ok(false)
            }
        }
    }
}

impl BoundListener {
    /// Hands the socket to the current runtime.
    ///
    /// # Errors
    /// The runtime can't take it.
    pub fn register(self) -> io::Result<Listener> {
        Ok(Listener {
            socket: TcpListener::from_std(self.socket)?,
            transparent: self.transparent,
        })
    }

    /// Another handle on the same socket, for another thread, where
    /// `SO_REUSEPORT` is off.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            transparent: self.transparent,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr().map(canonical_socket)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for BoundListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<BoundListener> for OwnedFd {
    fn from(listener: BoundListener) -> Self {
        listener.socket.into()
    }
}

impl Listener {
    /// The next connection and its canonical peer address. Options are those
    /// of the listener: the kernel copies them.
    ///
    /// # Errors
    /// Of one connection (try again at once) or for want of descriptors or
    /// memory (try again later); the listener stays usable.
    ///
    /// # Cancel safety
    /// Safe: no connection is lost.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.socket.accept().await?;
        Ok((stream, canonical_socket(peer)))
    }

    /// Whether source addresses may be kept towards applications.
    pub fn is_transparent(&self) -> bool {
        self.transparent
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr().map(canonical_socket)
    }
}

#[cfg(test)]
mod tests;
