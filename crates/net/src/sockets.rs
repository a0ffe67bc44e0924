//! The recipe for every socket of one pod.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ambit_netns::NetNs;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// How sockets of one pod are made: in its namespace, marked, with the
/// contract's options (`ztunnel-contract` 1.2). Cheap to clone.
#[derive(Debug, Clone)]
pub struct PodSockets {
    /// The pod's namespace; none is this process's own.
    pub netns: Option<NetNs>,
    /// `SO_MARK` of each socket. An unmarked dial would be captured again.
    pub mark: Option<u32>,
    /// TCP keepalive of dials, and of listeners that ask for it.
    pub keepalive: Keepalive,
    /// `SO_REUSEPORT` on listeners: one per data thread, and an old and a new
    /// proxy side by side during an upgrade.
    pub port_reuse: bool,
    /// Wildcard listeners accept IPv6 too.
    pub ipv6: bool,
    /// Whether to keep clients' addresses towards applications.
    pub transparent: Transparent,
}

impl Default for PodSockets {
    /// This process's own namespace, unmarked, with the contract's defaults.
    fn default() -> Self {
        Self {
            netns: None,
            mark: None,
            keepalive: Keepalive::default(),
            port_reuse: true,
            ipv6: true,
            transparent: Transparent::default(),
        }
    }
}

/// `ENABLE_ORIG_SRC`: whether listeners are transparent, and so whether dials
/// towards applications may carry the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transparent {
    /// A failure is an error.
    Required,
    /// Tried; the outcome is reported by [`Listener`](crate::Listener).
    #[default]
    BestEffort,
    /// Not tried.
    Never,
}

/// TCP keepalive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// `KEEPALIVE_ENABLED`.
    pub enabled: bool,
    /// Quiet time before the first probe.
    pub time: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Unanswered probes after which the connection is gone.
    pub retries: u32,
    /// `USER_TIMEOUT_ENABLED`: unacknowledged data gives up after the same time.
    pub user_timeout: bool,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            enabled: true,
            time: Duration::from_secs(180),
            interval: Duration::from_secs(180),
            retries: 9,
            user_timeout: false,
        }
    }
}

impl Keepalive {
    pub(crate) fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let keepalive = TcpKeepalive::new()
            .with_time(self.time)
            .with_interval(self.interval)
            .with_retries(self.retries);
        socket.set_tcp_keepalive(&keepalive)?;
        if self.user_timeout {
            let limit = self.time + self.interval.saturating_mul(self.retries);
            socket.set_tcp_user_timeout(Some(limit))?;
        }
        Ok(())
    }
}

impl PodSockets {
    /// A non-blocking TCP socket in the pod's namespace, marked. A socket stays
    /// in the namespace that it was made in, so that nothing else of its life
    /// needs to go there.
    pub(crate) fn socket(&self, family: Domain) -> io::Result<Socket> {
        self.socket_of(family, Type::STREAM, Protocol::TCP)
    }

    /// [`socket`](Self::socket), of UDP.
    pub(crate) fn datagram_socket(&self, family: Domain) -> io::Result<Socket> {
        self.socket_of(family, Type::DGRAM, Protocol::UDP)
    }

    fn socket_of(&self, family: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let make = || Socket::new(family, kind.nonblocking().cloexec(), Some(protocol));
        let socket = match &self.netns {
            Some(netns) => netns.run(make)??,
            None => make()?,
        };
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        Ok(socket)
    }
}

/// Lets a socket be bound to an address that isn't local.
pub(crate) fn set_transparent(socket: &Socket, src: IpAddr) -> io::Result<()> {
    match src {
        IpAddr::V4(_) => {
            socket.set_ip_transparent_v4(true)?;
            socket.set_freebind_v4(true)
        }
        IpAddr::V6(_) => {
            socket.set_ip_transparent_v6(true)?;
            socket.set_freebind_v6(true)
        }
    }
}

pub(crate) fn family(addr: SocketAddr) -> Domain {
    if addr.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    }
}
