//! Binds routes and policies to the ports of frontends and pods.

use std::sync::Arc;
use std::time::Instant;

use ambit_jwt::Authenticator;
use ambit_policy::http::HttpPolicies;
use ambit_proto::waypoint as pb;
use ambit_route::Routes;
use ambit_telemetry::ServiceLabels;
use ambit_types::NamespacedHostname;
use ambit_upstream::{Endpoint, RateLimit};
use rpds::HashTrieMapSync;
use tracing::warn;

use super::super::frontend::{Frontend, Pod, Port, block, protocol};
use super::super::{Block, Key, ip};
use super::{Policy, Store, Touched};

impl Store {
    /// Builds what was touched.
    pub(super) fn bind(&mut self, touched: &Touched) {
        for key in &touched.frontends {
            match self.frontends.get(key) {
                Some(message) => {
                    let frontend = self.frontend(key, Arc::clone(message));
                    let frontend = Arc::new(frontend);
                    self.config
                        .frontends
                        .insert_mut(Arc::clone(key), Arc::clone(&frontend));
                    if !touched.addresses {
                        self.readdress(&frontend);
                    }
                }
                None => {
                    self.config.frontends.remove_mut(key);
                }
            }
        }
        if touched.addresses {
            self.addresses();
        }
        if touched.pods || touched.addresses {
            self.bind_pods();
        }
    }

    fn frontend(&self, key: &Key, message: Arc<pb::Frontend>) -> Frontend {
        let host = NamespacedHostname::new(message.namespace.as_str(), message.hostname.as_str());
        let mut ports: Vec<_> = message
            .ports
            .iter()
            .filter_map(|port| {
                let number = u16::try_from(port.number).ok()?;
                let (declared, upstream) = protocol(port.protocol());
                Some(Arc::new(Port {
                    number,
                    declared,
                    upstream,
                    grpc_web: port.protocol() == pb::Protocol::GrpcWeb,
                    policies: self.policies(Some(&host), number),
                    authenticator: self.authenticator(Some(&host), number, None),
                    limits: self.port_limits(key, number),
                }))
            })
            .collect();
        ports.sort_by_key(|port| port.number);
        ports.dedup_by_key(|port| port.number);
        let routes = match self.routes.get(key) {
            Some(routes) => Arc::clone(routes),
            None => Arc::new(Routes::new(key)),
        };
        let telemetry = match &message.telemetry {
            None => Arc::clone(&self.config.gateway.telemetry),
            Some(own) => match self.config.gateway.telemetry.overlaid(own) {
                Ok(telemetry) => Arc::new(telemetry),
                Err(error) => {
                    warn!(frontend = %key, %error, "telemetry stays the gateway's");
                    Arc::clone(&self.config.gateway.telemetry)
                }
            },
        };
        let labels = ServiceLabels {
            hostname: message.hostname.as_str().into(),
            namespace: message.namespace.as_str().into(),
            name: message.name.as_str().into(),
        };
        Frontend {
            telemetry,
            labels: Arc::new(labels),
            key: Arc::clone(key),
            message,
            ports,
            routes,
        }
    }

    fn policies(&self, host: Option<&NamespacedHostname>, port: u16) -> HttpPolicies {
        let read = self.policies.values().filter_map(|policy| match policy {
            Policy::Read(policy) => Some(policy),
            Policy::Unreadable(..) => None,
        });
        let mut bound = HttpPolicies::bind(read, host, port);
        let host = host.map(ToString::to_string);
        for policy in self.policies.values() {
            if let Policy::Unreadable(key, targets) = policy
                && holds(targets, host.as_deref(), port)
            {
                bound.block(key.clone());
            }
        }
        bound
    }

    fn authenticator(
        &self,
        host: Option<&NamespacedHostname>,
        port: u16,
        uid: Option<&str>,
    ) -> Authenticator {
        Authenticator::bind(self.authentications.values(), host, port, uid)
    }

