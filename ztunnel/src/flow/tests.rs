use std::net::SocketAddr;

use ambit_policy::DeniedBy;
use ambit_proto::workload as pb;
use ambit_state::{StateConfig, Workload};
use ambit_telemetry::Metrics;
use ambit_types::FlowReason;

use super::*;
use crate::report::{Carrier, Claimed, Original, Source};

fn workload(name: &str) -> Arc<Workload> {
    let (mut writer, reader) = ambit_state::new(StateConfig::default());
    let wire = pb::Workload {
        uid: format!("Kubernetes//Pod/shop/{name}-0"),
        name: format!("{name}-0"),
        namespace: "shop".to_owned(),
        service_account: name.to_owned(),
        workload_name: name.to_owned(),
        canonical_name: name.to_owned(),
        canonical_revision: "v1".to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        ..pb::Workload::default()
    };
    let uid = wire.uid.clone();
    let kind = Some(pb::address::Type::Workload(wire));
    let address = pb::Address { r#type: kind };
    assert!(
        writer
            .apply_addresses(vec![(uid.clone(), address)], &[])
            .is_empty()
    );
    Arc::clone(reader.view().workload(&uid).unwrap())
}

fn facts(direction: Direction, carrier: Carrier, source: Source) -> Facts {
    let own = workload("web").identity().cloned();
    Facts {
        direction,
        carrier,
        src: "10.0.0.1:40000".parse().unwrap(),
        dst: "10.0.0.2:15008".parse().unwrap(),
        actual: "10.0.0.2:8080".parse().unwrap(),
        original: Original::Unknown,
        authority: None,
        source,
        source_id: own.filter(|_| carrier == Carrier::Hbone),
        destination: Some(workload("cart")),
        service: None,
        accepted: Instant::now(),
    }
}

/// Everything that a scrape shows.
fn scrape(telling: &Telling) -> String {
    let mut metrics = Metrics::new();
    metrics.register_collector(telling.traffic.clone());
    metrics.register_collector(telling.refusals.clone());
    metrics.encode().unwrap()
}

fn line<'a>(text: &'a str, name: &str, label: &str) -> Option<&'a str> {
    text.lines()
        .find(|l| l.starts_with(&format!("{name}{{")) && l.contains(label))
}

#[test]
fn labels_of_the_two_ends() {
    let telling = Telling::default();
    let flows = Arc::new(Flows::default());
    let source = Source::Known(workload("web"));
    flows
        .open(facts(Direction::Outbound, Carrier::Hbone, source), &telling)
        .end(Ok(()));
    let text = scrape(&telling);
    let closed = line(&text, "istio_tcp_connections_closed_total", "source").unwrap();
    for label in [
        "source_workload=\"web\"",
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/web\"",
        "destination_workload=\"cart\"",
        "destination_app=\"cart\"",
        "destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"mutual_tls\"",
    ] {
        assert!(closed.contains(label), "{label}\n{closed}");
    }
    assert!(
        !text.contains("ambit_refusals"),
        "a good end refuses nothing"
    );
}

#[test]
fn plaintext_proves_no_source_and_baggage_only_labels() {
    let telling = Telling::default();
    let flows = Arc::new(Flows::default());
    let claimed = Claimed {
        workload: "edge".into(),
        ..Claimed::default()
    };
    let source = Source::Claimed(Box::new(claimed));
    flows
        .open(facts(Direction::Inbound, Carrier::Tcp, source), &telling)
        .end(Ok(()));
    let text = scrape(&telling);
    let opened = line(&text, "istio_tcp_connections_opened_total", "destination").unwrap();
    for label in [
        "reporter=\"destination\"",
        "source_workload=\"edge\"",
        "source_principal=\"unknown\"",
        "source_workload_namespace=\"unknown\"",
        "destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\"",
        "connection_security_policy=\"unknown\"",
    ] {
        assert!(opened.contains(label), "{label}\n{opened}");
    }
}

#[test]
fn each_end_is_counted_once_under_its_flag_and_reason() {
    let cases = [
        (
            Some(FlowError::Denied(DeniedBy::NoAllowMatched)),
            "DENY",
            Some("policy_denied"),
        ),
        (Some(FlowError::PolicyClosed), "DENY", Some("policy_closed")),
        (None, "-", None),
    ];
    for (error, flag, reason) in cases {
        let telling = Telling::default();
        let flows = Arc::new(Flows::default());
        let open = flows.open(
            facts(Direction::Inbound, Carrier::Tcp, Source::Unknown),
            &telling,
        );
        assert_eq!(flows.running().len(), 1);
        open.end(error.map_or(Ok(()), Err));
        assert!(flows.running().is_empty());
        let text = scrape(&telling);
        let flag = format!("response_flags=\"{flag}\"");
        let closed = line(&text, "istio_tcp_connections_closed_total", &flag).unwrap();
        assert!(closed.ends_with(" 1"), "{closed}");
        let counted = reason.and_then(|reason| {
            line(
                &text,
                "ambit_refusals_total",
                &format!("reason=\"{reason}\""),
            )
        });
        assert_eq!(counted.is_some(), reason.is_some());
    }
}

#[test]
fn a_flow_whose_task_is_dropped_is_recorded_as_drained() {
    let telling = Telling::default();
    let flows = Arc::new(Flows::default());
    drop(flows.open(
        facts(Direction::Outbound, Carrier::Tcp, Source::Unknown),
        &telling,
    ));
    assert!(flows.running().is_empty());
    let text = scrape(&telling);
    let closed = line(
        &text,
        "istio_tcp_connections_closed_total",
        "response_flags=\"-\"",
    );
    assert!(closed.unwrap().ends_with(" 1"));
    let drained = FlowReason::Drained.as_str();
    assert_eq!(telling.refusals.value(Direction::Outbound, drained), 1);
}

#[test]
fn a_refusal_before_the_ends_are_known_has_no_traffic_series() {
    let telling = Telling::default();
    let addr: SocketAddr = "10.0.0.1:1".parse().unwrap();
    refuse(
        &telling,
        Direction::Outbound,
        addr,
        addr,
        &FlowError::Drained,
    );
    let text = scrape(&telling);
    assert!(!text.contains("istio_tcp"), "{text}");
    assert!(text.contains("ambit_refusals_total{reporter=\"source\",reason=\"drained\"} 1"));
}

#[tokio::test]
async fn a_cut_that_comes_before_anybody_waits_is_kept() {
    let telling = Telling::default();
    let flows = Arc::new(Flows::default());
    let open = flows.open(
        facts(Direction::Inbound, Carrier::Tcp, Source::Unknown),
        &telling,
    );
    open.flow().cut();
    tokio::time::timeout(std::time::Duration::from_secs(5), open.flow().was_cut())
        .await
        .unwrap();
}
