use super::*;
use crate::Metrics;
use crate::labels::{EndLabels, ServiceLabels};

fn labels() -> TrafficLabels {
    let end = |name: &str| EndLabels {
        workload: name.into(),
        canonical_service: name.into(),
        canonical_revision: "v1".into(),
        namespace: "shop".into(),
        principal: Some(
            format!("spiffe://cluster.local/ns/shop/sa/{name}")
                .parse()
                .unwrap(),
        ),
        cluster: "Kubernetes".into(),
        ..EndLabels::default()
    };
    TrafficLabels {
        reporter: Direction::Outbound,
        source: end("web"),
        destination: end("cart"),
        service: Some(ServiceLabels {
            hostname: "cart.shop.svc.cluster.local".into(),
            namespace: "shop".into(),
            name: "cart".into(),
        }),
        mutual_tls: true,
    }
}

fn text(metrics: &Metrics) -> Vec<String> {
    metrics
        .encode()
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn labels_are_those_of_the_contract_in_its_order() {
    let traffic = TrafficMetrics::default();
    let mut metrics = Metrics::new();
    metrics.register_collector(traffic.clone());
    let series = traffic.open(labels());
    series.add_received(11);
    series.add_sent(22);
    series.closed(Some(FlowReason::PolicyDenied));
    let set = |flag: &str| {
        format!(
            "reporter=\"source\",source_workload=\"web\",source_canonical_service=\"web\",\
             source_canonical_revision=\"v1\",source_workload_namespace=\"shop\",\
             source_principal=\"spiffe://cluster.local/ns/shop/sa/web\",source_app=\"web\",\
             source_version=\"v1\",source_cluster=\"Kubernetes\",\
             destination_service=\"cart.shop.svc.cluster.local\",\
             destination_service_namespace=\"shop\",destination_service_name=\"cart\",\
             destination_workload=\"cart\",destination_canonical_service=\"cart\",\
             destination_canonical_revision=\"v1\",destination_workload_namespace=\"shop\",\
             destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",\
             destination_app=\"cart\",destination_version=\"v1\",\
             destination_cluster=\"Kubernetes\",request_protocol=\"tcp\",\
             response_flags=\"{flag}\",connection_security_policy=\"mutual_tls\",\
             source_region=\"unknown\",source_zone=\"unknown\",\
             destination_region=\"unknown\",destination_zone=\"unknown\""
        )
    };
    let lines = text(&metrics);
    for expected in [
        format!("istio_tcp_connections_opened_total{{{}}} 1", set("-")),
        format!("istio_tcp_connections_closed_total{{{}}} 1", set("DENY")),
        format!("istio_tcp_received_bytes_total{{{}}} 11", set("-")),
        format!("istio_tcp_sent_bytes_total{{{}}} 22", set("-")),
        format!("istio_tcp_connections_failed_total{{{}}} 1", set("DENY")),
    ] {
        assert!(
            lines.contains(&expected),
            "{expected}\nnot in\n{}",
            lines.join("\n")
        );
    }
}

#[test]
fn byte_series_are_there_from_the_opening_on_and_flows_share_them() {
    let traffic = TrafficMetrics::default();
    let mut metrics = Metrics::new();
    metrics.register_collector(traffic.clone());
    let (one, two) = (traffic.open(labels()), traffic.open(labels()));
    assert!(Arc::ptr_eq(&one, &two));
    let lines = text(&metrics);
    assert!(
        lines
            .iter()
            .any(|l| l.starts_with("istio_tcp_sent_bytes_total{") && l.ends_with("} 0"))
    );
    assert!(
        !lines.iter().any(|l| l.contains("connections_closed")),
        "nothing closed: no family"
    );
}

#[test]
fn sockets_are_counted_while_they_live() {
    let sockets = SocketsOpen::default();
    let mut metrics = Metrics::new();
    metrics.register_collector(sockets.clone());
    let guard = sockets.accepted(Direction::Inbound);
    let open = |n: u8| format!("istio_tcp_sockets_open{{reporter=\"destination\"}} {n}");
    assert!(text(&metrics).contains(&open(1)));
    drop(guard);
    assert!(text(&metrics).contains(&open(0)));
}
