//! Changes to metrics: switched off, labels removed or set (6.5).

use std::sync::Arc;

use ambit_kube::{MetricsOverride, TagOperation, TagOverride, TelemetryMode, TelemetrySpec};
use ambit_proto::waypoint as pb;

use super::expression;

/// Takes what can't be used.
pub(super) trait Faults {
    /// A field that isn't in force, with the reason.
    fn bad(&mut self, field: String, value: &str, what: Bad);
}

/// Why a part isn't in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bad {
    Metric,
    CustomMetric,
    Label,
    Expression(String),
}

/// Takes nothing.
#[derive(Debug)]
pub(super) struct Quiet;

impl Faults for Quiet {
    fn bad(&mut self, _: String, _: &str, _: Bad) {}
}

/// All changes, the widest layer first; later ones win over earlier ones.
pub(super) fn overrides(
    layers: &[Arc<TelemetrySpec>],
    faults: &mut dyn Faults,
) -> Vec<pb::MetricOverride> {
    let mut all = Vec::new();
    for layer in layers {
        for (at, metrics) in layer.metrics.iter().enumerate() {
            for (index, one) in metrics.overrides.iter().enumerate() {
                let field = format!("spec.metrics[{at}].overrides[{index}]");
                all.extend(change(&field, one, faults));
            }
        }
    }
    all
}

fn change(
    field: &str,
    written: &MetricsOverride,
    faults: &mut dyn Faults,
) -> Option<pb::MetricOverride> {
    let selector = written.matches.as_ref();
    if selector.is_some_and(|selector| selector.mode == TelemetryMode::Client) {
        return None;
    }
    if let Some(custom) = selector.and_then(|selector| selector.custom_metric.as_deref()) {
        faults.bad(
            format!("{field}.match.customMetric"),
            custom,
            Bad::CustomMetric,
        );
        return None;
    }
    let metric = selector
        .and_then(|selector| selector.metric.as_deref())
        .unwrap_or_default();
    let all = metric.is_empty() || metric == "ALL_METRICS";
    if !all && !METRICS.contains(&metric) {
        faults.bad(format!("{field}.match.metric"), metric, Bad::Metric);
        return None;
    }
    let tags = written.tag_overrides.iter();
    let tags: Vec<_> = tags
        .filter_map(|(name, one)| tag(field, name, one, faults))
        .collect();
    Some(pb::MetricOverride {
        metric: if all {
            String::new()
        } else {
            metric.to_owned()
        },
        disabled: written.disabled.unwrap_or(false),
        tags,
    })
}

fn tag(
    field: &str,
    name: &str,
    written: &TagOverride,
    faults: &mut dyn Faults,
) -> Option<pb::TagOverride> {
    let field = format!("{field}.tagOverrides.{name}");
    let mut bytes = name.bytes();
    let first = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') || name == "le" {
        faults.bad(field, name, Bad::Label);
        return None;
    }
    let remove = written.operation == TagOperation::Remove;
    let value = written.value.clone().unwrap_or_default();
    if !remove {
        let fault = match value.trim() {
            "" => Some("there is no expression".to_owned()),
            text => expression::fault(text),
        };
        if let Some(fault) = fault {
            faults.bad(format!("{field}.value"), &value, Bad::Expression(fault));
            return None;
        }
    }
    Some(pb::TagOverride {
        name: name.to_owned(),
        remove,
        value: if remove { String::new() } else { value },
    })
}

/// As the Telemetry API names them.
pub(super) const METRICS: [&str; 10] = [
    "REQUEST_COUNT",
    "REQUEST_DURATION",
    "REQUEST_SIZE",
    "RESPONSE_SIZE",
    "TCP_OPENED_CONNECTIONS",
    "TCP_CLOSED_CONNECTIONS",
    "TCP_SENT_BYTES",
    "TCP_RECEIVED_BYTES",
    "GRPC_REQUEST_MESSAGES",
    "GRPC_RESPONSE_MESSAGES",
];
