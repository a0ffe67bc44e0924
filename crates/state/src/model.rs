//! The nouns of the view: workloads, services, and how they refer to each other.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_types::{
    Locality, NamespacedHostname, NamespacedName, NetworkAddr, SpiffeId, WorkloadType, WorkloadUid,
};
use ipnet::IpNet;

/// How connections to a workload are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain TCP.
    Tcp,
    /// HBONE on its port 15008.
    Hbone,
}

/// Whether a workload shares its node's addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    /// Addresses of its own.
    #[default]
    Standard,
    /// The node's: never found by address.
    HostNetwork,
}

/// Readiness as the control plane knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Takes connections through services.
    #[default]
    Healthy,
    /// Only reached by address, or where a service allows all.
    Unhealthy,
}

/// Metadata that an application expects in front of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ApplicationTunnel {
    /// In which form.
    pub protocol: TunnelProtocol,
    /// The port to dial instead; `None` keeps the authority's.
    pub port: Option<u16>,
}

/// Form of an [`ApplicationTunnel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunnelProtocol {
    /// No metadata.
    None,
    /// A PROXY protocol v2 header.
    Proxy,
}

/// Where a waypoint or a network gateway is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GatewayAddress {
    /// Its name or its address.
    pub destination: GatewayDestination,
    /// Its HBONE port.
    pub hbone_mtls_port: u16,
}

/// The name or the address of a [`GatewayAddress`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GatewayDestination {
    /// A service's or a workload's hostname.
    Hostname(NamespacedHostname),
    /// A service's or a workload's address.
    Address(NetworkAddr),
}

impl fmt::Display for GatewayDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hostname(name) => fmt::Display::fmt(name, f),
            Self::Address(addr) => fmt::Display::fmt(addr, f),
        }
    }
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.destination, f)
    }
}

/// A share of a service's connections for one waypoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WeightedWaypoint {
    /// The waypoint.
    pub destination: GatewayAddress,
    /// Its weight; 0 is never chosen.
    pub weight: u32,
}

/// Service ports and where they lead, sorted by service port. A target of 0
/// is a named port: the endpoint's own map decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PortMap(Box<[(u16, u16)]>);

impl PortMap {
    /// The target of a service port.
    pub fn target(&self, service_port: u16) -> Option<u16> {
        let at = self
            .0
            .binary_search_by_key(&service_port, |(port, _)| *port);
        at.ok().and_then(|at| self.0.get(at)).map(|(_, to)| *to)
    }

    /// All of them, by service port.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<(u16, u16)> for PortMap {
    /// A port that comes twice leads where it was said last.
    fn from_iter<I: IntoIterator<Item = (u16, u16)>>(ports: I) -> Self {
        let ports: std::collections::BTreeMap<u16, u16> = ports.into_iter().collect();
        Self(ports.into_iter().collect())
    }
}

/// One endpoint: a pod, a WorkloadEntry, an inline endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Primary key.
    pub uid: WorkloadUid,
    /// Name of the pod or entry.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Trust domain of its identity.
    pub trust_domain: Arc<str>,
    /// Service account of its identity.
    pub service_account: Arc<str>,
    /// Addresses, canonical.
    pub ips: Vec<IpAddr>,
    /// Resolved by DNS where there are no addresses.
    pub hostname: Arc<str>,
    /// Network that its addresses belong to.
    pub network: Arc<str>,
    /// Whether its addresses are its node's.
    pub network_mode: NetworkMode,
    /// Reaches it from other networks.
    pub network_gateway: Option<GatewayAddress>,
    /// How connections to it are carried.
    pub protocol: Protocol,
    /// Connections to its address go there first.
    pub waypoint: Option<GatewayAddress>,
    /// The application speaks HBONE itself.
    pub native_tunnel: bool,
    /// Metadata that the application expects.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Services it belongs to, with its own ports, sorted by key.
    pub services: Vec<(NamespacedHostname, PortMap)>,
    /// Readiness.
    pub health: Health,
    /// Weight in load balancing.
    pub capacity: u32,
    /// Selector-scoped policies that bind it.
    pub authorization_policies: Vec<NamespacedName>,
    /// Node it runs on.
    pub node: Arc<str>,
    /// Cluster it runs in.
    pub cluster_id: Arc<str>,
    /// Where it runs.
    pub locality: Locality,
    /// Label `app`, for telemetry.
    pub canonical_name: Arc<str>,
    /// Label `version`, for telemetry.
    pub canonical_revision: Arc<str>,
    /// Name of the owning object.
    pub workload_name: Arc<str>,
    /// Kind of the owning object.
    pub workload_type: WorkloadType,
    /// What a peer that reaches it by address must prove: its own identity.
    pub(crate) expected: Arc<[SpiffeId]>,
}

