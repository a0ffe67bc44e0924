use super::*;
use crate::OutboundRoute;

fn uid_at(reader: &StateReader, ip: [u8; 4]) -> Option<String> {
    let view = reader.view();
    view.workload_at("", ip.into())
        .map(|one| one.uid.to_string())
}

fn routes(reader: &StateReader, dst: [u8; 4]) -> bool {
    let view = reader.view();
    let source = view.workload("c//Pod/shop/client").unwrap();
    let route = view.route_outbound(source, (dst, 80).into(), &mut rand::rng());
    matches!(route, Ok(OutboundRoute::Hbone { .. }))
}

#[test]
fn a_response_is_one_snapshot() {
    let (mut writer, reader) = started();
    let before = reader.view();
    let batch = vec![
        named(pod("a", [10, 0, 0, 1])),
        named_service(service("s", [10, 96, 0, 1])),
        named(pod("b", [10, 0, 0, 2])),
    ];
    assert!(writer.apply_addresses(batch, &[]).is_empty());
    assert_eq!(before.workloads().count(), 0, "a view never changes");
    let view = reader.view();
    assert_eq!((view.workloads().count(), view.services().count()), (2, 1));
    assert_eq!(
        view.versions(),
        Versions {
            addresses: 1,
            policies: 0
        }
    );
}

#[test]
fn a_bad_resource_rejects_only_itself_and_keeps_what_was() {
    let (mut writer, reader) = started();
    writer.apply_addresses(vec![named(pod("a", [10, 0, 0, 1]))], &[]);
    let bad = pb::Workload {
        addresses: vec![Bytes::from_static(&[1, 2, 3])],
        ..pod("a", [0; 4])
    };
    let rejected = writer.apply_addresses(vec![named(bad), named(pod("b", [10, 0, 0, 2]))], &[]);
    let want = (
        "c//Pod/shop/a".to_owned(),
        "an address has 3 bytes, not 4 or 16".to_owned(),
    );
    assert_eq!(rejected, [want]);
    assert!(uid_at(&reader, [10, 0, 0, 1]).is_some());
    assert!(uid_at(&reader, [10, 0, 0, 2]).is_some());
}

#[test]
fn bytes_that_are_no_message_are_rejected() {
    let (mut writer, reader) = started();
    let good = named(pod("b", [10, 0, 0, 2])).1.encode_to_vec();
    let batch = vec![
        ("a".to_owned(), Bytes::from_static(&[0xff, 0xff])),
        ("c//Pod/shop/b".to_owned(), good.into()),
    ];
    let rejected = writer.apply_addresses_encoded(batch, &[]);
    assert_eq!(rejected.len(), 1);
    assert!(
        rejected[0].1.starts_with("malformed message"),
        "{rejected:?}"
    );
    assert!(uid_at(&reader, [10, 0, 0, 2]).is_some());
}

/// `ztunnel-contract` 4.1 and 12.A 26: a uid, then `ns/hostname`; uids contain
/// slashes, so other names are ignored.
#[test]
fn removed_resources_are_uids_or_services() {
    let (mut writer, reader) = started();
    writer.apply_addresses(
        vec![
            named(pod("a", [10, 0, 0, 1])),
            named_service(service("s", [10, 96, 0, 1])),
        ],
        &[],
    );
    let unknown = ["c//Pod/shop/z", "shop/z", "/10.0.0.1", "a/b/c", ""].map(String::from);
    let versions = reader.view().versions();
    writer.apply_addresses(vec![], &unknown);
    assert_eq!(reader.view().versions(), versions, "nothing changed");
    writer.apply_addresses(vec![], &["c//Pod/shop/a".into(), "shop/s".into()]);
    let view = reader.view();
    assert_eq!((view.workloads().count(), view.services().count()), (0, 0));
    assert!(uid_at(&reader, [10, 0, 0, 1]).is_none());
}

