//! Where a stream that arrived in a pod goes: `ztunnel-contract` 3.3 and 3.4.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

use ambit_types::{FlowReason, canonical_socket};

use crate::lookup::Found;
use crate::model::{GatewayAddress, Service, TunnelProtocol, Workload};
use crate::network::pick;
use crate::route::{InboundRoute, RouteError};
use crate::view::View;

/// The `:authority` of a CONNECT: an address, or a host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authority {
    /// An address and a port.
    Address(SocketAddr),
    /// A hostname and a port.
    Host {
        /// The hostname.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
}

impl Authority {
    /// Its port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(addr) => addr.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(addr) => fmt::Display::fmt(addr, f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Authority {
    type Err = InvalidAuthority;

    fn from_str(text: &str) -> Result<Self, InvalidAuthority> {
        let invalid = || InvalidAuthority(text.into());
        match text.parse::<SocketAddr>() {
            Ok(addr) if addr.port() == 0 => return Err(invalid()),
            Ok(addr) => return Ok(Self::Address(canonical_socket(addr))),
            Err(_) => {}
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(invalid());
        }
        Ok(Self::Host {
            host: host.into(),
            port: port.parse::<NonZeroU16>().map_err(|_| invalid())?.get(),
        })
    }
}

/// An authority without a usable host or port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form HOST:PORT")]
pub struct InvalidAuthority(Arc<str>);

impl InvalidAuthority {
    /// The one name of this refusal.
    pub fn reason(&self) -> FlowReason {
        FlowReason::BadRequest
    }
}

impl View {
    /// Decides where a tunnel's stream goes: always to the address that
    /// accepted it, on the port that the authority leads to.
    ///
    /// # Errors
    /// An authority that isn't about this pod, a host or port that can't be
    /// resolved, or a port of the proxy itself.
    pub fn route_inbound(
        &self,
        local: &Workload,
        local_ip: IpAddr,
        authority: &Authority,
    ) -> Result<InboundRoute, RouteError> {
        let local_ip = local_ip.to_canonical();
        let port = match authority {
            Authority::Address(addr) => {
                let named = addr.ip().to_canonical();
                if named != local_ip && !self.stands_in_for(local, local_ip, named) {
                    return Err(RouteError::AddressMismatch {
                        authority: named,
                        local: local_ip,
                    });
                }
                addr.port()
            }
            Authority::Host { host, port } => self.port_of_host(local, host, *port)?,
        };
        self.legal(SocketAddr::new(local_ip, port))?;
        let tunnel = local.application_tunnel;
        let port = tunnel.and_then(|tunnel| tunnel.port).unwrap_or(port);
        let dial = SocketAddr::new(local_ip, port);
        self.legal(dial)?;
        let proxied = match tunnel.map(|tunnel| tunnel.protocol) {
            Some(TunnelProtocol::Proxy) => Some(self.announced(local, authority)?),
            Some(TunnelProtocol::None) | None => None,
        };
        Ok(InboundRoute { dial, proxied })
    }

    /// Decides where captured plaintext goes: to where it was sent (3.4).
    ///
    /// # Errors
    /// A port of the proxy itself.
    pub fn route_inbound_passthrough(&self, dst: SocketAddr) -> Result<InboundRoute, RouteError> {
        let dial = canonical_socket(dst);
        self.legal(dial)?;
        Ok(InboundRoute {
            dial,
            proxied: None,
        })
    }

    /// The service that an inbound connection is counted for: the one that the
    /// client names in `forwarded host=`, if this workload belongs to it, or
    /// else the first one of its services that leads to this port.
    pub fn inbound_service_label(
        &self,
        local: &Workload,
        forwarded_host: Option<&str>,
        port: u16,
    ) -> Option<&Arc<Service>> {
        let mut own = local.services.iter().filter_map(|(key, ports)| {
            let service = self.services.get(key)?;
            Some((service, ports))
        });
        if let Some(host) = forwarded_host
            && let Some((service, _)) = own.clone().find(|(s, _)| *s.key.hostname == *host)
        {
            return Some(service);
        }
        let leads = |service: &Service, own: u16, from: u16| {
            let target = if own == 0 {
                service.ports.target(from)
            } else {
                Some(own)
            };
            target == Some(port)
        };
        own.find(|(service, ports)| ports.iter().any(|(from, to)| leads(service, to, from)))
            .map(|(service, _)| service)
    }

