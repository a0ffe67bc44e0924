//! What the agent counts.

use ambit_redirect::zds::ZdsHandle;
use ambit_telemetry::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::board::{Board, Phase};

/// A step of a pod's reconciliation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// Rules went in.
    Enrolled,
    /// Rules were found as they must be, after a restart.
    Adopted,
    /// Something else had changed them.
    Repaired,
    /// It begins to leave.
    Draining,
    /// Nothing of ours is left.
    Left,
    /// The pod is over.
    Deleted,
    /// A step failed and is tried again.
    Retried,
}

impl Event {
    fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Adopted => "adopted",
            Self::Repaired => "repaired",
            Self::Draining => "draining",
            Self::Left => "left",
            Self::Deleted => "deleted",
            Self::Retried => "retried",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfType {
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCode {
    response_code: u16,
}

/// Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct AgentMetrics {
    reconciled: Family<OfType, Counter>,
    plugin: Family<OfCode, Counter>,
}

impl AgentMetrics {
    pub(crate) fn register(metrics: &mut Metrics, board: Board, zds: ZdsHandle) -> Self {
        let ours = Self::default();
        metrics.register(
            "nodeagent_reconcile_events",
            "Steps of the reconciliation of pods",
            ours.reconciled.clone(),
        );
        metrics.register(
            "istio_cni_plugin_requests",
            "Answers to the CNI plugin",
            ours.plugin.clone(),
        );
        metrics.register_collector(State { board, zds });
        ours
    }

    pub(crate) fn reconciled(&self, event: Event) {
        let r#type = event.as_str();
        self.reconciled.get_or_create(&OfType { r#type }).inc();
    }

    pub(crate) fn answered_plugin(&self, response_code: u16) {
        self.plugin.get_or_create(&OfCode { response_code }).inc();
    }
}

/// Gauges that are read when they are asked for.
#[derive(Debug)]
struct State {
    board: Board,
    zds: ZdsHandle,
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let connected = ConstGauge::new(count(self.zds.connections()));
        let kind = connected.metric_type();
        let help = "Proxies that are connected";
        connected.encode(encoder.encode_descriptor("ztunnel_connected", help, None, kind)?)?;

        let help = "Pods of this node by how far they have come";
        let mut family = encoder.encode_descriptor("nodeagent_pods", help, None, kind)?;
        for phase in Phase::ALL {
            let labels = [("state", phase.as_str())];
            let pods = ConstGauge::new(count(self.board.count(phase)));
            pods.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_and_labels_are_the_contract_s() {
        let dir = tempfile::tempdir().unwrap();
        let config = ambit_redirect::zds::ZdsConfig::default();
        let zds = ambit_redirect::zds::ZdsServer::bind(dir.path().join("zds"), config).unwrap();
        let mut registry = Metrics::new();
        let ours = AgentMetrics::register(&mut registry, Board::new(&[]), zds.handle());
        ours.reconciled(Event::Repaired);
        ours.answered_plugin(500);
        let text = registry.encode().unwrap();
        for line in [
            "nodeagent_reconcile_events_total{type=\"repaired\"} 1",
            "istio_cni_plugin_requests_total{response_code=\"500\"} 1",
            "ztunnel_connected 0",
            "nodeagent_pods{state=\"redirected\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} isn't in:\n{text}");
        }
    }
}