impl Workload {
    /// Its identity. `None` only if a static file gave it no trust domain: then
    /// it has no certificate and nobody can reach it over HBONE.
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.expected.first()
    }

    /// Its ports in a service; `None` if it isn't an endpoint of it.
    pub fn ports_in(&self, service: &NamespacedHostname) -> Option<&PortMap> {
        self.services
            .binary_search_by(|(key, _)| key.cmp(service))
            .ok()
            .and_then(|at| self.services.get(at))
            .map(|(_, ports)| ports)
    }

    /// True for a pod, as its uid says.
    pub(crate) fn is_pod(&self) -> bool {
        self.uid.as_str().contains("//Pod/")
    }
}

/// A name that clients dial, with its virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Kubernetes name.
    pub name: Arc<str>,
    /// Namespace and hostname, the primary key.
    pub key: NamespacedHostname,
    /// Virtual addresses; none for a headless service.
    pub vips: Vec<NetworkAddr>,
    /// Virtual address ranges.
    pub cidr_vips: Vec<NetworkCidr>,
    /// Its ports.
    pub ports: PortMap,
    /// Further identities that its endpoints may prove, as they were sent.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Those of them that are workload identities.
    pub identities: Vec<SpiffeId>,
    /// Connections to it go there first.
    pub waypoint: Option<GatewayAddress>,
    /// Shares of several waypoints; wins over `waypoint`.
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    /// Which endpoints are eligible.
    pub load_balancing: LoadBalancing,
    /// Address families that it answers with; `None` leaves it open.
    pub ip_families: Option<IpFamilies>,
    /// Wins where several namespaces have this hostname.
    pub canonical: bool,
    /// Who may see it.
    pub visibility: Visibility,
}

impl Service {
    /// True if clients of this namespace may see it; no namespace sees all.
    pub(crate) fn visible_to(&self, namespace: Option<&str>) -> bool {
        match self.visibility {
            Visibility::Public => true,
            Visibility::Namespace => namespace.is_none_or(|ns| ns == &*self.key.namespace),
        }
    }

    /// True if connections to it must pass a waypoint.
    pub fn has_waypoint(&self) -> bool {
        self.waypoint.is_some() || self.weighted_waypoints.iter().any(|one| one.weight > 0)
    }
}

/// A range of virtual addresses on a network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NetworkCidr {
    /// Network name.
    pub network: Arc<str>,
    /// Canonical range, without host bits.
    pub cidr: IpNet,
}

/// Address families of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of address families")]
pub enum IpFamilies {
    Ipv4,
    Ipv6,
    Dual,
}

impl IpFamilies {
    /// True if an address is of one of the families.
    pub fn accepts(self, ip: IpAddr) -> bool {
        match self {
            Self::Ipv4 => ip.is_ipv4(),
            Self::Ipv6 => ip.is_ipv6(),
            Self::Dual => true,
        }
    }
}

/// Who may see a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Every namespace.
    #[default]
    Public,
    /// Its own namespace.
    Namespace,
}

/// Which endpoints of a service are eligible.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LoadBalancing {
    /// Preferences, the first the strongest.
    pub routing_preferences: Vec<RoutingScope>,
    /// What they do.
    pub mode: LoadBalancingMode,
    /// Whether readiness counts.
    pub health_policy: HealthPolicy,
}

/// What is compared between a source and an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of the wire enum")]
pub enum RoutingScope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

/// What routing preferences do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum LoadBalancingMode {
    /// Nothing.
    #[default]
    Standard,
    /// An endpoint must match all of them.
    Strict,
    /// The endpoints that match the most are used.
    Failover,
    /// No endpoint: the original destination.
    Passthrough,
}

/// Whether readiness counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum HealthPolicy {
    /// Only healthy endpoints.
    #[default]
    OnlyHealthy,
    /// All of them.
    AllowAll,
}
