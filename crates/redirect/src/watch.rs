//! Hears of changes of a namespace's rules and routes as they happen.

use std::io;
use std::os::fd::OwnedFd;

use ambit_netns::NetNs;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

use crate::readiness::watch;

/// Notifications of one namespace.
#[derive(Debug)]
pub struct Changes {
    rules: AsyncFd<OwnedFd>,
    routing: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Hears of every change from now on.
    ///
    /// # Errors
    /// If the namespace can't be entered, or the kernel offers no such group.
    pub fn of(ns: &NetNs) -> io::Result<Self> {
        let (rules, routing) = ns.run(|| {
            let rules = subscribe(Some(NETFILTER), group(NFNLGRP_NFTABLES));
            let routing = subscribe(
                NETLINK_ROUTE,
                ROUTING_GROUPS.iter().fold(0, |all, one| all | group(*one)),
            );
            (rules, routing)
        })?;
        Ok(Self {
            rules: watch(rules?)?,
            routing: watch(routing?)?,
        })
    }

    /// Waits for a change, and forgets it and all others that came by now.
    ///
    /// # Errors
    /// If a socket fails for good.
    ///
    /// # Cancel safety
    /// Safe, but that a change may be forgotten with the call that saw it: look
    /// at the namespace once after a call that was dropped.
    pub async fn next(&self) -> io::Result<()> {
        // Both arms are cancel safe.
        tokio::select! {
            heard = drain(&self.rules) => heard,
            heard = drain(&self.routing) => heard,
        }
    }
}

fn subscribe(protocol: Option<Protocol>, groups: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::RAW;
    let fd = rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, protocol)?;
    rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
    Ok(fd)
}

/// Takes everything that lies there, and something at least.
async fn drain(socket: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut heard = false;
    loop {
        let mut ready = socket.readable().await?;
        // What it says doesn't matter: the namespace is looked at afterwards.
        let mut scrap = [0; 1];
        match rustix::net::recv(socket.get_ref(), &mut scrap[..], RecvFlags::TRUNC) {
            Ok(_) | Err(rustix::io::Errno::NOBUFS) => heard = true,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                ready.clear_ready();
                if heard {
                    return Ok(());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// Protocol zero is the default.
const NETLINK_ROUTE: Option<Protocol> = None;
/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h.
const NFNLGRP_NFTABLES: u32 = 7;
/// `RTNLGRP_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_ROUTE`, `_IPV6_RULE` of linux/rtnetlink.h.
const ROUTING_GROUPS: [u32; 4] = [7, 8, 11, 19];
