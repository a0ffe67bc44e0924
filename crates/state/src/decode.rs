//! From `istio.workload` messages to the nouns of the view, with the defaults
//! and refusals of `ztunnel-contract` 4.3. Past this module nobody sees a
//! protobuf.

use std::net::IpAddr;
use std::sync::Arc;

use ambit_proto::workload as pb;
use ambit_types::{
    DEFAULT_TRUST_DOMAIN, InvalidName, InvalidSpiffeId, Locality, NamespacedHostname,
    NamespacedName, NetworkAddr, SpiffeId, WorkloadType, WorkloadUid, canonical_ip,
};
use ipnet::IpNet;

use crate::intern::Interner;
use crate::model::{
    ApplicationTunnel, GatewayAddress, GatewayDestination, Health, HealthPolicy, IpFamilies,
    LoadBalancing, LoadBalancingMode, NetworkCidr, NetworkMode, PortMap, Protocol, RoutingScope,
    Service, TunnelProtocol, Visibility, WeightedWaypoint, Workload,
};

/// Why a workload or a service can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Neither a workload nor a service.
    #[error("neither a workload nor a service")]
    Empty,
    /// The bytes aren't the message that the type URL promises.
    #[error("malformed message: {0}")]
    Malformed(prost::DecodeError),
    /// A field that must not be empty.
    #[error("{0} is empty")]
    Missing(&'static str),
    /// A number that isn't in the contract's enum.
    #[error("{field} has the unknown value {value}")]
    Enum {
        /// The field.
        field: &'static str,
        /// The number.
        value: i32,
    },
    /// A tunnel protocol that nothing speaks any more.
    #[error("tunnel_protocol LEGACY_ISTIO_MTLS is not supported")]
    LegacyMtls,
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
    /// A number that isn't a port.
    #[error("{field}: {value} is not a port")]
    Port {
        /// The field.
        field: &'static str,
        /// The number.
        value: u32,
    },
    /// A key that isn't two parts with one slash.
    #[error("{field}: {source}")]
    Name {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        source: InvalidName,
    },
    /// A gateway without a hostname or an address.
    #[error("{0} names neither a hostname nor an address")]
    Destination(&'static str),
    /// Parts that make no identity.
    #[error("identity: {0}")]
    Identity(#[from] InvalidSpiffeId),
}

/// Turns messages into nouns, sharing repeated texts.
pub(crate) struct Decoder<'i> {
    pub(crate) interner: &'i mut Interner,
}

impl Decoder<'_> {
    pub(crate) fn workload(&mut self, wire: pb::Workload) -> Result<Workload, DecodeError> {
        if wire.uid.is_empty() {
            return Err(DecodeError::Missing("uid"));
        }
        let protocol = match pb::TunnelProtocol::try_from(wire.tunnel_protocol) {
            Ok(pb::TunnelProtocol::None) => Protocol::Tcp,
            Ok(pb::TunnelProtocol::Hbone) => Protocol::Hbone,
            Ok(pb::TunnelProtocol::LegacyIstioMtls) => return Err(DecodeError::LegacyMtls),
            Err(_) => return Err(unknown("tunnel_protocol", wire.tunnel_protocol)),
        };
        let namespace = self.text(&wire.namespace);
        let trust_domain = self.text_or(&wire.trust_domain, DEFAULT_TRUST_DOMAIN);
        let service_account = self.text_or(&wire.service_account, DEFAULT_SERVICE_ACCOUNT);
        let id = SpiffeId::new(
            Arc::clone(&trust_domain),
            Arc::clone(&namespace),
            Arc::clone(&service_account),
        )?;
        Ok(Workload {
            expected: self.interner.identity(id),
            ips: distinct_ips(&wire.addresses)?,
            services: self.services(wire.services.into_iter())?,
            protocol,
            network_mode: match pb::NetworkMode::try_from(wire.network_mode) {
                Ok(pb::NetworkMode::Standard) => NetworkMode::Standard,
                Ok(pb::NetworkMode::HostNetwork) => NetworkMode::HostNetwork,
                Err(_) => return Err(unknown("network_mode", wire.network_mode)),
            },
            health: match pb::WorkloadStatus::try_from(wire.status) {
                Ok(pb::WorkloadStatus::Healthy) => Health::Healthy,
                Ok(pb::WorkloadStatus::Unhealthy) => Health::Unhealthy,
                Err(_) => return Err(unknown("status", wire.status)),
            },
            // One of the two enums whose unknown values are tolerated (4.3).
            workload_type: match pb::WorkloadType::try_from(wire.workload_type) {
                Ok(pb::WorkloadType::Cronjob) => WorkloadType::CronJob,
                Ok(pb::WorkloadType::Pod) => WorkloadType::Pod,
                Ok(pb::WorkloadType::Job) => WorkloadType::Job,
                Ok(pb::WorkloadType::Deployment) | Err(_) => WorkloadType::Deployment,
            },
            application_tunnel: wire
                .application_tunnel
                .map(application_tunnel)
                .transpose()?,
            waypoint: self.gateway("waypoint", wire.waypoint)?,
            network_gateway: self.gateway("network_gateway", wire.network_gateway)?,
            authorization_policies: policy_names(&wire.authorization_policies)?,
            capacity: wire.capacity.unwrap_or(DEFAULT_CAPACITY),
            cluster_id: self.text_or(&wire.cluster_id, DEFAULT_CLUSTER),
            locality: wire.locality.map(|l| self.locality(&l)).unwrap_or_default(),
            network: self.text(&wire.network),
            node: self.text(&wire.node),
            hostname: self.text(&wire.hostname),
            canonical_name: self.text(&wire.canonical_name),
            canonical_revision: self.text(&wire.canonical_revision),
            workload_name: self.text(&wire.workload_name),
            native_tunnel: wire.native_tunnel,
            uid: WorkloadUid::from(wire.uid),
            name: wire.name.into(),
            namespace,
            trust_domain,
            service_account,
        })
    }

    pub(crate) fn service(&mut self, wire: pb::Service) -> Result<Service, DecodeError> {
        if wire.hostname.is_empty() {
            return Err(DecodeError::Missing("hostname"));
        }
        let (vips, cidr_vips) = self.addresses(&wire.addresses)?;
        let mut identities = Vec::new();
        for name in &wire.subject_alt_names {
            match name.parse::<SpiffeId>() {
                Ok(id) => identities.push(id),
                Err(error) => {
                    tracing::warn!(service = %wire.hostname, %error, "ignored a subject alt name")
                }
            }
        }
        Ok(Service {
            key: NamespacedHostname::new(self.text(&wire.namespace), self.text(&wire.hostname)),
            vips,
            cidr_vips,
            ports: ports(&wire.ports)?,
            subject_alt_names: wire
                .subject_alt_names
                .iter()
                .map(|n| self.text(n))
                .collect(),
            identities,
            waypoint: self.gateway("waypoint", wire.waypoint)?,
            weighted_waypoints: wire
                .weighted_waypoints
                .into_iter()
                .map(|one| self.weighted_waypoint(one))
                .collect::<Result<_, _>>()?,
            load_balancing: wire
                .load_balancing
                .map(load_balancing)
                .transpose()?
                .unwrap_or_default(),
            ip_families: match pb::IpFamilies::try_from(wire.ip_families) {
                Ok(pb::IpFamilies::Automatic) => None,
                Ok(pb::IpFamilies::Ipv4Only) => Some(IpFamilies::Ipv4),
                Ok(pb::IpFamilies::Ipv6Only) => Some(IpFamilies::Ipv6),
                Ok(pb::IpFamilies::Dual) => Some(IpFamilies::Dual),
                Err(_) => return Err(unknown("ip_families", wire.ip_families)),
            },
            canonical: wire.canonical,
            // The other enum whose unknown values are tolerated (4.3).
            visibility: match pb::Visibility::try_from(wire.visibility) {
                Ok(pb::Visibility::Namespace) => Visibility::Namespace,
                Ok(pb::Visibility::Public) | Err(_) => Visibility::Public,
            },
            name: wire.name.into(),
        })
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        self.interner.text(text)
    }

    fn text_or(&mut self, text: &str, default: &str) -> Arc<str> {
        self.interner
            .text(if text.is_empty() { default } else { text })
    }

    fn locality(&mut self, wire: &pb::Locality) -> Locality {
        Locality {
            region: self.text(&wire.region),
            zone: self.text(&wire.zone),
            subzone: self.text(&wire.subzone),
        }
    }

    fn services(
        &mut self,
        wire: impl ExactSizeIterator<Item = (String, pb::PortList)>,
    ) -> Result<Vec<(NamespacedHostname, PortMap)>, DecodeError> {
        let mut services = Vec::with_capacity(wire.len());
        for (key, list) in wire {
            let key = name::<NamespacedHostname>("services", &key)?;
            let key = NamespacedHostname::new(self.text(&key.namespace), self.text(&key.hostname));
            services.push((key, ports(&list.ports)?));
        }
        services.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(services)
    }

    fn addresses(
        &mut self,
        wire: &[pb::NetworkAddress],
    ) -> Result<(Vec<NetworkAddr>, Vec<NetworkCidr>), DecodeError> {
        let (mut vips, mut ranges) = (Vec::new(), Vec::new());
        for one in wire {
            let network = self.text(&one.network);
            match range(one)? {
                Range::One(ip) => vips.push(NetworkAddr { network, ip }),
                Range::Many(cidr) => ranges.push(NetworkCidr { network, cidr }),
            }
        }
        Ok((vips, ranges))
    }

    fn weighted_waypoint(
        &mut self,
        wire: pb::WeightedWaypoint,
    ) -> Result<WeightedWaypoint, DecodeError> {
        Ok(WeightedWaypoint {
            destination: self
                .gateway("weighted_waypoints", wire.destination)?
                .ok_or(DecodeError::Destination("weighted_waypoints"))?,
            weight: wire.weight,
        })
    }

    fn gateway(
        &mut self,
        field: &'static str,
        wire: Option<pb::GatewayAddress>,
    ) -> Result<Option<GatewayAddress>, DecodeError> {
        use pb::gateway_address::Destination;
        let Some(wire) = wire else {
            return Ok(None);
        };
        let destination = match wire.destination {
            Some(Destination::Hostname(host)) => GatewayDestination::Hostname(
                NamespacedHostname::new(self.text(&host.namespace), self.text(&host.hostname)),
            ),
            Some(Destination::Address(addr)) => GatewayDestination::Address(NetworkAddr::new(
                self.text(&addr.network),
                ip(&addr.address)?,
            )),
            None => return Err(DecodeError::Destination(field)),
        };
        Ok(Some(GatewayAddress {
            destination,
            hbone_mtls_port: port("hbone_mtls_port", wire.hbone_mtls_port)?,
        }))
    }
}