    /// Rate limits that may hold for a port: their routes are looked at later.
    fn port_limits(&self, key: &str, port: u16) -> Vec<Arc<RateLimit>> {
        let holds = |limit: &&Arc<RateLimit>| {
            limit.targets.is_empty()
                || limit.targets.iter().any(|target| {
                    (target.frontend.is_empty() || *target.frontend == *key)
                        && (target.port == 0 || target.port == port)
                })
        };
        self.limits.values().filter(holds).cloned().collect()
    }

    /// The keys of all token rules are needed, and no others.
    pub(super) fn retain_keys(&self) {
        let mut sources = Vec::new();
        for frontend in self.config.frontends() {
            for port in &frontend.ports {
                sources.extend(port.authenticator.sources().cloned());
            }
        }
        for pod in self.config.pods.values() {
            sources.extend(pod.authenticator.sources().cloned());
        }
        self.keys.cache.retain(sources, Instant::now());
        self.keys.wake();
    }

    /// The addresses of one frontend lead to its new version.
    fn readdress(&mut self, frontend: &Arc<Frontend>) {
        let mut ranges = false;
        for net in frontend.message.addresses.iter().filter_map(block) {
            if net.prefix_len() == net.max_prefix_len() {
                let frontend = Arc::clone(frontend);
                self.config
                    .vips
                    .insert_mut(net.addr().to_canonical(), frontend);
            } else {
                ranges = true;
            }
        }
        if ranges {
            self.addresses();
        }
    }

    /// All addresses anew. Two frontends with one address: the first by name.
    fn addresses(&mut self) {
        let mut vips = HashTrieMapSync::default();
        let mut blocks = Vec::new();
        for key in self.frontends.keys().rev() {
            let Some(frontend) = self.config.frontends.get(key) else {
                continue;
            };
            for net in frontend.message.addresses.iter().filter_map(block) {
                let frontend = Arc::clone(frontend);
                if net.prefix_len() == net.max_prefix_len() {
                    vips.insert_mut(net.addr().to_canonical(), frontend);
                } else {
                    blocks.push(Block { net, frontend });
                }
            }
        }
        blocks.sort_by_key(|block| std::cmp::Reverse(block.net.prefix_len()));
        self.config.vips = vips;
        self.config.blocks = blocks.into();
    }

    fn bind_pods(&mut self) {
        let mut pods = HashTrieMapSync::default();
        for message in self.pods.values() {
            let Some(endpoint) = &message.endpoint else {
                continue;
            };
            let Ok(decoded) = Endpoint::decode(endpoint) else {
                continue;
            };
            let number = |port: u32| u16::try_from(port).ok();
            let mapped = message.ports.iter().filter_map(|port| {
                let key: Key = port.frontend.as_str().into();
                Some((number(port.port)?, key, number(port.service_port)?))
            });
            let declared = message.protocols.iter().filter_map(|port| {
                let (declared, upstream) = protocol(port.protocol());
                Some((number(port.number)?, declared, upstream))
            });
            let pod = Arc::new(Pod {
                endpoint: Arc::new(decoded),
                mapped: mapped.collect(),
                declared: declared.collect(),
                policies: self.policies(None, 0),
                authenticator: self.authenticator(None, 0, Some(&endpoint.uid)),
            });
            for address in endpoint.addresses.iter().filter_map(|bytes| ip(bytes)) {
                pods.insert_mut(address, Arc::clone(&pod));
            }
        }
        self.config.pods = pods;
    }
}

/// Whether a policy with these targets holds for a service port.
fn holds(targets: &[pb::Target], frontend: Option<&str>, port: u16) -> bool {
    targets.is_empty()
        || targets.iter().any(|target| {
            let named = target.frontend.is_empty() || Some(target.frontend.as_str()) == frontend;
            named && (target.port == 0 || target.port == u32::from(port))
        })
}
