//! What is known of backends and endpoints, in the types that the data path
//! reads. Made by `decode`; immutable and shared.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_proto::waypoint as proto;
use ambit_types::{Locality, SpiffeId};

use crate::budget::BudgetRule;
use crate::hash::HashPolicy;
use crate::outlier::{Accrual, Outlier};

/// One place where a backend is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Of the workload; what is counted at an endpoint survives updates by it.
    pub uid: Arc<str>,
    /// The first is dialled; empty with `hostname`.
    pub addresses: Vec<IpAddr>,
    /// To resolve first.
    pub hostname: Option<Arc<str>>,
    /// HBONE to port 15008; otherwise plain TCP.
    pub hbone: bool,
    /// Who must answer; `None` with plain TCP.
    pub identity: Option<SpiffeId>,
    /// Service port to target port.
    pub ports: Vec<(u16, u16)>,
    /// Where it runs.
    pub locality: Locality,
    /// Where it runs.
    pub node: Arc<str>,
    /// Where it runs.
    pub network: Arc<str>,
    /// Where it runs.
    pub cluster_id: Arc<str>,
    /// At least 1.
    pub weight: u32,
    /// Whether it may be used.
    pub health: Health,
    /// For subsets.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// For telemetry.
    pub workload: WorkloadNames,
}

/// Names of an endpoint's workload, for telemetry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkloadNames {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Of the Deployment, the Job, ...
    pub name: Arc<str>,
    /// `deployment`, `pod`, ...
    pub kind: Arc<str>,
    /// `service.istio.io/canonical-name`.
    pub canonical_name: Arc<str>,
    /// `service.istio.io/canonical-revision`.
    pub canonical_revision: Arc<str>,
}

/// Whether an endpoint may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    Ready,
    /// Only where the backend publishes unready addresses.
    NotReady,
    /// Only for sessions that it has.
    Draining,
}

impl Endpoint {
    /// The port behind a service port; `None`: it doesn't serve that.
    #[must_use]
    pub fn target(&self, service_port: u16) -> Option<u16> {
        self.ports
            .iter()
            .find_map(|(service, target)| (*service == service_port).then_some(*target))
    }

    /// A label's value. Those of the topology say where it runs, whatever is
    /// written (`topology.kubernetes.io/zone`, `topology.istio.io/cluster`, ...).
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        let place = (&*self.node, &*self.network, &*self.cluster_id);
        label(key, &self.locality, place, &self.labels)
    }
}

/// Where the waypoint itself runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Local {
    /// Region, zone, subzone.
    pub locality: Locality,
    /// Its node.
    pub node: Arc<str>,
    /// Its network.
    pub network: Arc<str>,
    /// Its cluster.
    pub cluster_id: Arc<str>,
    /// Of its pod.
    pub labels: Vec<(Box<str>, Box<str>)>,
}

impl Local {
    /// As [`Endpoint::label`].
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        let place = (&*self.node, &*self.network, &*self.cluster_id);
        label(key, &self.locality, place, &self.labels)
    }
}

fn label<'a>(
    key: &str,
    locality: &'a Locality,
    (node, network, cluster): (&'a str, &'a str, &'a str),
    labels: &'a [(Box<str>, Box<str>)],
) -> Option<&'a str> {
    let place = match key {
        "topology.kubernetes.io/region" => &*locality.region,
        "topology.kubernetes.io/zone" => &*locality.zone,
        "topology.istio.io/subzone" => &*locality.subzone,
        "kubernetes.io/hostname" => node,
        "topology.istio.io/network" => network,
        "topology.istio.io/cluster" => cluster,
        _ => "",
    };
    if !place.is_empty() {
        return Some(place);
    }
    let mut labels = labels.iter();
    labels.find_map(|(name, value)| (**name == *key).then_some(&**value))
}

