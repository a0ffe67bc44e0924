//! What is counted of xDS streams.

use std::time::Duration;

use ambit_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE, WORKLOAD_TYPE, waypoint};
use ambit_xds::{NodeInfo, ServerObserver};

use super::{ControlMetrics, RejectedLabel, TypeLabel, VersionLabel};

impl ControlMetrics {
    /// Node proxies send none (see the contract); what waypoints say is theirs.
    fn version(&self, node: &NodeInfo) -> VersionLabel {
        let version = node.metadata("ISTIO_VERSION").unwrap_or_default();
        VersionLabel {
            version: self.versions.label(version),
        }
    }
}

impl ServerObserver for ControlMetrics {
    fn opened(&self, node: &NodeInfo) {
        self.streams.get_or_create(&self.version(node)).inc();
    }

    fn closed(&self, node: &NodeInfo) {
        self.streams.get_or_create(&self.version(node)).dec();
    }

    fn pushed(&self, type_url: &str, _resources: usize, bytes: usize) {
        let label = type_label(type_url);
        self.pushes.get_or_create(&label).inc();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.push_bytes.get_or_create(&label).observe(bytes.into());
    }

    fn rejected(&self, _node: &NodeInfo, type_url: &str, resource: &str) {
        let label = type_label(type_url);
        self.rejects.get_or_create(&label).inc();
        let rejected = RejectedLabel {
            r#type: label.r#type,
            resource: self.rejected_names.label(resource),
        };
        self.rejected.get_or_create(&rejected).inc();
    }

    fn stale_nonce(&self, type_url: &str) {
        self.stale_nonces.get_or_create(&type_label(type_url)).inc();
    }

    fn converged(&self, after: Duration) {
        self.convergence.observe(after.as_secs_f64());
    }

    fn write_timeout(&self) {
        self.write_timeouts.inc();
    }

    fn fell_behind(&self) {
        self.behind.inc();
    }
}

pub(super) fn type_label(type_url: &str) -> TypeLabel {
    let r#type = match type_url {
        ADDRESS_TYPE => "wds",
        AUTHORIZATION_TYPE => "wads",
        WORKLOAD_TYPE => "workload",
        waypoint::GATEWAY_TYPE => "gateway",
        waypoint::ENDPOINTS_TYPE => "endpoints",
        waypoint::BACKEND_TYPE => "backend",
        waypoint::AUTHENTICATION_TYPE => "authentication",
        waypoint::WAYPOINT_AUTHORIZATION_TYPE => "authorization",
        waypoint::RATE_LIMIT_TYPE => "rate_limit",
        waypoint::ROUTE_TYPE => "route",
        waypoint::FRONTEND_TYPE => "frontend",
        waypoint::POD_TYPE => "pod",
        _ => "other",
    };
    TypeLabel { r#type }
}
