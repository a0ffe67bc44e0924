//! Endpoints that are preferred for where they run (`waypoint-contract` 3.5,
//! 5.6).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;

use ambit_proto::waypoint as pb;
use ambit_upstream::{PickContext, PickError};
use support::{Bed, algorithm, assert_share, at, backend, decoded, eject, endpoint, hosts};

fn in_localities(
    outlier: bool,
    change: impl FnOnce(&mut pb::LocalityBalancing),
) -> pb::TrafficPolicy {
    let mut locality = pb::LocalityBalancing {
        enabled: true,
        ..Default::default()
    };
    change(&mut locality);
    let mut policy = algorithm(pb::Algorithm::Random);
    policy.load_balancer.as_mut().unwrap().locality = Some(locality);
    policy.outlier = outlier.then(|| pb::Outlier {
        consecutive_5xx: 1,
        max_ejection_percent: 100,
        ..Default::default()
    });
    policy
}

fn everywhere() -> Vec<pb::Endpoint> {
    vec![
        at("subzone", "here/z1/s1"),
        at("zone", "here/z1/s2"),
        at("region", "here/z2/s1"),
        at("failover", "there/z1/s1"),
        at("elsewhere", "far/z1/s1"),
    ]
}

// 3.5, 9 #25
#[test]
fn failover_needs_ejection() {
    let mut bed = Bed::new(in_localities(false, |_| ()), &everywhere());
    assert_eq!(bed.shares(500, 0).len(), 5);
}

// 3.5: same subzone 0, zone 1, region 2, else 3, mismatch 4
#[test]
fn failover_goes_outwards() {
    let failover = |locality: &mut pb::LocalityBalancing| {
        locality.failover = vec![pb::Failover {
            from: "here".into(),
            to: "there".into(),
        }];
    };
    let mut bed = Bed::new(in_localities(true, failover), &everywhere());
    for uid in ["subzone", "zone", "region", "failover", "elsewhere"] {
        assert_share(&bed.shares(500, 0), uid, 100.0);
        eject(&mut bed, uid);
    }
    assert_eq!(
        bed.pick(&PickContext::default(), 0),
        Err(PickError::NoHealthy)
    );
}

// 5.6, 9 #25: 1.4 over-provisioning, proportional
#[test]
fn spill_over_is_proportional() {
    let mut endpoints: Vec<_> = (0..4)
        .map(|n| at(&format!("near{n}"), "here/z1/s1"))
        .collect();
    endpoints.push(at("far", "there/z1/s1"));
    let mut bed = Bed::new(in_localities(true, |_| ()), &endpoints);
    eject(&mut bed, "near0");
    assert!(
        !bed.shares(1000, 0).contains_key("far"),
        "75 % x 1.4 is enough"
    );
    eject(&mut bed, "near1");
    assert_share(&bed.shares(20_000, 0), "far", 30.0);
    eject(&mut bed, "near2");
    assert_share(&bed.shares(20_000, 0), "far", 65.0);
}

// 3.5
#[test]
fn failover_priority_by_labels() {
    let priority = |locality: &mut pb::LocalityBalancing| {
        locality.failover_priority = vec!["topology.istio.io/network".into(), "rack".into()];
    };
    let of = |uid: &str, network: &str, rack: &str| pb::Endpoint {
        network: network.into(),
        labels: vec![pb::Label {
            key: "rack".into(),
            value: rack.into(),
        }],
        ..endpoint(uid)
    };
    let endpoints = [
        of("both", "net", "r1"),
        of("network", "net", "r2"),
        of("rack", "x", "r1"),
    ];
    let mut bed = Bed::new(in_localities(true, priority), &endpoints);
    for uid in ["both", "network", "rack"] {
        assert_share(&bed.shares(200, 0), uid, 100.0);
        eject(&mut bed, uid);
    }
}

// 3.5
#[test]
fn failover_priority_with_a_value() {
    let priority = |locality: &mut pb::LocalityBalancing| {
        locality.failover_priority = vec!["topology.kubernetes.io/region=there".into()];
    };
    let mut bed = Bed::new(in_localities(true, priority), &everywhere());
    assert_share(&bed.shares(200, 0), "failover", 100.0);
}

// 3.5
#[test]
fn distribute_by_weight() {
    let distribute = |locality: &mut pb::LocalityBalancing| {
        let to = |locality: &str, weight| pb::LocalityWeight {
            locality: locality.into(),
            weight,
        };
        locality.distribute = vec![
            pb::Distribute {
                from: "other/*".into(),
                to: vec![],
            },
            pb::Distribute {
                from: "here/z1/*".into(),
                to: vec![to("here/*", 10), to("here/z2/*", 60), to("there/*", 30)],
            },
        ];
    };
    let mut bed = Bed::new(in_localities(false, distribute), &everywhere());
    let shares = bed.shares(20_000, 0);
    assert_share(&shares, "region", 60.0);
    assert_share(&shares, "failover", 30.0);
    assert_share(&shares, "subzone", 5.0);
    assert!(!shares.contains_key("elsewhere"));
}

// 3.5: off
#[test]
fn locality_can_be_turned_off() {
    let off = |locality: &mut pb::LocalityBalancing| locality.enabled = false;
    let mut bed = Bed::new(in_localities(true, off), &everywhere());
    assert_eq!(bed.shares(500, 0).len(), 5);
}

fn preferring(strict: bool, scopes: &[pb::TopologyScope]) -> pb::Backend {
    let mut backend = backend(algorithm(pb::Algorithm::Random));
    backend.topology = Some(pb::TopologyPreference {
        strict,
        scopes: scopes.iter().map(|scope| (*scope).into()).collect(),
    });
    backend
}

// 3.5: trafficDistribution needs no ejection
#[test]
fn a_preferred_zone_fails_over_when_it_is_empty() {
    let scopes = [
        pb::TopologyScope::Network,
        pb::TopologyScope::Region,
        pb::TopologyScope::Zone,
    ];
    let mut endpoints = everywhere();
    endpoints.iter_mut().for_each(|e| e.network = "net".into());
    let mut bed = Bed::of(&preferring(false, &scopes), "", &endpoints);
    assert_eq!(bed.shares(500, 0).len(), 2, "subzone and zone");
    bed.cluster.update(&decoded(&endpoints[2..]), bed.start);
    assert_share(&bed.shares(500, 0), "region", 100.0);
}

// 1.4: internalTrafficPolicy Local
#[test]
fn a_strict_topology_never_leaves() {
    let mut endpoints = hosts(2);
    endpoints[0].node = "n1".into();
    let backend = preferring(true, &[pb::TopologyScope::Node]);
    let mut bed = Bed::of(&backend, "", &endpoints);
    assert_share(&bed.shares(100, 0), "h0", 100.0);
    bed.cluster.update(&decoded(&endpoints[1..]), bed.start);
    assert_eq!(
        bed.pick(&PickContext::default(), 0),
        Err(PickError::NoHealthy)
    );
}

// 3.3: retryRemoteLocalities
#[test]
fn a_retry_may_want_another_locality() {
    let mut bed = Bed::new(in_localities(true, |_| ()), &everywhere());
    let avoid: [Arc<str>; 1] = ["subzone".into()];
    let context = PickContext {
        avoid: &avoid,
        other_locality: true,
        ..Default::default()
    };
    assert_eq!(bed.pick(&context, 0).unwrap(), "zone");
}
