//! Routing tables and the policy rules that lead to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{IpVersion, RouteMessageBuilder};

use super::{Netlink, Result, refused};

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

impl Netlink {
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
            let deleted = self.handle.route().del(message).execute().await;
            ignore_missing(deleted.map_err(refused(what)))?;
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
            let deleted = self.handle.rule().del(message).execute().await;
            ignore_missing(deleted.map_err(refused(what)))?;
        }
        Ok(())
    }
}

fn ignore_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.missing() => Ok(()),
        other => other,
    }
}

fn ignore_existing(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.exists() => Ok(()),
        other => other,
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
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
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
