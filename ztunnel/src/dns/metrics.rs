//! `istio_dns_*`: what pods ask, and how their questions fare with the DNS
//! servers (`ztunnel-contract` 9.3).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ambit_state::Workload;
use ambit_telemetry::Metrics;
use hickory_proto::rr::RecordType;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::forward::Transport;

/// Which questions a series is of. Types without a name share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Labels {
    request_query_type: String,
    request_protocol: &'static str,
    source_canonical_service: Arc<str>,
    source_canonical_revision: Arc<str>,
}

impl Labels {
    pub(super) fn new(kind: RecordType, via: Transport, source: Option<&Workload>) -> Self {
        let of = |label: fn(&Workload) -> &Arc<str>| match source.map(label) {
            Some(value) if !value.is_empty() => Arc::clone(value),
            _ => "unknown".into(),
        };
        Self {
            request_query_type: <&str>::from(kind).to_ascii_lowercase(),
            request_protocol: match via {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            },
            source_canonical_service: of(|source| &source.canonical_name),
            source_canonical_revision: of(|source| &source.canonical_revision),
        }
    }
}

/// Clones share it.
#[derive(Clone)]
pub(crate) struct DnsMetrics {
    requests: Family<Labels, Counter>,
    forwarded: Family<Labels, Counter>,
    failures: Family<Labels, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
}

impl Default for DnsMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            forwarded: Family::default(),
            failures: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }
}

impl fmt::Debug for DnsMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsMetrics").finish_non_exhaustive()
    }
}

impl DnsMetrics {
    /// A question of a pod.
    pub(super) fn asked(&self, labels: &Labels) {
        self.requests.get_or_create(labels).inc();
    }

    /// A question that was asked of the DNS servers, and whether one answered.
    pub(super) fn forwarded(&self, labels: &Labels, answered: bool, after: Duration) {
        self.forwarded.get_or_create(labels).inc();
        if !answered {
            self.failures.get_or_create(labels).inc();
        }
        let duration = self.durations.get_or_create(labels);
        duration.observe(after.as_secs_f64());
    }

    pub(crate) fn register(&self, metrics: &mut Metrics) {
        let help = "Total number of DNS requests (unstable)";
        metrics.register("istio_dns_requests", help, self.requests.clone());
        let help = "Total number of DNS requests forwarded to upstream (unstable)";
        let forwarded = self.forwarded.clone();
        metrics.register("istio_dns_upstream_requests", help, forwarded);
        let help = "Total number of failed DNS requests forwarded to upstream (unstable)";
        let failures = self.failures.clone();
        metrics.register("istio_dns_upstream_failures", help, failures);
        let help = "Seconds until upstream answered DNS requests (unstable)";
        let name = "istio_dns_upstream_request_duration_seconds";
        metrics.register(name, help, self.durations.clone());
    }
}

/// In seconds.
const BUCKETS: [f64; 6] = [0.0005, 0.001, 0.01, 0.1, 1.0, 5.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_scrape() {
        let dns = DnsMetrics::default();
        let labels = |kind| Labels::new(kind, Transport::Udp, None);
        dns.asked(&labels(RecordType::AAAA));
        // Applications can't make as many series as there are numbers.
        dns.asked(&labels(RecordType::Unknown(65_280)));
        dns.asked(&labels(RecordType::Unknown(65_281)));
        dns.forwarded(&labels(RecordType::A), true, Duration::from_millis(2));
        dns.forwarded(&labels(RecordType::A), false, Duration::from_secs(7));
        let mut metrics = Metrics::new();
        dns.register(&mut metrics);
        let text = metrics.encode().unwrap();
        let source = r#"source_canonical_service="unknown",source_canonical_revision="unknown""#;
        let line = |name: &str, kind: &str, value: &str| {
            let of = format!(r#"request_query_type="{kind}",request_protocol="udp",{source}"#);
            let whole = format!("{name}{{{of}}} {value}\n");
            assert!(text.contains(&whole), "{whole} in {text}");
        };
        line("istio_dns_requests_total", "aaaa", "1");
        line("istio_dns_requests_total", "unknown", "2");
        line("istio_dns_upstream_requests_total", "a", "2");
        line("istio_dns_upstream_failures_total", "a", "1");
        let duration = "istio_dns_upstream_request_duration_seconds";
        line(&format!("{duration}_sum"), "a", "7.002");
        for (le, count) in [("0.001", 0), ("0.01", 1), ("5.0", 1), ("+Inf", 2)] {
            let bucket = format!(r#"{duration}_bucket{{le="{le}","#);
            let line = text.lines().find(|line| line.starts_with(&bucket));
            assert!(line.unwrap().ends_with(&format!(" {count}")), "{line:?}");
        }
    }
}
