//! `ambit.waypoint.v1` backends and endpoints into the types of this crate;
//! what can't be read names its field.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_proto::waypoint as proto;
use ambit_types::{InvalidSpiffeId, Locality, SpiffeId};
use http::HeaderName;
use proto::{consistent_hash, retry_budget};

use crate::budget::BudgetRule;
use crate::hash::HashPolicy;
use crate::model::{
    Algorithm, Backend, Balancer, Distribute, Endpoint, Health, KeepAlive, LocalityBalancing,
    Policy, Pool, Port, Refusal, Resolution, Subset, Tls, Topology, TopologyScope, Warmup,
    WorkloadNames,
};
use crate::outlier::{Accrual, Outlier};

/// A resource that can't be used: it is refused as a whole.
#[derive(Debug, thiserror::Error)]
#[error("{field}")]
pub struct InvalidBackend {
    /// Where, as a path into the message.
    pub field: String,
    /// What is wrong there.
    pub source: Wrong,
}

/// What is wrong with a field.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// A port.
    #[error("{port} is no port")]
    Port {
        /// As written.
        port: u32,
    },
    /// An address.
    #[error("an address has {length} bytes, not 4 or 16")]
    Address {
        /// Its bytes.
        length: usize,
    },
    /// An identity.
    #[error(transparent)]
    Identity(#[from] InvalidSpiffeId),
    /// A header's name.
    #[error("{name:?} is no header name")]
    HeaderName {
        /// As written.
        name: Box<str>,
    },
    /// An enum's number that this version doesn't know.
    #[error("{number} is unknown")]
    Unknown {
        /// The number.
        number: i32,
    },
    /// Something that must be there.
    #[error("nothing is set")]
    Nothing,
}

/// The result of reading one field.
pub(crate) type Decoded<T> = Result<T, InvalidBackend>;

pub(crate) fn wrong<T>(field: impl Into<String>, source: Wrong) -> Decoded<T> {
    Err(InvalidBackend {
        field: field.into(),
        source,
    })
}

fn under<T>(outer: &str, result: Decoded<T>) -> Decoded<T> {
    result.map_err(|inner| InvalidBackend {
        field: format!("{outer}.{}", inner.field),
        source: inner.source,
    })
}

fn list<M, T>(
    field: &str,
    messages: &[M],
    mut read: impl FnMut(&M) -> Decoded<T>,
) -> Decoded<Vec<T>> {
    let one = |(at, message)| under(&format!("{field}[{at}]"), read(message));
    messages.iter().enumerate().map(one).collect()
}

fn port(field: &str, port: u32) -> Decoded<u16> {
    u16::try_from(port).or_else(|_| wrong(field, Wrong::Port { port }))
}

fn labels(labels: &[proto::Label]) -> Vec<(Box<str>, Box<str>)> {
    labels
        .iter()
        .map(|label| (label.key.as_str().into(), label.value.as_str().into()))
        .collect()
}