/// One address, or a range of them.
enum Range {
    One(IpAddr),
    Many(IpNet),
}

/// A range of full length is an address (`ztunnel-contract` 3.1).
fn range(wire: &pb::NetworkAddress) -> Result<Range, DecodeError> {
    let written = raw_ip(&wire.address)?;
    let ip = canonical_ip(written);
    let Some(length) = wire.length else {
        return Ok(Range::One(ip));
    };
    let invalid = || DecodeError::PrefixLength {
        ip: written,
        length,
    };
    let mapped = if written.is_ipv6() && ip.is_ipv4() {
        96
    } else {
        0
    };
    let length = length.checked_sub(mapped).ok_or_else(invalid)?;
    let length = u8::try_from(length).map_err(|_| invalid())?;
    let net = IpNet::new(ip, length).map_err(|_| invalid())?.trunc();
    Ok(if net.prefix_len() == net.max_prefix_len() {
        Range::One(ip)
    } else {
        Range::Many(net)
    })
}

fn raw_ip(bytes: &[u8]) -> Result<IpAddr, DecodeError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Ok(v4.into())
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        Ok(v6.into())
    } else {
        Err(DecodeError::AddressLength(bytes.len()))
    }
}

fn ip(bytes: &[u8]) -> Result<IpAddr, DecodeError> {
    raw_ip(bytes).map(canonical_ip)
}