    fn legal(&self, dial: SocketAddr) -> Result<(), RouteError> {
        if self.config.is_illegal(dial.port()) {
            return Err(RouteError::Recursive(dial));
        }
        Ok(())
    }

    /// Whether this workload may take a stream for another address: it stands
    /// in front of an application, or it is the waypoint of what is there.
    fn stands_in_for(&self, local: &Workload, local_ip: IpAddr, named: IpAddr) -> bool {
        if local.application_tunnel.is_some() {
            return true;
        }
        let is_ours = |waypoint: &GatewayAddress| match self.gateway(waypoint) {
            Some(Found::Service(service)) => local.ports_in(&service.key).is_some(),
            Some(Found::Workload(workload)) => workload.ips.contains(&local_ip),
            None => false,
        };
        match self.at(&self.config.network, named, None) {
            Some(Found::Workload(workload)) => workload.waypoint.as_ref().is_some_and(is_ours),
            Some(Found::Service(service)) => {
                let weighted = service.weighted_waypoints.iter();
                let mut all = weighted
                    .map(|one| &one.destination)
                    .chain(&service.waypoint);
                all.any(is_ours)
            }
            None => false,
        }
    }

    /// What a PROXY protocol header calls the destination: the authority's
    /// address, or the virtual address of the service that it names, in our own
    /// network and of IPv4 rather than not.
    fn announced(&self, local: &Workload, authority: &Authority) -> Result<SocketAddr, RouteError> {
        let (host, port) = match authority {
            Authority::Address(addr) => return Ok(canonical_socket(*addr)),
            Authority::Host { host, port } => (host, *port),
        };
        let service = self.service_named(host, Some(&local.namespace));
        let vips = service.into_iter().flat_map(|service| &service.vips);
        let best = vips.min_by_key(|vip| (vip.network != self.config.network, vip.ip.is_ipv6()));
        best.map(|vip| SocketAddr::new(vip.ip, port))
            .ok_or_else(|| RouteError::NoAddress(Arc::clone(host)))
    }

    /// The port that a hostname authority leads to here: this workload's own,
    /// then the service's.
    fn port_of_host(&self, local: &Workload, host: &str, port: u16) -> Result<u16, RouteError> {
        let client = Some(&*local.namespace);
        let service = self
            .service_hosts
            .get(host)
            .and_then(|few| pick(few, client));
        let Some(service) = service else {
            let key = ambit_types::NamespacedHostname::new(Arc::clone(&local.namespace), host);
            return match self.workload_hosts.contains_key(&key) {
                true => Ok(port),
                false => Err(RouteError::UnknownHostname(host.into())),
            };
        };
        let own = local
            .ports_in(&service.key)
            .and_then(|ports| ports.target(port));
        own.filter(|port| *port != 0)
            .or_else(|| service.ports.target(port).filter(|port| *port != 0))
            .ok_or_else(|| RouteError::UnknownPort {
                host: host.into(),
                port,
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What was read is written back as it was, so that logs and
        /// comparisons are about what the peer sent.
        #[test]
        fn authorities_round_trip(host in "[a-z0-9._-]{1,20}", port in 1..=u16::MAX, v4 in any::<[u8; 4]>()) {
            for text in [format!("{host}:{port}"), format!("{}:{port}", IpAddr::from(v4))] {
                prop_assert_eq!(text.parse::<Authority>().unwrap().to_string(), text);
            }
        }

        /// Any text is an authority with a port, or refused.
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Ok(authority) = text.parse::<Authority>() {
                prop_assert_ne!(authority.port(), 0);
            }
        }
    }
}