impl Endpoint {
    /// Reads an endpoint.
    ///
    /// # Errors
    /// The first field that can't be used.
    pub fn decode(message: &proto::Endpoint) -> Result<Self, InvalidBackend> {
        let addresses = message
            .addresses
            .iter()
            .map(|bytes| match bytes.len() {
                4 => Ok(<[u8; 4]>::try_from(&**bytes).map_or(IpAddr::from([0; 4]), IpAddr::from)),
                16 => {
                    Ok(<[u8; 16]>::try_from(&**bytes).map_or(IpAddr::from([0; 16]), IpAddr::from))
                }
                length => wrong("addresses", Wrong::Address { length }),
            })
            .collect::<Decoded<Vec<_>>>()?;
        if addresses.is_empty() && message.hostname.is_empty() {
            return wrong("addresses", Wrong::Nothing);
        }
        let identity = if message.service_account.is_empty() || message.trust_domain.is_empty() {
            None
        } else {
            let id = SpiffeId::new(
                message.trust_domain.as_str(),
                message.namespace.as_str(),
                message.service_account.as_str(),
            );
            match id {
                Ok(id) => Some(id),
                Err(error) => return wrong("service_account", error.into()),
            }
        };
        let locality = message.locality.as_ref();
        let text = |of: fn(&proto::Locality) -> &String| -> Arc<str> {
            locality.map_or("", |l| of(l).as_str()).into()
        };
        Ok(Self {
            uid: message.uid.as_str().into(),
            addresses,
            hostname: (!message.hostname.is_empty()).then(|| message.hostname.as_str().into()),
            hbone: message.hbone,
            identity,
            ports: list("ports", &message.ports, |mapping| {
                Ok((
                    port("service", mapping.service)?,
                    port("target", mapping.target)?,
                ))
            })?,
            locality: Locality {
                region: text(|l| &l.region),
                zone: text(|l| &l.zone),
                subzone: text(|l| &l.subzone),
            },
            node: message.node.as_str().into(),
            network: message.network.as_str().into(),
            cluster_id: message.cluster_id.as_str().into(),
            weight: message.weight.max(1),
            health: match proto::Health::try_from(message.health) {
                Ok(proto::Health::Ready) => Health::Ready,
                Ok(proto::Health::NotReady) => Health::NotReady,
                Ok(proto::Health::Draining) => Health::Draining,
                Err(_) => {
                    return wrong(
                        "health",
                        Wrong::Unknown {
                            number: message.health,
                        },
                    );
                }
            },
            labels: labels(&message.labels),
            workload: WorkloadNames {
                namespace: message.namespace.as_str().into(),
                name: message.workload_name.as_str().into(),
                kind: message.workload_type.as_str().into(),
                canonical_name: message.canonical_name.as_str().into(),
                canonical_revision: message.canonical_revision.as_str().into(),
            },
        })
    }
}

impl Backend {
    /// Reads a backend.
    ///
    /// # Errors
    /// The first field that can't be used.
    pub fn decode(message: &proto::Backend) -> Result<Self, InvalidBackend> {
        let optional = |field: &str, message: &Option<proto::TrafficPolicy>| {
            message
                .as_ref()
                .map(|m| under(field, policy(m)).map(Arc::new))
                .transpose()
        };
        Ok(Self {
            namespace: message.namespace.as_str().into(),
            name: message.name.as_str().into(),
            hostname: message.hostname.as_str().into(),
            ports: list("ports", &message.ports, |at| {
                Ok(Port {
                    number: port("number", at.number)?,
                    name: at.name.as_str().into(),
                    protocol: known(
                        proto::Protocol::try_from(at.protocol),
                        "protocol",
                        at.protocol,
                    )?,
                    policy: optional("policy", &at.policy)?,
                })
            })?,
            policy: optional("policy", &message.policy)?.unwrap_or_default(),
            subsets: list("subsets", &message.subsets, |subset| {
                Ok(Subset {
                    name: subset.name.as_str().into(),
                    labels: labels(&subset.labels),
                    policy: optional("policy", &subset.policy)?,
                    ports: list("ports", &subset.ports, |at| {
                        let policy = optional("policy", &at.policy)?.unwrap_or_default();
                        Ok((port("number", at.number)?, policy))
                    })?,
                })
            })?,
            resolution: match known(
                proto::Resolution::try_from(message.resolution),
                "resolution",
                message.resolution,
            )? {
                proto::Resolution::Static => Resolution::Static,
                proto::Resolution::Dns => Resolution::Dns,
                proto::Resolution::DnsRoundRobin => Resolution::DnsRoundRobin,
                proto::Resolution::Passthrough => Resolution::Passthrough,
            },
            publish_not_ready: message.publish_not_ready,
            persistent_sessions: message.persistent_sessions,
            topology: message
                .topology
                .as_ref()
                .map(|m| under("topology", topology(m)))
                .transpose()?,
        })
    }
}

fn known<T, E>(value: Result<T, E>, field: &str, number: i32) -> Decoded<T> {
    value.or_else(|_| wrong(field, Wrong::Unknown { number }))
}

