//! What is counted of writes to a cluster.

use std::sync::Arc;

use ambit_cluster::status::WriteObserver;
use ambit_kube::Kind;
use ambit_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    queue: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// One method an event.
#[derive(Debug, Default)]
pub(crate) struct WriteMetrics {
    queued: Family<QueueLabel, Gauge>,
    written: Family<KindLabel, Counter>,
    failed: Family<ReasonLabel, Counter>,
    deployed: Counter,
    deployments_failed: Family<ReasonLabel, Counter>,
}

impl WriteMetrics {
    /// Registers everything.
    pub(crate) fn register(to: &mut Metrics) -> Self {
        let this = Self::default();
        let name = "ambit_status_write_queue_depth";
        to.register(
            name,
            "Objects whose status waits to be written",
            this.queued.clone(),
        );
        let name = "ambit_status_writes";
        to.register(name, "Statuses written", this.written.clone());
        let name = "ambit_status_write_failures";
        to.register(name, "Statuses not written", this.failed.clone());
        let name = "ambit_waypoint_deployments";
        to.register(
            name,
            "Waypoints whose objects were applied",
            this.deployed.clone(),
        );
        let name = "ambit_waypoint_deployment_failures";
        to.register(
            name,
            "Waypoints whose objects could not be applied",
            this.deployments_failed.clone(),
        );
        this
    }

    /// All objects of a waypoint are there.
    pub(crate) fn deployed(&self) {
        self.deployed.inc();
    }

    /// Some objects of a waypoint aren't.
    pub(crate) fn deployment_failed(&self, reason: &'static str) {
        let label = ReasonLabel { reason };
        self.deployments_failed.get_or_create(&label).inc();
    }
}

/// The observer of one queue.
pub(crate) struct OfQueue {
    pub(crate) queue: &'static str,
    pub(crate) metrics: Arc<WriteMetrics>,
}

impl WriteObserver for OfQueue {
    fn queued(&self, depth: usize) {
        let label = QueueLabel { queue: self.queue };
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        self.metrics.queued.get_or_create(&label).set(depth);
    }

    fn written(&self, kind: Kind) {
        let label = KindLabel {
            kind: kind.as_str(),
        };
        self.metrics.written.get_or_create(&label).inc();
    }

    fn failed(&self, reason: &'static str) {
        let label = ReasonLabel { reason };
        self.metrics.failed.get_or_create(&label).inc();
    }
}
