//! What a policy is, once it has been read. The serde forms are those of the
//! static state file and of `config_dump` (`ztunnel-contract` 8.3, 9.2).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_types::{NamespacedName, canonical_ip};
use ipnet::{IpNet, Ipv4Net};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

/// Which workloads a policy binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Every workload.
    Global,
    /// The workloads of the policy's namespace.
    Namespace,
    /// The workloads that list it.
    WorkloadSelector,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Once one such policy binds a workload, only what one of them matches is let in.
    Allow,
    /// What it matches is refused, whatever else allows it.
    Deny,
}

/// One authorization policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// `namespace/name`, by which workloads list it.
    pub key: NamespacedName,
    /// Which workloads it binds.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// Any rule suffices; none at all never matches.
    pub rules: Vec<Rule>,
    /// Matches are logged and decide nothing.
    pub dry_run: bool,
}

impl Authorization {
    /// A DENY that matches everything in its namespace.
    pub fn deny_all(key: NamespacedName) -> Self {
        Self {
            key,
            scope: Scope::Namespace,
            action: Action::Deny,
            rules: vec![Rule::default()],
            dry_run: false,
        }
    }
}

/// Every clause must hold; without clauses it always matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rule {
    /// Its clauses.
    pub clauses: Vec<Clause>,
}

/// Any match suffices; without matches it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Clause {
    /// Its matches.
    pub matches: Vec<Match>,
}

/// Every field that isn't empty must hold; with every field empty it is false.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Match {
    /// Destination addresses.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nets")]
    pub destination_ips: Vec<IpNet>,
    /// Destination ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<u16>,
    /// The namespace of the peer's identity; the empty string without one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<StringMatch>,
    /// None of these may match.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nets")]
    pub not_destination_ips: Vec<IpNet>,
    /// None of these may match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ports: Vec<u16>,
    /// None of these may match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<StringMatch>,
    /// None of these may match; a plaintext peer passes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<StringMatch>,
    /// None of these may match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    /// None of these may match.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nets")]
    pub not_source_ips: Vec<IpNet>,
    /// The peer's identity without `spiffe://`; a plaintext peer never matches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<StringMatch>,
    /// Namespace and account of the peer's identity, in any trust domain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<ServiceAccountMatch>,
    /// The peer's address.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nets")]
    pub source_ips: Vec<IpNet>,
}

/// How a text is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawStringMatch")]
pub enum StringMatch {
    /// The whole text.
    Exact(Arc<str>),
    /// Its beginning.
    Prefix(Arc<str>),
    /// Its end.
    Suffix(Arc<str>),
    /// Anything but the empty text.
    Presence(),
}

/// [`StringMatch`] before its text is known not to be empty.
#[derive(Deserialize)]
enum RawStringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    Presence(IgnoredAny),
}

impl TryFrom<RawStringMatch> for StringMatch {
    type Error = InvalidMatch;

    fn try_from(raw: RawStringMatch) -> Result<Self, InvalidMatch> {
        match raw {
            RawStringMatch::Exact(text) => Self::exact(text),
            RawStringMatch::Prefix(text) => Self::prefix(text),
            RawStringMatch::Suffix(text) => Self::suffix(text),
            RawStringMatch::Presence(_) => Ok(Self::Presence()),
        }
    }
}

impl StringMatch {
    /// Compares the whole text.
    ///
    /// # Errors
    /// An empty text: nobody means it, and it would match a peer without identity.
    pub fn exact(text: impl Into<Arc<str>>) -> Result<Self, InvalidMatch> {
        filled(text.into()).map(Self::Exact)
    }

    /// Compares the beginning.
    ///
    /// # Errors
    /// An empty text, as for [`StringMatch::exact`].
    pub fn prefix(text: impl Into<Arc<str>>) -> Result<Self, InvalidMatch> {
        filled(text.into()).map(Self::Prefix)
    }

    /// Compares the end.
    ///
    /// # Errors
    /// An empty text, as for [`StringMatch::exact`].
    pub fn suffix(text: impl Into<Arc<str>>) -> Result<Self, InvalidMatch> {
        filled(text.into()).map(Self::Suffix)
    }
}

fn filled(text: Arc<str>) -> Result<Arc<str>, InvalidMatch> {
    if text.is_empty() {
        return Err(InvalidMatch::EmptyText);
    }
    Ok(text)
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Presence() => f.write_str("*"),
        }
    }
}

/// A service account of any trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccountMatch {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub service_account: Arc<str>,
}

/// Why one element of a match can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMatch {
    /// A text to compare with is empty.
    #[error("the text to compare with is empty")]
    EmptyText,
    /// A match with none of exact, prefix, suffix or presence.
    #[error("none of exact, prefix, suffix or presence is set")]
    UnsetText,
    /// An address that is neither 4 nor 16 bytes long.
    #[error("an address has {0} bytes, not 4 or 16")]
    AddressLength(usize),
    /// A prefix length beyond the address's.
    #[error("the prefix length {length} is too long for {ip}")]
    PrefixLength {
        /// The address.
        ip: IpAddr,
        /// Its prefix length.
        length: u32,
    },
    /// A text that isn't a CIDR or an address.
    #[error("{0:?} is neither a CIDR nor an IP address")]
    Cidr(String),
    /// A number that isn't a port.
    #[error("{0} is not a port")]
    Port(u32),
}

/// A CIDR in its canonical form: IPv4 where it was written as mapped IPv6.
pub(crate) fn cidr(ip: IpAddr, length: u32) -> Result<IpNet, InvalidMatch> {
    let invalid = || InvalidMatch::PrefixLength { ip, length };
    let length = u8::try_from(length).map_err(|_| invalid())?;
    let net = IpNet::new(ip, length).map_err(|_| invalid())?;
    Ok(match (canonical_ip(ip), length.checked_sub(96)) {
        (IpAddr::V4(v4), Some(length)) if ip.is_ipv6() => {
            IpNet::V4(Ipv4Net::new(v4, length).map_err(|_| invalid())?)
        }
        _ => net,
    })
}

/// Reads `10.0.0.0/8` or a bare address.
fn parse_cidr(text: &str) -> Result<IpNet, InvalidMatch> {
    let malformed = || InvalidMatch::Cidr(text.to_owned());
    match text.split_once('/') {
        Some((ip, length)) => cidr(
            ip.parse().map_err(|_| malformed())?,
            length.parse().map_err(|_| malformed())?,
        ),
        None => text
            .parse::<IpAddr>()
            .map(|ip| IpNet::from(canonical_ip(ip)))
            .map_err(|_| malformed()),
    }
}

fn nets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    Vec::<String>::deserialize(deserializer)?
        .iter()
        .map(|text| parse_cidr(text).map_err(serde::de::Error::custom))
        .collect()
}
