//! Links, addresses, routes and policy rules of one namespace, over netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteHeader, RouteScope};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};
use tokio::task::JoinHandle;

use crate::NetNs;

/// A netlink request that failed, and what it was for.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The namespace can't be entered, or netlink can't be opened in it.
    #[error("open netlink in the namespace")]
    Open(#[source] std::io::Error),
    /// There is no link of that name.
    #[error("no link named {0}")]
    NoSuchLink(String),
    /// The kernel refused.
    #[error("{what}")]
    Refused {
        /// The request.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
}

impl NetlinkError {
    /// True if the kernel said that the thing exists already.
    pub fn exists(&self) -> bool {
        self.errno() == Some(nix::errno::Errno::EEXIST as i32)
    }

    /// True if the kernel said that there is no such thing.
    pub fn missing(&self) -> bool {
        let absent = [
            nix::errno::Errno::ENOENT,
            nix::errno::Errno::ESRCH,
            nix::errno::Errno::ENODEV,
        ];
        absent.iter().any(|e| self.errno() == Some(*e as i32))
    }

    fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused {
                source: rtnetlink::Error::NetlinkError(message),
                ..
            } => message.code.map(|code| -code.get()),
            _ => None,
        }
    }
}

/// Name, index and state of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// For example `eth0`.
    pub name: String,
    /// Kernel's index.
    pub index: u32,
    /// Administratively up.
    pub up: bool,
}

/// An open netlink connection in one namespace. Clones share it; the last one
/// ends it.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
    _driver: Arc<Driver>,
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Result<T> = std::result::Result<T, NetlinkError>;

impl Netlink {
    /// Opens netlink inside a namespace; its driver runs on the current runtime.
    ///
    /// # Errors
    /// If the namespace can't be entered or the socket can't be opened.
    pub fn in_ns(ns: &NetNs) -> Result<Self> {
        let (connection, handle, _) = ns
            .run(rtnetlink::new_connection)
            .and_then(std::convert::identity)
            .map_err(NetlinkError::Open)?;
        let driver = tokio::runtime::Handle::current().spawn(connection);
        Ok(Self {
            handle,
            _driver: Arc::new(Driver(driver)),
        })
    }

    /// Every link.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn links(&self) -> Result<Vec<LinkState>> {
        let messages: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(refused("list links"))?;
        Ok(messages.iter().map(link_state).collect())
    }

    async fn index(&self, link: &str) -> Result<u32> {
        let found = self.links().await?.into_iter().find(|l| l.name == link);
        found
            .map(|l| l.index)
            .ok_or_else(|| NetlinkError::NoSuchLink(link.to_owned()))
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// If there is no such link, or the kernel refuses.
    pub async fn link_up(&self, link: &str) -> Result<()> {
        let index = self.index(link).await?;
        let message = LinkMessageBuilder::<LinkUnspec>::new()
            .index(index)
            .up()
            .build();
        let what = format!("bring {link} up");
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(refused(what))
    }

    /// Adds a veth pair, `name` here and `peer` in another namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn add_veth(&self, name: &str, peer: &str, peer_ns: &NetNs) -> Result<()> {
        // The peer is made where it belongs: its name may be taken here.
        let far_end = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer.to_owned())
            .setns_by_fd(peer_ns.as_fd().as_raw_fd())
            .build();
        let message = LinkVeth::new(name, peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far_end)))
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(refused(format!("add veth {name} to {peer}")))
    }

    /// Adds a bridge.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn add_bridge(&self, name: &str) -> Result<()> {
        let message = LinkBridge::new(name).build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(refused(format!("add bridge {name}")))
    }

    /// Puts a link into a bridge.
    ///
    /// # Errors
    /// If either doesn't exist, or the kernel refuses.
    pub async fn set_master(&self, link: &str, bridge: &str) -> Result<()> {
        let (link_index, bridge_index) = (self.index(link).await?, self.index(bridge).await?);
        let message = LinkMessageBuilder::<LinkUnspec>::new()
            .index(link_index)
            .controller(bridge_index)
            .build();
        let what = format!("put {link} into {bridge}");
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(refused(what))
    }

    /// Deletes a link (both ends of a veth pair).
    ///
    /// # Errors
    /// If there is no such link, or the kernel refuses.
    pub async fn del_link(&self, link: &str) -> Result<()> {
        let index = self.index(link).await?;
        self.handle
            .link()
            .del(index)
            .execute()
            .await
            .map_err(refused(format!("delete {link}")))
    }

    /// Adds an address to a link. For IPv6 without duplicate address detection.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn add_addr(&self, link: &str, addr: IpNet) -> Result<()> {
        let index = self.index(link).await?;
        let mut request = self
            .handle
            .address()
            .add(index, addr.addr(), addr.prefix_len());
        if addr.addr().is_ipv6() {
            request
                .message_mut()
                .header
                .flags
                .insert(rtnetlink::packet_route::address::AddressHeaderFlags::Nodad);
        }
        request
            .execute()
            .await
            .map_err(refused(format!("add {addr} to {link}")))
    }

    /// Every address of every link.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn addrs(&self) -> Result<Vec<IpAddr>> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(refused("list addresses"))?;
        let of = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        };
        Ok(messages
            .iter()
            .filter_map(|m| m.attributes.iter().find_map(of))
            .collect())
    }

    /// Adds a route to the main table, by way of a gateway or straight over a link.
    ///
    /// # Errors
    /// If there is no such link, or the kernel refuses.
    pub async fn add_route(&self, to: IpNet, via: Option<IpAddr>, link: &str) -> Result<()> {
        let index = self.index(link).await?;
        let mut message = match (to, via) {
            (IpNet::V4(net), via) => {
                let builder = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(net.addr(), net.prefix_len())
                    .output_interface(index);
                match via {
                    Some(IpAddr::V4(gateway)) => builder.gateway(gateway).onlink().build(),
                    _ => builder.scope(RouteScope::Link).build(),
                }
            }
            (IpNet::V6(net), via) => {
                let builder = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(net.addr(), net.prefix_len())
                    .output_interface(index);
                match via {
                    Some(IpAddr::V6(gateway)) => builder.gateway(gateway).onlink().build(),
                    _ => builder.build(),
                }
            }
        };
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        self.handle
            .route()
            .add(message)
            .execute()
            .await
            .map_err(refused(format!("add route {to} over {link}")))
    }
}

fn refused(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    let what = what.into();
    move |source| NetlinkError::Refused { what, source }
}

fn link_state(message: &LinkMessage) -> LinkState {
    let name = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    LinkState {
        name: name.unwrap_or_default(),
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
    }
}

mod tables;
#[cfg(test)]
mod tests;

pub use tables::{PolicyRule, TableRoute};
