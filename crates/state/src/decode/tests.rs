use proptest::prelude::*;
use prost::Message;

use super::*;

fn read_workload(wire: pb::Workload) -> Result<Workload, DecodeError> {
    let mut interner = Interner::default();
    let mut decoder = Decoder {
        interner: &mut interner,
    };
    decoder.workload(wire)
}

fn read_service(wire: pb::Service) -> Result<Service, DecodeError> {
    let mut interner = Interner::default();
    let mut decoder = Decoder {
        interner: &mut interner,
    };
    decoder.service(wire)
}

fn workload() -> pb::Workload {
    pb::Workload {
        uid: "u".into(),
        namespace: "shop".into(),
        ..Default::default()
    }
}

fn service() -> pb::Service {
    pb::Service {
        namespace: "shop".into(),
        hostname: "s.shop".into(),
        ..Default::default()
    }
}

fn address(bytes: &[u8], length: Option<u32>) -> pb::NetworkAddress {
    pb::NetworkAddress {
        network: "net".into(),
        address: bytes.to_vec(),
        length,
    }
}

/// The defaults of `ztunnel-contract` 4.3.
#[test]
fn empty_fields_have_their_defaults() {
    let one = read_workload(workload()).unwrap();
    assert_eq!(
        one.identity().unwrap().to_string(),
        "spiffe://cluster.local/ns/shop/sa/default"
    );
    assert_eq!(&*one.cluster_id, "Kubernetes");
    assert_eq!(one.capacity, 1);
    assert_eq!(one.protocol, Protocol::Tcp);
    assert_eq!(one.network_mode, NetworkMode::Standard);
    let one = read_service(service()).unwrap();
    assert_eq!(one.load_balancing, LoadBalancing::default());
    assert_eq!(one.ip_families, None);
    assert_eq!(one.visibility, Visibility::Public);
}

#[test]
fn a_capacity_of_zero_is_not_absent() {
    let wire = pb::Workload {
        capacity: Some(0),
        ..workload()
    };
    assert_eq!(read_workload(wire).unwrap().capacity, 0);
}

#[test]
fn two_enums_tolerate_unknown_values() {
    let wire = pb::Workload {
        workload_type: 9,
        ..workload()
    };
    assert_eq!(
        read_workload(wire).unwrap().workload_type,
        WorkloadType::Deployment
    );
    let wire = pb::Service {
        visibility: 9,
        ..service()
    };
    assert_eq!(read_service(wire).unwrap().visibility, Visibility::Public);
}

#[test]
fn workloads_that_break_a_rule_are_rejected() {
    let with = |edit: fn(&mut pb::Workload)| {
        let mut wire = workload();
        edit(&mut wire);
        read_workload(wire).unwrap_err().to_string()
    };
    let cases = [
        (with(|w| w.uid.clear()), "uid is empty"),
        (
            with(|w| w.tunnel_protocol = 2),
            "tunnel_protocol LEGACY_ISTIO_MTLS is not supported",
        ),
        (
            with(|w| w.tunnel_protocol = 3),
            "tunnel_protocol has the unknown value 3",
        ),
        (
            with(|w| w.network_mode = 2),
            "network_mode has the unknown value 2",
        ),
        (with(|w| w.status = 2), "status has the unknown value 2"),
        (
            with(|w| {
                w.application_tunnel = Some(pb::ApplicationTunnel {
                    protocol: 2,
                    port: 0,
                })
            }),
            "application_tunnel.protocol has the unknown value 2",
        ),
        (
            with(|w| {
                w.application_tunnel = Some(pb::ApplicationTunnel {
                    protocol: 0,
                    port: 70_000,
                })
            }),
            "application_tunnel.port: 70000 is not a port",
        ),
        (
            with(|w| w.addresses = vec![vec![1; 5].into()]),
            "an address has 5 bytes, not 4 or 16",
        ),
        (
            with(|w| w.waypoint = Some(pb::GatewayAddress::default())),
            "waypoint names neither a hostname nor an address",
        ),
        (
            with(|w| {
                w.services.insert("cart".into(), pb::PortList::default());
            }),
            "services: \"cart\" is not of the form NAMESPACE/NAME",
        ),
        (
            with(|w| {
                w.services.insert("a/b/c".into(), pb::PortList::default());
            }),
            "services: \"a/b/c\" is not of the form NAMESPACE/NAME",
        ),
        (
            with(|w| w.authorization_policies = vec!["p".into()]),
            "authorization_policies: \"p\" is not of the form NAMESPACE/NAME",
        ),
    ];
    for (got, want) in cases {
        assert_eq!(got, want);
    }
    assert!(matches!(
        read_workload(pb::Workload {
            trust_domain: "a/b".into(),
            ..workload()
        }),
        Err(DecodeError::Identity(_))
    ));
}

