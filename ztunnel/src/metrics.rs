//! The registry of this process: what each part counts, under the names of
//! `ztunnel-contract` 9.3.

use ambit_telemetry::{Metrics, ProcessCollector};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::config::Config;
use crate::enrol::board::Board;
use crate::node::Node;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UrlLabel {
    url: String,
}

/// What the discovery client counts. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct XdsMetrics {
    terminations: Family<ReasonLabel, Counter>,
    messages: Family<UrlLabel, Counter>,
    bytes: Family<UrlLabel, Counter>,
}

impl XdsMetrics {
    pub(crate) fn terminated(&self, reason: &'static str) {
        self.terminations
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    pub(crate) fn message(&self, type_url: &str, bytes: usize) {
        let url = UrlLabel {
            url: type_url.to_owned(),
        };
        self.messages.get_or_create(&url).inc();
        self.bytes.get_or_create(&url).inc_by(bytes as u64);
    }

    fn register(&self, metrics: &mut Metrics) {
        let help = "The total number of completed connections to the xDS server (unstable)";
        metrics.register(
            "istio_xds_connection_terminations",
            help,
            self.terminations.clone(),
        );
        let help = "Total number of messages received (unstable)";
        metrics.register("istio_xds_message", help, self.messages.clone());
        let help = "Total number of bytes received (unstable)";
        metrics.register("istio_xds_message_bytes", help, self.bytes.clone());
    }
}

/// Everything that port 15020 shows.
pub(crate) fn registry(
    config: &Config,
    node: &Node,
    board: &Board,
    xds: &XdsMetrics,
    runtimes: Vec<tokio::runtime::Handle>,
) -> Metrics {
    let mut metrics = Metrics::new();
    metrics.register_build(
        "ztunnel",
        config.node.istio_version.as_deref().unwrap_or_default(),
    );
    metrics.register_collector(node.telling.traffic.clone());
    metrics.register_collector(node.telling.refusals.clone());
    metrics.register_collector(node.sockets.clone());
    metrics.register_collector(board.clone());
    metrics.register_collector(ProcessCollector::new(runtimes));
    xds.register(&mut metrics);
    if let Some(dns) = &node.dns {
        dns.metrics.register(&mut metrics);
    }
    metrics
}