fn topology(message: &proto::TopologyPreference) -> Decoded<Topology> {
    use proto::TopologyScope as Wire;
    let scope = |number: &i32| {
        Ok(match known(Wire::try_from(*number), "scopes", *number)? {
            Wire::Network => TopologyScope::Network,
            Wire::Region => TopologyScope::Region,
            Wire::Zone => TopologyScope::Zone,
            Wire::Subzone => TopologyScope::Subzone,
            Wire::Node => TopologyScope::Node,
            Wire::Cluster => TopologyScope::Cluster,
        })
    };
    Ok(Topology {
        strict: message.strict,
        scopes: message.scopes.iter().map(scope).collect::<Decoded<_>>()?,
    })
}

fn policy(message: &proto::TrafficPolicy) -> Decoded<Policy> {
    let ms = Duration::from_millis;
    Ok(Policy {
        balancer: match &message.load_balancer {
            Some(m) => under("load_balancer", balancer(m))?,
            None => Balancer::default(),
        },
        pool: message.pool.as_ref().map(pool).unwrap_or_default(),
        outlier: message.outlier.as_ref().map(|m| Outlier {
            consecutive_5xx: m.consecutive_5xx,
            consecutive_gateway_errors: m.consecutive_gateway_errors,
            consecutive_local_failures: m.consecutive_local_failures,
            split_local_errors: m.split_local_errors,
            interval: ms(or(m.interval_ms, 10_000)),
            base_ejection: ms(or(m.base_ejection_ms, 30_000)),
            max_ejection: ms(or(m.max_ejection_ms, 300_000)),
            max_ejection_percent: m.max_ejection_percent,
            min_health_percent: m.min_health_percent,
        }),
        tls: message.tls.clone().map(|tls| Arc::new(Tls(tls))),
        retry_budget: message
            .retry_budget
            .as_ref()
            .map(|m| under("retry_budget", budget(m)))
            .transpose()?,
        proxy_protocol: u8::try_from(message.proxy_protocol).unwrap_or_default(),
        invalid: message.invalid.as_ref().map(|invalid| Refusal {
            reason: invalid.reason.as_str().into(),
            status: u16::try_from(or(u64::from(invalid.status), 503)).unwrap_or(503),
        }),
        accrual: message
            .accrual
            .as_ref()
            .filter(|m| m.consecutive_failures > 0)
            .map(|m| Accrual {
                consecutive_failures: m.consecutive_failures,
                min_penalty: ms(or(m.min_penalty_ms, 1_000)),
                max_penalty: ms(or(m.max_penalty_ms, 60_000)),
                jitter: m.jitter,
            }),
    })
}

