//! Which service or workload an inner connection is for, by the authority of
//! its CONNECT alone (`waypoint-contract` 1.2). Pure.
//!
//! What can't be served is answered on the CONNECT itself, with 4xx, so that
//! the client's proxy knows at once; upstream says 200 first and closes then.

use std::net::SocketAddr;
use std::sync::Arc;

use ambit_hbone::Authority;
use ambit_policy::http::HttpPolicies;
use ambit_route::Matched;
use ambit_upstream::RateLimit;

use crate::config::{Config, Frontend, Pod, Port, Upstream};
use crate::protocol::Declared;

/// What an inner connection is for.
#[derive(Clone)]
pub(crate) enum Destination {
    /// A port of a service. With `pod`: the client meant this pod, and only it
    /// gets the connection; the service's routes and policies hold.
    Service {
        key: Arc<str>,
        port: u16,
        pod: Option<SocketAddr>,
    },
    /// A workload's own port.
    Workload(SocketAddr),
}

/// The destination with what the current snapshot says of it.
pub(crate) enum Found<'c> {
    Service {
        frontend: &'c Arc<Frontend>,
        port: &'c Arc<Port>,
        pod: Option<(&'c Arc<Pod>, u16)>,
    },
    Workload {
        pod: &'c Arc<Pod>,
        port: u16,
    },
}

/// Why a CONNECT is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("host names aren't dialled: the address decides")]
    HostName,
    #[error("our own address")]
    Own,
    #[error("no service or workload of this waypoint has the address")]
    Unknown,
    #[error("the service has no such port")]
    UnboundPort,
    #[error("this waypoint doesn't serve workload addresses")]
    NotForWorkloads,
    #[error("no configuration yet")]
    NotReady,
    #[error("too much memory is held")]
    Overloaded,
}

impl Refusal {
    /// The answer to the CONNECT.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::HostName | Self::Own => 400,
            Self::Unknown | Self::UnboundPort | Self::NotForWorkloads => 404,
            Self::NotReady | Self::Overloaded => 503,
        }
    }
}

/// Finds the destination. `own` says whether an address is one of ours.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn choose(
    config: &Config,
    authority: &Authority,
    own: impl Fn(SocketAddr) -> bool,
) -> Result<(SocketAddr, Destination), Refusal> {
    let Authority::Addr(address) = authority else {
        return Err(Refusal::HostName);
    };
    if !config.gateway.known {
        return Err(Refusal::NotReady);
    }
    let (ip, port) = (address.ip(), address.port());
    if let Some(frontend) = config.frontend_at(ip) {
        if frontend.port(port).is_none() {
            return Err(Refusal::UnboundPort);
        }
        let key = Arc::clone(&frontend.key);
        let pod = None;
        return Ok((*address, Destination::Service { key, port, pod }));
    }
    if own(*address) {
        return Err(Refusal::Own);
    }
    let pod = config.pod_at(ip).ok_or(Refusal::Unknown)?;
    if let Some((key, service_port)) = pod.mapped(port)
        && config
            .frontend(key)
            .is_some_and(|frontend| frontend.port(service_port).is_some())
    {
        let destination = Destination::Service {
            key: Arc::clone(key),
            port: service_port,
            pod: Some(*address),
        };
        return Ok((*address, destination));
    }
    if !config.gateway.serves_workloads {
        return Err(Refusal::NotForWorkloads);
    }
    Ok((*address, Destination::Workload(*address)))
}

impl Destination {
    /// Looks the destination up; `None` if it has gone meanwhile.
    pub(crate) fn find<'c>(&self, config: &'c Config) -> Option<Found<'c>> {
        match self {
            Self::Service { key, port, pod } => {
                let frontend = config.frontend(key)?;
                let pod = match pod {
                    Some(address) => Some((config.pod_at(address.ip())?, address.port())),
                    None => None,
                };
                Some(Found::Service {
                    frontend,
                    port: frontend.port(*port)?,
                    pod,
                })
            }
            Self::Workload(address) => Some(Found::Workload {
                pod: config.pod_at(address.ip())?,
                port: address.port(),
            }),
        }
    }
}

impl Found<'_> {
    /// What the port was declared to speak.
    pub(crate) fn declared(&self) -> Declared {
        match self {
            Self::Service { port, .. } => port.declared,
            Self::Workload { pod, port } => pod.protocol(*port).0,
        }
    }

    /// What is spoken to a backend that has no say of its own.
    pub(crate) fn upstream(&self) -> Upstream {
        match self {
            Self::Service { port, .. } => port.upstream,
            Self::Workload { pod, port } => pod.protocol(*port).1,
        }
    }

    /// Who may.
    pub(crate) fn policies(&self) -> &HttpPolicies {
        match self {
            Self::Service { port, .. } => &port.policies,
            Self::Workload { pod, .. } => &pod.policies,
        }
    }

    /// How often: what holds for the port, and for the route that was taken.
    pub(crate) fn limits(&self, matched: Option<&Matched<'_>>) -> Vec<Arc<RateLimit>> {
        let Self::Service { port, frontend, .. } = self else {
            return Vec::new();
        };
        let holds = |limit: &&Arc<RateLimit>| {
            limit.targets.is_empty()
                || limit.targets.iter().any(|target| {
                    let frontend = target.frontend.is_empty() || *target.frontend == *frontend.key;
                    let at = target.port == 0 || target.port == port.number;
                    let route = target.route.is_empty()
                        || matched.is_some_and(|matched| {
                            *target.route == *matched.route.name
                                && (target.section.is_empty()
                                    || *target.section == *matched.rule.name)
                        });
                    frontend && at && route
                })
        };
        port.limits.iter().filter(holds).cloned().collect()
    }

    /// The port that policies and routes speak of.
    pub(crate) fn service_port(&self) -> u16 {
        match self {
            Self::Service { port, .. } => port.number,
            Self::Workload { port, .. } => *port,
        }
    }
}
