//! Links, addresses, routes and policy rules of one namespace, over netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{
    Handle, IpVersion, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
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

/// A policy rule that selects by firewall mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyRule {
    /// IPv6 rather than IPv4.
    pub v6: bool,
    /// Mark to match, under the mask.
    pub mark: u32,
    /// Mask of the mark.
    pub mask: u32,
    /// Table to look up.
    pub table: u32,
    /// Preference; lower is earlier.
    pub priority: u32,
}

/// A route of a table other than main.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableRoute {
    /// IPv6 rather than IPv4.
    pub v6: bool,
    /// Destination; the whole address space for a default route.
    pub destination: IpNet,
    /// Type, for example `Local`.
    pub local: bool,
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
        let what = format!("add veth {name} to {peer}");
        let message = LinkVeth::new(name, peer).build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(refused(&what))?;
        let index = self.index(peer).await?;
        let moved = LinkMessageBuilder::<LinkUnspec>::new()
            .index(index)
            .setns_by_fd(peer_ns.as_fd().as_raw_fd())
            .build();
        self.handle
            .link()
            .set(moved)
            .execute()
            .await
            .map_err(refused(&what))
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

    /// The routes of a table, sorted.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn routes_in_table(&self, table: u32) -> Result<Vec<TableRoute>> {
        let mut found = Vec::new();
        for message in self.raw_routes(table).await? {
            found.extend(table_route(&message));
        }
        found.sort();
        Ok(found)
    }

    async fn raw_routes(&self, table: u32) -> Result<Vec<RouteMessage>> {
        let mut found = Vec::new();
        for query in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let all: Vec<RouteMessage> = self
                .handle
                .route()
                .get(query)
                .execute()
                .try_collect()
                .await
                .map_err(refused("list routes"))?;
            found.extend(all.into_iter().filter(|m| table_of(m) == table));
        }
        Ok(found)
    }

    /// Adds `local default dev lo` to a table, so that every packet that is
    /// sent there is delivered to this namespace's own sockets.
    ///
    /// # Errors
    /// What the kernel says; an existing route is fine.
    pub async fn add_local_default(&self, v6: bool, table: u32) -> Result<()> {
        let lo = self.index("lo").await?;
        let message = if v6 {
            RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
                .output_interface(lo)
                .table_id(table)
                .kind(RouteType::Local)
                .build()
        } else {
            RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
                .output_interface(lo)
                .table_id(table)
                .kind(RouteType::Local)
                .scope(RouteScope::Host)
                .build()
        };
        let what = format!("add the local default route to table {table}");
        ignore_existing(
            self.handle
                .route()
                .add(message)
                .execute()
                .await
                .map_err(refused(what)),
        )
    }

    /// Removes every route of a table.
    ///
    /// # Errors
    /// What the kernel says; a route that is gone already is fine.
    pub async fn flush_table(&self, table: u32) -> Result<()> {
        for message in self.raw_routes(table).await? {
            let what = format!("flush table {table}");
            match self
                .handle
                .route()
                .del(message)
                .execute()
                .await
                .map_err(refused(what))
            {
                Err(error) if !error.missing() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Every policy rule that selects by mark, sorted.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn mark_rules(&self) -> Result<Vec<PolicyRule>> {
        let mut rules: Vec<_> = self
            .raw_rules()
            .await?
            .iter()
            .filter_map(policy_rule)
            .collect();
        rules.sort();
        Ok(rules)
    }

    async fn raw_rules(&self) -> Result<Vec<RuleMessage>> {
        let mut found = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let all: Vec<RuleMessage> = self
                .handle
                .rule()
                .get(version)
                .execute()
                .try_collect()
                .await
                .map_err(refused("list rules"))?;
            found.extend(all);
        }
        Ok(found)
    }

    /// Adds a policy rule; an equal one that is there is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn add_mark_rule(&self, rule: PolicyRule) -> Result<()> {
        let mut request = self
            .handle
            .rule()
            .add()
            .fw_mark(rule.mark)
            .table_id(rule.table)
            .priority(rule.priority)
            .action(RuleAction::ToTable);
        let message = request.message_mut();
        message.attributes.push(RuleAttribute::FwMask(rule.mask));
        message.header.family = if rule.v6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        ignore_existing(
            request
                .execute()
                .await
                .map_err(refused(format!("add {rule:?}"))),
        )
    }

    /// Removes a policy rule; one that is gone already is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn del_mark_rule(&self, rule: PolicyRule) -> Result<()> {
        for message in self.raw_rules().await? {
            if policy_rule(&message) != Some(rule) {
                continue;
            }
            let what = format!("delete {rule:?}");
            match self
                .handle
                .rule()
                .del(message)
                .execute()
                .await
                .map_err(refused(what))
            {
                Err(error) if !error.missing() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn refused(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    let what = what.into();
    move |source| NetlinkError::Refused { what, source }
}

fn ignore_existing(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.exists() => Ok(()),
        other => other,
    }
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

fn table_of(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or_else(|| u32::from(message.header.table))
}

fn table_route(message: &RouteMessage) -> Option<TableRoute> {
    let v6 = message.header.address_family == AddressFamily::Inet6;
    let unspecified = if v6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let destination = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(rtnetlink::packet_route::route::RouteAddress::Inet(ip)) => {
            Some(IpAddr::V4(*ip))
        }
        RouteAttribute::Destination(rtnetlink::packet_route::route::RouteAddress::Inet6(ip)) => {
            Some(IpAddr::V6(*ip))
        }
        _ => None,
    });
    let length = message.header.destination_prefix_length;
    Some(TableRoute {
        v6,
        destination: IpNet::new(destination.unwrap_or(unspecified), length).ok()?,
        local: message.header.kind == RouteType::Local,
    })
}

fn policy_rule(message: &RuleMessage) -> Option<PolicyRule> {
    let mut rule = PolicyRule {
        v6: message.header.family == AddressFamily::Inet6,
        mark: 0,
        mask: u32::MAX,
        table: u32::from(message.header.table),
        priority: 0,
    };
    let mut marked = false;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::FwMark(mark) => {
                rule.mark = *mark;
                marked = true;
            }
            RuleAttribute::FwMask(mask) => rule.mask = *mask,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            _ => {}
        }
    }
    marked.then_some(rule)
}

#[cfg(test)]
mod tests;
