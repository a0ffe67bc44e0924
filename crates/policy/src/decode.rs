//! From `istio.security.Authorization` to [`Authorization`].
//!
//! Upstream drops an address or a text match that it can't read, which widens
//! or empties the match around it. Here one such element makes the whole
//! policy unreadable, so that its owner hears of it and nothing opens.

use std::net::IpAddr;

use ambit_proto::security as pb;
use ambit_types::NamespacedName;
use ipnet::IpNet;

use crate::model::{
    Action, Authorization, Clause, InvalidMatch, Match, Rule, Scope, ServiceAccountMatch,
    StringMatch, cidr,
};
use crate::trace::Field;

/// Why a policy can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A policy needs a name.
    #[error("the policy has no name")]
    Name,
    /// A scope number that isn't in the contract.
    #[error("unknown scope {0}")]
    Scope(i32),
    /// An action number that isn't in the contract.
    #[error("unknown action {0}")]
    Action(i32),
    /// One element of a match.
    #[error("rule {rule}, {}: {source}", field.as_str())]
    Match {
        /// The rule's place, from 0.
        rule: usize,
        /// The field.
        field: Field,
        /// What is wrong with it.
        source: InvalidMatch,
    },
}

impl TryFrom<pb::Scope> for Scope {
    type Error = Unreadable;

    fn try_from(scope: pb::Scope) -> Result<Self, Unreadable> {
        Ok(match scope {
            pb::Scope::Global => Self::Global,
            pb::Scope::Namespace => Self::Namespace,
            pb::Scope::WorkloadSelector => Self::WorkloadSelector,
        })
    }
}

impl Scope {
    /// Reads the wire's number.
    ///
    /// # Errors
    /// A number that isn't in the contract.
    pub fn from_wire(scope: i32) -> Result<Self, Unreadable> {
        pb::Scope::try_from(scope)
            .map_err(|_| Unreadable::Scope(scope))?
            .try_into()
    }
}

impl TryFrom<pb::Authorization> for Authorization {
    type Error = Unreadable;

    fn try_from(wire: pb::Authorization) -> Result<Self, Unreadable> {
        if wire.name.is_empty() {
            return Err(Unreadable::Name);
        }
        let action =
            match pb::Action::try_from(wire.action).map_err(|_| Unreadable::Action(wire.action))? {
                pb::Action::Allow => Action::Allow,
                pb::Action::Deny => Action::Deny,
            };
        Ok(Self {
            scope: Scope::from_wire(wire.scope)?,
            key: NamespacedName::new(wire.namespace, wire.name),
            action,
            rules: wire
                .rules
                .into_iter()
                .enumerate()
                .map(|(index, rule)| read_rule(index, rule))
                .collect::<Result<_, _>>()?,
            dry_run: wire.dry_run,
        })
    }
}

fn read_rule(index: usize, wire: pb::Rule) -> Result<Rule, Unreadable> {
    let clause = |clause: pb::Clause| {
        let matches = clause.matches.into_iter();
        matches
            .map(|one| read_match(index, one))
            .collect::<Result<_, _>>()
            .map(|matches| Clause { matches })
    };
    let clauses = wire
        .clauses
        .into_iter()
        .map(clause)
        .collect::<Result<_, _>>()?;
    Ok(Rule { clauses })
}

fn read_match(rule: usize, wire: pb::Match) -> Result<Match, Unreadable> {
    let at = |field| {
        move |source| Unreadable::Match {
            rule,
            field,
            source,
        }
    };
    Ok(Match {
        namespaces: texts(wire.namespaces).map_err(at(Field::Namespaces))?,
        not_namespaces: texts(wire.not_namespaces).map_err(at(Field::NotNamespaces))?,
        principals: texts(wire.principals).map_err(at(Field::Principals))?,
        not_principals: texts(wire.not_principals).map_err(at(Field::NotPrincipals))?,
        source_ips: nets(wire.source_ips).map_err(at(Field::SourceIps))?,
        not_source_ips: nets(wire.not_source_ips).map_err(at(Field::NotSourceIps))?,
        destination_ips: nets(wire.destination_ips).map_err(at(Field::DestinationIps))?,
        not_destination_ips: nets(wire.not_destination_ips)
            .map_err(at(Field::NotDestinationIps))?,
        destination_ports: ports(wire.destination_ports).map_err(at(Field::DestinationPorts))?,
        not_destination_ports: ports(wire.not_destination_ports)
            .map_err(at(Field::NotDestinationPorts))?,
        service_accounts: accounts(wire.service_accounts),
        not_service_accounts: accounts(wire.not_service_accounts),
    })
}

fn texts(wire: Vec<pb::StringMatch>) -> Result<Vec<StringMatch>, InvalidMatch> {
    use pb::string_match::MatchType;
    wire.into_iter()
        .map(|one| match one.match_type {
            Some(MatchType::Exact(text)) => StringMatch::exact(text),
            Some(MatchType::Prefix(text)) => StringMatch::prefix(text),
            Some(MatchType::Suffix(text)) => StringMatch::suffix(text),
            Some(MatchType::Presence(_)) => Ok(StringMatch::Presence()),
            None => Err(InvalidMatch::UnsetText),
        })
        .collect()
}

fn nets(wire: Vec<pb::Address>) -> Result<Vec<IpNet>, InvalidMatch> {
    wire.into_iter()
        .map(|one| {
            let bytes: &[u8] = &one.address;
            let ip = if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
                IpAddr::from(v4)
            } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
                IpAddr::from(v6)
            } else {
                return Err(InvalidMatch::AddressLength(bytes.len()));
            };
            cidr(ip, one.length)
        })
        .collect()
}

fn ports(wire: Vec<u32>) -> Result<Vec<u16>, InvalidMatch> {
    wire.into_iter()
        .map(|port| u16::try_from(port).map_err(|_| InvalidMatch::Port(port)))
        .collect()
}

fn accounts(wire: Vec<pb::ServiceAccountMatch>) -> Vec<ServiceAccountMatch> {
    wire.into_iter()
        .map(|one| ServiceAccountMatch {
            namespace: one.namespace.into(),
            service_account: one.service_account.into(),
        })
        .collect()
}

#[cfg(test)]
mod tests;