/// How a service is called (resource `Backend`).
#[derive(Debug)]
pub struct Backend {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
    /// Its full host name.
    pub hostname: Arc<str>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Of the backend as a whole.
    pub policy: Arc<Policy>,
    /// Its subsets.
    pub subsets: Vec<Subset>,
    /// Where endpoints come from.
    pub resolution: Resolution,
    /// Unready endpoints are used too.
    pub publish_not_ready: bool,
    /// Draining endpoints keep their sessions.
    pub persistent_sessions: bool,
    /// Where endpoints are preferred; a locality setting wins.
    pub topology: Option<Topology>,
}

/// One port of a backend.
#[derive(Debug)]
pub struct Port {
    /// The service port.
    pub number: u16,
    /// Its name.
    pub name: Arc<str>,
    /// What it speaks.
    pub protocol: proto::Protocol,
    /// `None`: the backend's.
    pub policy: Option<Arc<Policy>>,
}

/// A part of a backend's endpoints.
#[derive(Debug)]
pub struct Subset {
    /// Its name.
    pub name: Box<str>,
    /// All of them.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// Merged with the backend's; `None`: the backend's.
    pub policy: Option<Arc<Policy>>,
    /// By service port.
    pub ports: Vec<(u16, Arc<Policy>)>,
}

/// Where the endpoints of a backend come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// From the configuration.
    Static,
    /// Host names are resolved, all addresses are used.
    Dns,
    /// Host names are resolved, one address at a time is used.
    DnsRoundRobin,
    /// To the address that the client dialled.
    Passthrough,
}

/// Where endpoints are preferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Others are never used.
    pub strict: bool,
    /// Most important first.
    pub scopes: Vec<TopologyScope>,
}

/// What an endpoint may have in common with the waypoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the wire's values")]
pub enum TopologyScope {
    Network,
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
}

/// Merged settings for one port or subset.
#[derive(Debug, Default)]
pub struct Policy {
    /// Which endpoint.
    pub balancer: Balancer,
    /// Bounds and times of connections.
    pub pool: Pool,
    /// Ejection; `None`: off.
    pub outlier: Option<Outlier>,
    /// TLS originated by the waypoint.
    pub tls: Option<Arc<Tls>>,
    /// Bound of retries.
    pub retry_budget: Option<BudgetRule>,
    /// 0: none; 1, 2: versions.
    pub proxy_protocol: u8,
    /// Everything is answered so.
    pub invalid: Option<Refusal>,
    /// Linkerd's failure accrual.
    pub accrual: Option<Accrual>,
}

/// An answer in place of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For logs, never for a body.
    pub reason: Box<str>,
    /// HTTP status.
    pub status: u16,
}

/// How endpoints are chosen.
#[derive(Debug, Clone, Default)]
pub struct Balancer {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What is hashed.
    pub hash: Option<HashPolicy>,
    /// Slow start.
    pub warmup: Option<Warmup>,
    /// Preference by locality.
    pub locality: Option<LocalityBalancing>,
}

/// How endpoints are chosen (`waypoint-contract` 5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Of two random endpoints the one with fewer active requests.
    #[default]
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// By weight.
    Random,
    /// To the address that the client dialled.
    Passthrough,
    /// Consistent, ketama-like; at least so many entries.
    RingHash {
        /// 1,024 unless said otherwise.
        entries: u32,
    },
    /// Consistent, by table.
    Maglev {
        /// A prime; 65,537 unless said otherwise.
        size: u32,
    },
    /// Of two random endpoints the one with less expected latency.
    PeakEwma,
}

/// Slow start of new endpoints.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warmup {
    /// How long an endpoint is new.
    pub duration: Duration,
    /// Of its weight, at the start.
    pub minimum_percent: u32,
    /// 1 is linear.
    pub aggression: f64,
}

/// Preference by locality (DestinationRule).
#[derive(Debug, Clone, Default)]
pub struct LocalityBalancing {
    /// False: endpoints are equal wherever they are.
    pub enabled: bool,
    /// The first that matches.
    pub distribute: Vec<Distribute>,
    /// Region to region.
    pub failover: Vec<(Box<str>, Box<str>)>,
    /// Label keys, or key=value, most important first.
    pub failover_priority: Vec<Box<str>>,
}

