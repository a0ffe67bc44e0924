//! Addresses: an IP on a named network, and where things run.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An IP address on a network; the default network is the empty string.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddr {
    /// Network name.
    pub network: Arc<str>,
    /// Canonical address: never an IPv4-mapped IPv6 one.
    pub ip: IpAddr,
}

impl NetworkAddr {
    /// An address with its IP made canonical.
    pub fn new(network: impl Into<Arc<str>>, ip: IpAddr) -> Self {
        Self {
            network: network.into(),
            ip: canonical_ip(ip),
        }
    }
}

impl fmt::Display for NetworkAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.ip)
    }
}

/// Turns an IPv4-mapped IPv6 address into the IPv4 address that it is.
pub fn canonical_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// [`canonical_ip`] for a socket address.
pub fn canonical_socket(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Where a workload runs; empty parts are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    #[serde(default)]
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    #[serde(default)]
    pub zone: Arc<str>,
    /// `topology.istio.io/subzone`.
    #[serde(default)]
    pub subzone: Arc<str>,
}

impl Locality {
    /// True if nothing is known.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.subzone.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_become_v4() {
        let addr = NetworkAddr::new("", "::ffff:10.0.0.1".parse().unwrap());
        assert_eq!(addr.to_string(), "/10.0.0.1");
        let socket = canonical_socket("[::ffff:10.0.0.1]:80".parse().unwrap());
        assert_eq!(socket, "10.0.0.1:80".parse().unwrap());
    }
}
