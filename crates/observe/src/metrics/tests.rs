use std::collections::BTreeSet;
use std::time::Duration;

use ambit_proto::waypoint as pb;
use ambit_telemetry::Metrics;

use super::*;
use crate::flags::ResponseFlag;
use crate::tests::Request;

fn exposition(metrics: &RequestMetrics) -> String {
    let mut registry = Metrics::new();
    registry.register_collector(metrics.clone());
    registry.encode().unwrap()
}

fn line<'t>(text: &'t str, name: &str) -> &'t str {
    let start = format!("{name}{{");
    text.lines().find(|line| line.starts_with(&start)).unwrap()
}

#[test]
fn the_series_of_a_request() {
    let metrics = RequestMetrics::default();
    let mut cache = SeriesCache::new(metrics.clone());
    let request = Request::new();
    let record = request.record();
    for _ in 0..3 {
        cache.series(&record).count(&record);
    }
    let text = exposition(&metrics);
    assert_eq!(
        line(&text, "istio_requests_total"),
        "istio_requests_total{reporter=\"waypoint\",source_workload=\"client\",source_workload_namespace=\"web\",source_principal=\"spiffe://cluster.local/ns/web/sa/client\",source_app=\"client\",source_version=\"v1\",source_cluster=\"Kubernetes\",source_canonical_service=\"client\",source_canonical_revision=\"v1\",destination_workload=\"cart\",destination_workload_namespace=\"shop\",destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",destination_app=\"cart\",destination_version=\"v1\",destination_cluster=\"Kubernetes\",destination_canonical_service=\"cart\",destination_canonical_revision=\"v1\",destination_service=\"cart.shop.svc.cluster.local\",destination_service_name=\"cart\",destination_service_namespace=\"shop\",request_protocol=\"http\",response_code=\"200\",grpc_response_status=\"\",response_flags=\"-\",connection_security_policy=\"mutual_tls\"} 3"
    );
    assert!(line(&text, "istio_response_bytes_sum").ends_with(" 126.0"));
    assert!(line(&text, "istio_request_duration_milliseconds_count").ends_with(" 3"));
    let bounds: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("istio_request_duration_milliseconds_bucket"))
        .map(|line| {
            let bound = line.split("le=\"").nth(1).unwrap();
            let count = line.rsplit_once(' ').unwrap().1;
            format!("{} {count}", bound.split('"').next().unwrap())
        })
        .collect();
    assert_eq!(bounds.len(), BUCKETS.len() + 1);
    assert_eq!(bounds[4], "25.0 3");
    assert_eq!(bounds[3], "10.0 0");
    assert_eq!(bounds[19], "+Inf 3");
    // One TYPE line a family, each before its samples, no series twice.
    let types: Vec<_> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
    assert_eq!(types.iter().collect::<BTreeSet<_>>().len(), types.len());
    let samples: Vec<_> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| l.rsplit_once(' ').unwrap().0)
        .collect();
    assert_eq!(samples.iter().collect::<BTreeSet<_>>().len(), samples.len());
}

#[test]
fn the_destination_can_report_too() {
    let metrics = RequestMetrics::new(MetricOptions {
        destination_reporter: true,
        ..MetricOptions::default()
    });
    let request = Request::new();
    let record = request.record();
    SeriesCache::new(metrics.clone())
        .series(&record)
        .count(&record);
    let text = exposition(&metrics);
    assert!(text.contains("istio_requests_total{reporter=\"waypoint\""));
    assert!(text.contains("istio_requests_total{reporter=\"destination\""));
}

#[test]
fn what_isnt_known_says_so() {
    let metrics = RequestMetrics::default();
    let mut request = Request::new();
    request.ends.destination = Arc::default();
    let mut record = request.record();
    record.status = 503;
    record.flags = ResponseFlag::NoHealthyUpstream.into();
    SeriesCache::new(metrics.clone())
        .series(&record)
        .count(&record);
    let text = exposition(&metrics);
    let line = line(&text, "istio_requests_total");
    assert!(line.contains("destination_workload=\"unknown\""));
    assert!(line.contains("destination_service_name=\"cart\""));
    assert!(line.contains("response_flags=\"UH\""));
}

