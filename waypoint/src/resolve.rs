//! Endpoints that are host names: resolved here, again and again, so that a
//! ServiceEntry with DNS resolution follows its name (`waypoint-contract` 1.4).
//!
//! The operating system's resolver doesn't say how long an answer holds, so it
//! is asked every few seconds; what was known stays while a name doesn't
//! resolve.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_proto::waypoint as pb;
use ambit_runtime::Scope;
use ambit_upstream::Endpoint;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::config::{Key, Service};

/// What has to be resolved, and for whom.
#[derive(Default)]
pub(crate) struct Resolver {
    wanted: Mutex<HashMap<Key, Wanted>>,
    wake: Notify,
}

#[derive(Clone)]
struct Wanted {
    service: Arc<Service>,
    named: Vec<Arc<pb::Endpoint>>,
    /// Endpoints that need no resolution.
    fixed: Vec<Arc<Endpoint>>,
}

impl Resolver {
    /// A service's endpoints by name; none: it has none any more.
    pub(crate) fn set(
        &self,
        service: &Arc<Service>,
        named: &[Arc<pb::Endpoint>],
        fixed: &[Arc<Endpoint>],
    ) {
        let mut wanted = self.wanted.lock();
        if named.is_empty() {
            wanted.remove(&service.key);
            return;
        }
        let one = Wanted {
            service: Arc::clone(service),
            named: named.to_vec(),
            fixed: fixed.to_vec(),
        };
        wanted.insert(Arc::clone(&service.key), one);
        self.wake.notify_one();
    }

    /// The service is gone.
    pub(crate) fn remove(&self, key: &str) {
        self.wanted.lock().remove(key);
    }
}

/// Resolves for as long as the scope lives.
pub(crate) fn start(resolver: &Arc<Resolver>, scope: &Scope) {
    let resolver = Arc::clone(resolver);
    scope.spawn("resolver", async move {
        let mut known: HashMap<String, Vec<IpAddr>> = HashMap::new();
        loop {
            let all: Vec<Wanted> = resolver.wanted.lock().values().cloned().collect();
            let mut used = HashMap::new();
            for wanted in all {
                let endpoints = resolve(&wanted, &mut known, &mut used).await;
                for target in &wanted.service.targets {
                    target.cluster.update(&endpoints, Instant::now());
                }
            }
            known = used;
            // Late or woken: both look again.
            let _ = tokio::time::timeout(EVERY, resolver.wake.notified()).await;
        }
    });
}

async fn resolve(
    wanted: &Wanted,
    known: &mut HashMap<String, Vec<IpAddr>>,
    used: &mut HashMap<String, Vec<IpAddr>>,
) -> Vec<Arc<Endpoint>> {
    let mut endpoints = wanted.fixed.clone();
    for named in &wanted.named {
        let name = named.hostname.as_str();
        if !used.contains_key(name) {
            let addresses = match lookup(name).await {
                Some(addresses) => addresses,
                None => known.remove(name).unwrap_or_default(),
            };
            used.insert(name.to_owned(), addresses);
        }
        let addresses = used.get(name).map(Vec::as_slice).unwrap_or_default();
        for ip in addresses.iter().take(MOST) {
            let mut message = pb::Endpoint::clone(named);
            message.uid = format!("{}/{ip}", named.uid);
            message.hostname.clear();
            message.addresses = vec![match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            }];
            match Endpoint::decode(&message) {
                Ok(endpoint) => endpoints.push(Arc::new(endpoint)),
                Err(error) => warn!(name, %error, "endpoint"),
            }
        }
    }
    endpoints
}

async fn lookup(name: &str) -> Option<Vec<IpAddr>> {
    let asked = tokio::net::lookup_host((name, 0));
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(found)) => {
            let mut all: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
            all.sort();
            all.dedup();
            Some(all)
        }
        Ok(Err(error)) => {
            debug!(name, %error, "name not resolved");
            None
        }
        Err(_) => {
            debug!(name, "name not resolved in time");
            None
        }
    }
}

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(5);
/// Of one name.
const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses of one name that are used.
const MOST: usize = 64;