#[test]
fn a_late_removal_leaves_the_new_owner_of_an_address() {
    let (mut writer, reader) = started();
    writer.apply_addresses(vec![named(pod("old", [10, 0, 0, 1]))], &[]);
    writer.apply_addresses(vec![named(pod("new", [10, 0, 0, 1]))], &[]);
    assert_eq!(uid_at(&reader, [10, 0, 0, 1]).unwrap(), "c//Pod/shop/new");
    // An update of the old one doesn't bring it back in front.
    let mut dying = pod("old", [10, 0, 0, 1]);
    dying.status = pb::WorkloadStatus::Unhealthy.into();
    writer.apply_addresses(vec![named(dying)], &[]);
    assert_eq!(uid_at(&reader, [10, 0, 0, 1]).unwrap(), "c//Pod/shop/new");
    writer.apply_addresses(vec![], &["c//Pod/shop/old".into()]);
    assert_eq!(uid_at(&reader, [10, 0, 0, 1]).unwrap(), "c//Pod/shop/new");
}

#[test]
fn a_workload_that_moves_leaves_its_old_places() {
    let (mut writer, reader) = started();
    let mut first = endpoint_of("shop/s", pod("a", [10, 0, 0, 1]));
    first.hostname = "a.example".into();
    writer.apply_addresses(
        vec![named(first), named_service(service("s", [10, 96, 0, 1]))],
        &[],
    );
    let mut second = endpoint_of("shop/t", pod("a", [10, 0, 0, 2]));
    second.node = "n2".into();
    writer.apply_addresses(vec![named(second)], &[]);
    let view = reader.view();
    assert!(uid_at(&reader, [10, 0, 0, 1]).is_none());
    assert!(uid_at(&reader, [10, 0, 0, 2]).is_some());
    assert_eq!(view.endpoints(&"shop/s".parse().unwrap()).count(), 0);
    assert_eq!(view.endpoints(&"shop/t".parse().unwrap()).count(), 1);
    assert!(view.named(&"shop/a.example".parse().unwrap()).is_none());
    assert!(view.local_workload("a", "shop", "default").is_none());
}

/// Endpoints may come before their service, and outlive its replacement.
#[test]
fn endpoints_are_staged_until_their_service_arrives() {
    let (mut writer, reader) = started();
    let client = named(pod("client", [10, 0, 0, 9]));
    writer.apply_addresses(
        vec![
            client,
            named(endpoint_of("shop/s", pod("a", [10, 0, 0, 1]))),
        ],
        &[],
    );
    assert!(!routes(&reader, [10, 96, 0, 1]));
    writer.apply_addresses(vec![named_service(service("s", [10, 96, 0, 1]))], &[]);
    assert!(routes(&reader, [10, 96, 0, 1]));
    writer.apply_addresses(vec![named_service(service("s", [10, 96, 0, 2]))], &[]);
    assert!(!routes(&reader, [10, 96, 0, 1]), "the old address is free");
    assert!(routes(&reader, [10, 96, 0, 2]));
    writer.apply_addresses(vec![], &["shop/s".into()]);
    assert!(!routes(&reader, [10, 96, 0, 2]));
    writer.apply_addresses(vec![], &["c//Pod/shop/a".into()]);
    assert!(writer.view.endpoints.is_empty(), "nothing stays staged");
}

#[test]
fn loosening_the_health_policy_works_at_once() {
    let (mut writer, reader) = started();
    let mut sick = endpoint_of("shop/s", pod("a", [10, 0, 0, 1]));
    sick.status = pb::WorkloadStatus::Unhealthy.into();
    let client = named(pod("client", [10, 0, 0, 9]));
    let one = service("s", [10, 96, 0, 1]);
    writer.apply_addresses(vec![client, named(sick), named_service(one.clone())], &[]);
    assert!(!routes(&reader, [10, 96, 0, 1]));
    let load_balancing = Some(pb::LoadBalancing {
        health_policy: pb::load_balancing::HealthPolicy::AllowAll.into(),
        ..Default::default()
    });
    writer.apply_addresses(
        vec![named_service(pb::Service {
            load_balancing,
            ..one
        })],
        &[],
    );
    assert!(routes(&reader, [10, 96, 0, 1]));
}