#[test]
fn services_that_break_a_rule_are_rejected() {
    let with = |edit: fn(&mut pb::Service)| {
        let mut wire = service();
        edit(&mut wire);
        read_service(wire).unwrap_err().to_string()
    };
    let balancing = |preference: Vec<i32>, mode, health_policy| {
        Some(pb::LoadBalancing {
            routing_preference: preference,
            mode,
            health_policy,
        })
    };
    let wire = |load_balancing| {
        read_service(pb::Service {
            load_balancing,
            ..service()
        })
    };
    let cases = [
        (with(|s| s.hostname.clear()), "hostname is empty"),
        (
            with(|s| s.ip_families = 4),
            "ip_families has the unknown value 4",
        ),
        (
            wire(balancing(vec![0], 0, 0)).unwrap_err().to_string(),
            "routing_preference has the unknown value 0",
        ),
        (
            wire(balancing(vec![7], 0, 0)).unwrap_err().to_string(),
            "routing_preference has the unknown value 7",
        ),
        (
            wire(balancing(vec![], 4, 0)).unwrap_err().to_string(),
            "load_balancing.mode has the unknown value 4",
        ),
        (
            wire(balancing(vec![], 0, 2)).unwrap_err().to_string(),
            "health_policy has the unknown value 2",
        ),
        (
            with(|s| s.addresses = vec![address(&[1], None)]),
            "an address has 1 bytes, not 4 or 16",
        ),
        (
            with(|s| s.addresses = vec![address(&[10, 0, 0, 0], Some(33))]),
            "the prefix length 33 is too long for 10.0.0.0",
        ),
        (
            with(|s| s.weighted_waypoints = vec![pb::WeightedWaypoint::default()]),
            "weighted_waypoints names neither a hostname nor an address",
        ),
        (
            with(|s| {
                s.ports = vec![pb::Port {
                    service_port: 65_536,
                    ..Default::default()
                }]
            }),
            "service_port: 65536 is not a port",
        ),
    ];
    for (got, want) in cases {
        assert_eq!(got, want);
    }
}

/// `ztunnel-contract` 3.1: a range of full length is an address.
#[test]
fn addresses_and_ranges_are_told_apart() {
    let mut mapped = [0; 16];
    mapped[10..].copy_from_slice(&[0xff, 0xff, 10, 1, 0, 0]);
    let one = read_service(pb::Service {
        addresses: vec![
            address(&[10, 96, 0, 1], None),
            address(&[10, 96, 0, 2], Some(32)),
            address(&[10, 96, 7, 3], Some(16)),
            address(&mapped, None),
            address(&mapped, Some(112)),
        ],
        ..service()
    })
    .unwrap();
    let vips: Vec<_> = one.vips.iter().map(ToString::to_string).collect();
    assert_eq!(vips, ["net/10.96.0.1", "net/10.96.0.2", "net/10.1.0.0"]);
    let ranges: Vec<_> = one.cidr_vips.iter().map(|r| r.cidr.to_string()).collect();
    assert_eq!(ranges, ["10.96.0.0/16", "10.1.0.0/16"]);
}

#[test]
fn subject_alt_names_that_are_no_identity_are_kept_for_the_eye_only() {
    let names = ["spiffe://td/ns/a/sa/b", "dns.example", "spiffe://td/ns/a"];
    let one = read_service(pb::Service {
        subject_alt_names: names.map(String::from).to_vec(),
        ..service()
    })
    .unwrap();
    assert_eq!(one.subject_alt_names.len(), 3);
    assert_eq!(one.identities, [names[0].parse().unwrap()]);
}

#[test]
fn mapped_and_repeated_addresses_are_one() {
    let mut mapped = vec![0; 10];
    mapped.extend([0xff, 0xff, 10, 0, 0, 1]);
    let one = read_workload(pb::Workload {
        addresses: vec![vec![10, 0, 0, 1].into(), mapped.into()],
        ..workload()
    })
    .unwrap();
    assert_eq!(one.ips, [IpAddr::from([10, 0, 0, 1])]);
}

proptest! {
    /// Whatever the bytes are: a value or a refusal, never a panic.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = pb::Address::decode(&bytes[..]) {
            match wire.r#type {
                Some(pb::address::Type::Workload(wire)) => drop(read_workload(wire)),
                Some(pb::address::Type::Service(wire)) => drop(read_service(wire)),
                None => {}
            }
        }
    }
}
