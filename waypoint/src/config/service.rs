//! A backend with its clusters: one for each of its ports and subsets, whose
//! state outlives every change of configuration.

use std::sync::Arc;

use ambit_proto::waypoint as pb;
use ambit_route::Rule;
use ambit_telemetry::ServiceLabels;
use ambit_upstream::Cluster;

use super::Key;
use super::frontend::{Upstream, protocol};
use crate::dial::TlsOrigin;

/// A backend.
pub(crate) struct Service {
    pub(crate) key: Key,
    pub(crate) message: Arc<pb::Backend>,
    pub(crate) targets: Vec<Arc<Target>>,
    /// What holds for requests to the service that no route takes.
    pub(crate) default_rule: Option<Rule>,
}

/// A port of a backend, whole or a subset: what a request is sent to.
pub(crate) struct Target {
    pub(crate) service: Key,
    pub(crate) port: u16,
    pub(crate) subset: Box<str>,
    /// `outbound|port|subset|host` in logs and metrics.
    pub(crate) name: Arc<str>,
    pub(crate) cluster: Cluster,
    pub(crate) labels: Arc<ServiceLabels>,
    pub(crate) upstream: Upstream,
    /// TLS of our own; an error: nothing can be sent.
    pub(crate) tls: Option<Result<Arc<TlsOrigin>, Box<str>>>,
}

/// A destination that there isn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing;

impl Service {
    /// The target of a port and subset.
    ///
    /// # Errors
    /// The backend has no such port or subset.
    pub(crate) fn target(&self, port: u16, subset: &str) -> Result<&Arc<Target>, Missing> {
        let of = |target: &&Arc<Target>| target.port == port && *target.subset == *subset;
        self.targets.iter().find(of).ok_or(Missing)
    }

    /// Its ports with what is spoken there, and its subsets.
    pub(super) fn shape(message: &pb::Backend) -> Vec<(u16, Upstream, Box<str>)> {
        let mut all = Vec::new();
        for port in &message.ports {
            let Ok(number) = u16::try_from(port.number) else {
                continue;
            };
            let (_, upstream) = protocol(port.protocol());
            all.push((number, upstream, Box::from("")));
            for subset in &message.subsets {
                all.push((number, upstream, subset.name.as_str().into()));
            }
        }
        all
    }
}