#[test]
fn local_workloads_are_those_of_the_node() {
    let (mut writer, reader) = started();
    let far = pb::Workload {
        node: "n2".into(),
        ..pod("far", [10, 0, 0, 2])
    };
    let plain = pb::Workload {
        tunnel_protocol: pb::TunnelProtocol::None.into(),
        service_account: "plain".into(),
        ..pod("plain", [10, 0, 0, 3])
    };
    let native = pb::Workload {
        native_tunnel: true,
        service_account: "native".into(),
        ..plain.clone()
    };
    let native = pb::Workload {
        uid: "native".into(),
        name: "native".into(),
        ..native
    };
    let all = [pod("a", [10, 0, 0, 1]), far, plain, native];
    writer.apply_addresses(all.map(named).to_vec(), &[]);
    let view = reader.view();
    assert!(view.local_workload("a", "shop", "default").is_some());
    assert!(view.local_workload("a", "shop", "other").is_none());
    assert!(view.local_workload("far", "shop", "default").is_none());
    assert_eq!(view.local_workloads().count(), 3);
    let ids: Vec<_> = view
        .local_identities()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        ids,
        [
            "spiffe://cluster.local/ns/shop/sa/default",
            "spiffe://cluster.local/ns/shop/sa/native"
        ]
    );
}

/// A pod whose configuration is late can dial out if its identity is known
/// here, and brings nothing with it that would decide about inbound.
#[test]
fn a_stand_in_has_only_the_known_identity() {
    let (mut writer, reader) = started();
    let mut known = endpoint_of("shop/s", pod("a", [10, 0, 0, 1]));
    known.trust_domain = "td.example".into();
    known.authorization_policies = vec!["shop/p".into()];
    writer.apply_addresses(vec![named(known)], &[]);
    let view = reader.view();
    let one = view.stand_in("b", "shop", "default").unwrap();
    assert_eq!(
        one.identity().unwrap().to_string(),
        "spiffe://td.example/ns/shop/sa/default"
    );
    assert_eq!(
        (&*one.name, one.uid.as_str()),
        ("b", "Kubernetes//Pod/shop/b")
    );
    assert!(one.ips.is_empty() && one.services.is_empty() && one.authorization_policies.is_empty());
    assert!(view.stand_in("b", "shop", "unknown").is_none());
}

#[test]
fn inbound_is_labelled_by_the_forwarded_or_the_first_fitting_service() {
    let (mut writer, reader) = started();
    let server = endpoint_of(
        "shop/b",
        endpoint_of("shop/a", pod("server", [10, 0, 0, 1])),
    );
    let foreign = service("foreign", [10, 96, 0, 3]);
    let named_port = pb::Service {
        ports: vec![port(81, 9090)],
        ..service("c", [10, 96, 0, 4])
    };
    let mut server = server;
    let ports = vec![port(81, 0)];
    server
        .services
        .insert("shop/c".into(), pb::PortList { ports });
    writer.apply_addresses(
        vec![
            named(server),
            named_service(service("b", [10, 96, 0, 2])),
            named_service(service("a", [10, 96, 0, 1])),
            named_service(foreign),
            named_service(named_port),
        ],
        &[],
    );
    let view = reader.view();
    let local = view.workload("c//Pod/shop/server").unwrap();
    let label = |host, port| {
        let service = view.inbound_service_label(local, host, port);
        service.map(|one| one.key.hostname.to_string())
    };
    assert_eq!(label(Some("b"), 8080).as_deref(), Some("b"));
    assert_eq!(
        label(Some("foreign"), 8080).as_deref(),
        Some("a"),
        "not one of its own"
    );
    assert_eq!(label(None, 8080).as_deref(), Some("a"));
    assert_eq!(
        label(None, 9090).as_deref(),
        Some("c"),
        "by the service's target"
    );
    assert_eq!(label(None, 1), None);
}