fn distinct_ips<B: AsRef<[u8]>>(wire: &[B]) -> Result<Vec<IpAddr>, DecodeError> {
    let mut ips = Vec::with_capacity(wire.len());
    for bytes in wire {
        let ip = ip(bytes.as_ref())?;
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok(ips)
}

fn port(field: &'static str, value: u32) -> Result<u16, DecodeError> {
    u16::try_from(value).map_err(|_| DecodeError::Port { field, value })
}

fn ports(wire: &[pb::Port]) -> Result<PortMap, DecodeError> {
    wire.iter()
        .map(|one| {
            let from = port("service_port", one.service_port)?;
            Ok((from, port("target_port", one.target_port)?))
        })
        .collect()
}

fn name<N: std::str::FromStr<Err = InvalidName>>(
    field: &'static str,
    text: &str,
) -> Result<N, DecodeError> {
    text.parse()
        .map_err(|source| DecodeError::Name { field, source })
}

fn policy_names(wire: &[String]) -> Result<Vec<NamespacedName>, DecodeError> {
    wire.iter()
        .map(|text| name("authorization_policies", text))
        .collect()
}

fn application_tunnel(wire: pb::ApplicationTunnel) -> Result<ApplicationTunnel, DecodeError> {
    use pb::application_tunnel::Protocol as Wire;
    let protocol = match Wire::try_from(wire.protocol) {
        Ok(Wire::None) => TunnelProtocol::None,
        Ok(Wire::Proxy) => TunnelProtocol::Proxy,
        Err(_) => return Err(unknown("application_tunnel.protocol", wire.protocol)),
    };
    let port = port("application_tunnel.port", wire.port)?;
    Ok(ApplicationTunnel {
        protocol,
        port: (port != 0).then_some(port),
    })
}

fn load_balancing(wire: pb::LoadBalancing) -> Result<LoadBalancing, DecodeError> {
    use pb::load_balancing::{HealthPolicy as WireHealth, Mode, Scope};
    let scope = |value: i32| match Scope::try_from(value) {
        Ok(Scope::Region) => Ok(RoutingScope::Region),
        Ok(Scope::Zone) => Ok(RoutingScope::Zone),
        Ok(Scope::Subzone) => Ok(RoutingScope::Subzone),
        Ok(Scope::Node) => Ok(RoutingScope::Node),
        Ok(Scope::Cluster) => Ok(RoutingScope::Cluster),
        Ok(Scope::Network) => Ok(RoutingScope::Network),
        Ok(Scope::UnspecifiedScope) | Err(_) => Err(unknown("routing_preference", value)),
    };
    Ok(LoadBalancing {
        routing_preferences: wire
            .routing_preference
            .into_iter()
            .map(scope)
            .collect::<Result<_, _>>()?,
        mode: match Mode::try_from(wire.mode) {
            Ok(Mode::UnspecifiedMode) => LoadBalancingMode::Standard,
            Ok(Mode::Strict) => LoadBalancingMode::Strict,
            Ok(Mode::Failover) => LoadBalancingMode::Failover,
            Ok(Mode::Passthrough) => LoadBalancingMode::Passthrough,
            Err(_) => return Err(unknown("load_balancing.mode", wire.mode)),
        },
        health_policy: match WireHealth::try_from(wire.health_policy) {
            Ok(WireHealth::OnlyHealthy) => HealthPolicy::OnlyHealthy,
            Ok(WireHealth::AllowAll) => HealthPolicy::AllowAll,
            Err(_) => return Err(unknown("health_policy", wire.health_policy)),
        },
    })
}

fn unknown(field: &'static str, value: i32) -> DecodeError {
    DecodeError::Enum { field, value }
}

/// Service account of workloads that name none.
pub(crate) const DEFAULT_SERVICE_ACCOUNT: &str = "default";
/// Cluster of workloads that name none.
pub(crate) const DEFAULT_CLUSTER: &str = "Kubernetes";
/// Load-balancing weight of workloads that name none.
pub(crate) const DEFAULT_CAPACITY: u32 = 1;

#[cfg(test)]
mod tests;