const fn or(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

fn balancer(message: &proto::LoadBalancer) -> Decoded<Balancer> {
    use proto::Algorithm as Wire;
    let size = |default: u32| {
        let size = message.hash.as_ref().map_or(0, |hash| hash.size);
        u32::try_from(or(size, u64::from(default))).unwrap_or(u32::MAX)
    };
    let algorithm = known(
        Wire::try_from(message.algorithm),
        "algorithm",
        message.algorithm,
    )?;
    Ok(Balancer {
        algorithm: match algorithm {
            Wire::LeastRequest => Algorithm::LeastRequest,
            Wire::RoundRobin => Algorithm::RoundRobin,
            Wire::Random => Algorithm::Random,
            Wire::Passthrough => Algorithm::Passthrough,
            Wire::RingHash => Algorithm::RingHash {
                entries: size(1024),
            },
            Wire::Maglev => Algorithm::Maglev { size: size(65_537) },
            Wire::PeakEwma => Algorithm::PeakEwma,
        },
        hash: message
            .hash
            .as_ref()
            .map(|m| under("hash", hash(m)))
            .transpose()?,
        warmup: message
            .warmup
            .as_ref()
            .filter(|m| m.duration_ms > 0)
            .map(|m| Warmup {
                duration: Duration::from_millis(m.duration_ms),
                minimum_percent: m.minimum_percent,
                aggression: if m.aggression > 0.0 {
                    m.aggression
                } else {
                    1.0
                },
            }),
        locality: message.locality.as_ref().map(|m| LocalityBalancing {
            enabled: m.enabled,
            distribute: m
                .distribute
                .iter()
                .map(|d| Distribute {
                    from: d.from.as_str().into(),
                    to: d
                        .to
                        .iter()
                        .map(|to| (to.locality.as_str().into(), to.weight))
                        .collect(),
                })
                .collect(),
            failover: m
                .failover
                .iter()
                .map(|f| (f.from.as_str().into(), f.to.as_str().into()))
                .collect(),
            failover_priority: m
                .failover_priority
                .iter()
                .map(|key| key.as_str().into())
                .collect(),
        }),
    })
}

fn hash(message: &proto::ConsistentHash) -> Decoded<HashPolicy> {
    Ok(match message.key.as_ref() {
        Some(consistent_hash::Key::Header(name)) => match HeaderName::try_from(name.as_str()) {
            Ok(name) => HashPolicy::Header(name),
            Err(_) => {
                return wrong(
                    "header",
                    Wrong::HeaderName {
                        name: name.as_str().into(),
                    },
                );
            }
        },
        Some(consistent_hash::Key::Cookie(cookie)) => HashPolicy::Cookie {
            name: cookie.name.as_str().into(),
            attributes: cookie.ttl_ms.map(|ttl| attributes(cookie, ttl)),
        },
        Some(consistent_hash::Key::SourceIp(_)) => HashPolicy::SourceIp,
        Some(consistent_hash::Key::Query(name)) => HashPolicy::Query(name.as_str().into()),
        None => return wrong("key", Wrong::Nothing),
    })
}

/// What is written behind a cookie that is made; 0 is a session cookie.
fn attributes(cookie: &proto::HashCookie, ttl_ms: u64) -> Box<str> {
    let mut out = String::new();
    if ttl_ms > 0 {
        out.push_str(&format!("; Max-Age={}", ttl_ms.div_ceil(1000)));
    }
    if !cookie.path.is_empty() {
        out.push_str(&format!("; Path={}", cookie.path));
    }
    for attribute in &cookie.attributes {
        out.push_str(&format!("; {}", attribute.name));
        if !attribute.value.is_empty() {
            out.push_str(&format!("={}", attribute.value));
        }
    }
    out.push_str("; HttpOnly");
    out.into()
}

fn pool(message: &proto::ConnectionPool) -> Pool {
    let time = |ms: Option<u64>| ms.filter(|ms| *ms > 0).map(Duration::from_millis);
    let bound = |count: Option<u32>| count.filter(|count| *count > 0);
    let defaults = Pool::default();
    // Absent is the default, 0 is off.
    let idle = |ms: Option<u64>, default| match ms {
        None => default,
        Some(_) => time(ms),
    };
    Pool {
        max_connections: bound(message.max_connections),
        connect_timeout: time(message.connect_timeout_ms),
        keepalive: message.keepalive.as_ref().map(|k| KeepAlive {
            probes: bound(Some(k.probes)),
            time: time(Some(k.time_ms)),
            interval: time(Some(k.interval_ms)),
        }),
        max_connection_duration: time(message.max_connection_duration_ms),
        tcp_idle_timeout: idle(message.tcp_idle_timeout_ms, defaults.tcp_idle_timeout),
        max_pending_requests: bound(message.max_pending_requests),
        max_requests: bound(message.max_requests),
        max_requests_per_connection: bound(message.max_requests_per_connection),
        max_retries: bound(message.max_retries),
        http_idle_timeout: idle(message.http_idle_timeout_ms, defaults.http_idle_timeout),
        upgrade_h2: message.upgrade_h2,
        use_client_protocol: message.use_client_protocol,
        max_concurrent_streams: bound(message.max_concurrent_streams),
    }
}

fn budget(message: &proto::RetryBudget) -> Decoded<BudgetRule> {
    Ok(match message.kind.as_ref() {
        Some(retry_budget::Kind::Concurrent(b)) => BudgetRule::Concurrent {
            percent: b.percent,
            least: b.min_concurrency,
        },
        Some(retry_budget::Kind::Window(b)) => BudgetRule::Window {
            percent: b.percent,
            interval_ms: or(b.interval_ms, 10_000),
            least: b.min_count,
            least_interval_ms: or(b.min_interval_ms, 1_000),
        },
        Some(retry_budget::Kind::Tokens(b)) => BudgetRule::Tokens {
            ratio: b.ratio,
            least_per_second: b.min_per_second,
            ttl_ms: or(b.ttl_ms, 10_000),
        },
        None => return wrong("kind", Wrong::Nothing),
    })
}
