//! What the parts of the process share: the configuration, the certificates,
//! the settings; and what one data thread has for itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ambit_hbone::{Baggage, HandshakeGate, HboneConfig};
use ambit_identity::CertStore;
use ambit_runtime::{DrainWatch, Scope};
use ambit_types::SpiffeId;
use arc_swap::ArcSwap;

use crate::config::Config;
use crate::dial::{Conns, Dialer};
use crate::keys::Keys;
use crate::memory::Memory;
use crate::observer::{Observer, Watch};
use crate::resolve::Resolver;
use crate::settings::Settings;

/// The whole process, as a data path sees it.
pub(crate) struct Node {
    pub(crate) settings: Arc<Settings>,
    /// Who we are.
    pub(crate) id: SpiffeId,
    /// One snapshot for all data threads; replaced whole.
    pub(crate) config: Arc<ArcSwap<Config>>,
    pub(crate) certs: CertStore,
    pub(crate) keys: Arc<Keys>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) observer: Observer,
    pub(crate) connections: Gauge,
    pub(crate) memory: Memory,
}

/// What one data thread has for itself; nothing of it is ever contended.
pub(crate) struct Worker {
    pub(crate) node: Arc<Node>,
    pub(crate) hbone: HboneConfig,
    pub(crate) gate: HandshakeGate,
    pub(crate) dialer: Dialer,
    pub(crate) conns: Conns,
    pub(crate) watch: Watch,
    /// Connections and what runs on them; a drain waits for these.
    pub(crate) scope: Scope,
    /// What may end with the process: mirrors, pooled connections.
    pub(crate) background: Scope,
    /// Requests are asked to end.
    pub(crate) drain: DrainWatch,
    /// Later in a drain: nothing new is taken.
    pub(crate) closing: DrainWatch,
}

impl Node {
    /// Whether an address is one that we listen on: a tunnel to it would come
    /// back to us, or reach the admin port (`waypoint-contract` 1.2).
    pub(crate) fn is_own(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        ip.is_loopback() && self.settings.ports.listen_ip.is_none()
            || ip.is_unspecified()
            || ip == self.settings.pod.ip
            || Some(ip) == self.settings.ports.listen_ip
    }

    /// What we say of ourselves to those we dial.
    pub(crate) fn baggage(&self) -> Arc<str> {
        let pod = &self.settings.pod;
        let [region, zone, _] = pod.locality.clone();
        let baggage = Baggage {
            cluster_id: pod.cluster_id.clone(),
            namespace: pod.namespace.clone(),
            // A waypoint's Deployment and account have the Gateway's name.
            workload_name: pod.service_account.clone(),
            canonical_name: pod.service_account.clone(),
            canonical_revision: "latest".to_owned(),
            region,
            zone,
            ..Baggage::default()
        };
        baggage.to_string().into()
    }

    /// Our own address, as peers see it.
    pub(crate) fn ip(&self) -> IpAddr {
        self.settings.pod.ip
    }
}

/// Counts what is open.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicUsize);

/// One of the things counted; dropping it uncounts it.
pub(crate) struct Counted<'g>(&'g Gauge);

impl Gauge {
    /// Counts one more, unless there are `max` already.
    pub(crate) fn enter(&self, max: usize) -> Option<Counted<'_>> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(self);
        (before < max).then_some(counted)
    }

    pub(crate) fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