/// Spread of requests from one locality.
#[derive(Debug, Clone)]
pub struct Distribute {
    /// Pattern of the waypoint's locality.
    pub from: Box<str>,
    /// Patterns of endpoints' localities, with weights.
    pub to: Vec<(Box<str>, u32)>,
}

/// Bounds and times of connections; `None` is unlimited.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names of waypoint-contract 3.5")]
pub struct Pool {
    pub max_connections: Option<u32>,
    pub connect_timeout: Option<Duration>,
    pub keepalive: Option<KeepAlive>,
    pub max_connection_duration: Option<Duration>,
    pub tcp_idle_timeout: Option<Duration>,
    pub max_pending_requests: Option<u32>,
    pub max_requests: Option<u32>,
    pub max_requests_per_connection: Option<u32>,
    pub max_retries: Option<u32>,
    pub http_idle_timeout: Option<Duration>,
    pub upgrade_h2: bool,
    pub use_client_protocol: bool,
    pub max_concurrent_streams: Option<u32>,
}

impl Default for Pool {
    /// Nothing is bounded but idleness, to one hour (1.9).
    fn default() -> Self {
        Self {
            max_connections: None,
            connect_timeout: None,
            keepalive: None,
            max_connection_duration: None,
            tcp_idle_timeout: Some(ONE_HOUR),
            max_pending_requests: None,
            max_requests: None,
            max_requests_per_connection: None,
            max_retries: None,
            http_idle_timeout: Some(ONE_HOUR),
            upgrade_h2: false,
            use_client_protocol: false,
            max_concurrent_streams: None,
        }
    }
}

/// TCP keep-alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the socket's options")]
pub struct KeepAlive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// TLS originated by the waypoint.
#[derive(Clone, PartialEq)]
pub struct Tls(pub proto::BackendTls);

impl fmt::Debug for Tls {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("hostname", &self.0.hostname)
            .field("dns_names", &self.0.dns_names)
            .field("uris", &self.0.uris)
            .field("mutual", &!self.0.private_key_pem.is_empty())
            .finish_non_exhaustive()
    }
}

/// Everything that one target set is run by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The service port.
    pub port: u16,
    /// Endpoints must have all of them.
    pub subset: Vec<(Box<str>, Box<str>)>,
    /// The merged policy.
    pub policy: Arc<Policy>,
    /// What the port speaks.
    pub protocol: proto::Protocol,
    /// Where endpoints come from.
    pub resolution: Resolution,
    /// Unready endpoints are used too.
    pub publish_not_ready: bool,
    /// Draining endpoints keep their sessions.
    pub persistent_sessions: bool,
    /// Where endpoints are preferred.
    pub topology: Option<Topology>,
}

impl Backend {
    /// What holds for a port and a subset (empty: all endpoints): the first
    /// that is there of the subset's for the port, the subset's, the port's,
    /// the backend's. `None`: there is no such port or subset.
    #[must_use]
    pub fn settings(&self, port: u16, subset: &str) -> Option<Settings> {
        let at = self.ports.iter().find(|p| p.number == port)?;
        let subset = match subset {
            "" => None,
            name => Some(self.subsets.iter().find(|s| *s.name == *name)?),
        };
        let of_subset = subset.and_then(|subset| {
            let of_port = subset.ports.iter().find(|(number, _)| *number == port);
            of_port.map(|(_, policy)| policy).or(subset.policy.as_ref())
        });
        let policy = of_subset.or(at.policy.as_ref()).unwrap_or(&self.policy);
        Some(Settings {
            port,
            subset: subset.map(|s| s.labels.clone()).unwrap_or_default(),
            policy: Arc::clone(policy),
            protocol: at.protocol,
            resolution: self.resolution,
            publish_not_ready: self.publish_not_ready,
            persistent_sessions: self.persistent_sessions,
            topology: self.topology.clone(),
        })
    }
}

const ONE_HOUR: Duration = Duration::from_secs(3600);