#[test]
fn grpc_messages_and_tcp_have_their_own_families() {
    let metrics = RequestMetrics::default();
    let mut cache = SeriesCache::new(metrics.clone());
    let request = Request::new();
    let mut record = request.record();
    record.protocol = RequestProtocol::Grpc;
    record.grpc_status = Some(14);
    (record.request_messages, record.response_messages) = (2, 5);
    cache.series(&record).count(&record);
    let guard = cache.tcp_opened(&request.ends, ResponseFlags::NONE);
    guard.add_sent(10);
    let open = exposition(&metrics);
    assert!(line(&open, "istio_tcp_connections_closed_total").ends_with(" 0"));
    drop(guard);
    let text = exposition(&metrics);
    assert!(line(&text, "istio_request_messages_total").ends_with(" 2"));
    assert!(line(&text, "istio_response_messages_total").ends_with(" 5"));
    assert!(line(&text, "istio_requests_total").contains("grpc_response_status=\"14\""));
    assert!(line(&text, "istio_tcp_connections_closed_total").ends_with(" 1"));
    let tcp = line(&text, "istio_tcp_sent_bytes_total");
    assert!(tcp.ends_with(" 10") && !tcp.contains("response_code"));
    assert!(tcp.contains("request_protocol=\"tcp\""));
}

#[test]
fn the_number_of_series_is_bounded() {
    let metrics = RequestMetrics::new(MetricOptions {
        limit: 3,
        ..MetricOptions::default()
    });
    let mut cache = SeriesCache::new(metrics.clone());
    let request = Request::new();
    for status in 200..300 {
        let mut record = request.record();
        record.status = status;
        cache.series(&record).count(&record);
    }
    assert_eq!(metrics.len(), 4);
    assert_eq!(metrics.overflowed(), 97);
    let text = exposition(&metrics);
    let total: u64 = text
        .lines()
        .filter(|l| l.starts_with("istio_requests_total"))
        .map(|l| l.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(total, 100, "nothing is lost");
    assert!(text.contains("source_workload=\"overflow\""));
}

#[test]
fn series_that_nobody_uses_go() {
    let metrics = RequestMetrics::default();
    let mut cache = SeriesCache::new(metrics.clone());
    let request = Request::new();
    let record = request.record();
    cache.series(&record).count(&record);
    let guard = cache.tcp_opened(&request.ends, ResponseFlags::NONE);
    metrics.sweep();
    metrics.sweep();
    assert_eq!(metrics.len(), 2, "idle once is not gone");
    metrics.sweep();
    assert_eq!(metrics.len(), 1, "the open connection stays");
    drop(guard);
    cache.series(&record).count(&record);
    assert_eq!(metrics.len(), 2, "the cache noticed");
    assert!(line(&exposition(&metrics), "istio_requests_total").ends_with(" 1"));
}

#[test]
fn overrides_remove_and_set_labels() {
    let tag = |name: &str, remove, value: &str| pb::TagOverride {
        name: name.to_owned(),
        remove,
        value: value.to_owned(),
    };
    let wire = [
        pb::MetricOverride {
            metric: "REQUEST_COUNT".to_owned(),
            disabled: false,
            tags: vec![
                tag("response_code", true, ""),
                tag("request_host", false, "request.host"),
            ],
        },
        pb::MetricOverride {
            metric: "REQUEST_SIZE".to_owned(),
            disabled: true,
            tags: Vec::new(),
        },
    ];
    let mut request = Request::new();
    request.ends.overrides = MetricOverrides::decode(&wire, false).unwrap();
    let metrics = RequestMetrics::default();
    let mut cache = SeriesCache::new(metrics.clone());
    for status in [200, 404] {
        let mut record = request.record();
        record.status = status;
        record.duration = Duration::from_millis(1);
        cache.series(&record).count(&record);
    }
    let text = exposition(&metrics);
    let counts: Vec<_> = text
        .lines()
        .filter(|l| l.starts_with("istio_requests_total"))
        .collect();
    assert_eq!(counts.len(), 1, "both are one series without response_code");
    assert!(counts[0].ends_with("request_host=\"cart:8080\"} 2"));
    assert!(!counts[0].contains("response_code"));
    assert!(!text.contains("istio_request_bytes"));
    assert!(text.contains("istio_response_bytes"));
    let bad = |metric: &str, name: &str, value: &str| {
        let wire = [pb::MetricOverride {
            metric: metric.to_owned(),
            disabled: false,
            tags: vec![tag(name, false, value)],
        }];
        MetricOverrides::decode(&wire, false).is_err()
    };
    assert!(bad("NOPE", "a", "'x'") && bad("", "a b", "'x'") && bad("", "a", "nope.x"));
}
