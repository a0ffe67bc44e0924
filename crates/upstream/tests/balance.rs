//! Which endpoint is chosen, with seeded randomness (`waypoint-contract` 3.5,
//! 5.6, 8.3); where endpoints run is in `locality.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_proto::waypoint as pb;
use ambit_upstream::{Backend, Outcome, PickContext, PickError};
use support::{
    Bed, algorithm, assert_share, at, backend, decoded, eject, endpoint, hosts, weighted,
};

// 5.6
#[test]
fn random_is_even() {
    let mut bed = Bed::new(algorithm(pb::Algorithm::Random), &hosts(4));
    let shares = bed.shares(20_000, 0);
    (0..4).for_each(|n| assert_share(&shares, &format!("h{n}"), 25.0));
}

// 5.6
#[test]
fn random_goes_by_weight() {
    let endpoints = [weighted("a", 1), weighted("b", 3)];
    let mut bed = Bed::new(algorithm(pb::Algorithm::Random), &endpoints);
    let shares = bed.shares(20_000, 0);
    assert_share(&shares, "b", 75.0);
}

// 5.6
#[test]
fn round_robin_takes_turns() {
    let mut bed = Bed::new(algorithm(pb::Algorithm::RoundRobin), &hosts(3));
    let picks: Vec<_> = (0..6)
        .map(|_| bed.pick(&PickContext::default(), 0).unwrap())
        .collect();
    assert_eq!(picks, ["h0", "h1", "h2", "h0", "h1", "h2"]);
}

// 5.6: weighted and interleaved, not in bursts
#[test]
fn round_robin_by_weight_is_smooth() {
    let endpoints = [weighted("a", 2), weighted("b", 1), weighted("c", 1)];
    let mut bed = Bed::new(algorithm(pb::Algorithm::RoundRobin), &endpoints);
    let picks: Vec<_> = (0..4)
        .map(|_| bed.pick(&PickContext::default(), 0).unwrap())
        .collect();
    assert_eq!(picks, ["a", "b", "c", "a"]);
}

// 5.6
#[test]
fn least_request_avoids_the_busy() {
    let mut bed = Bed::new(pb::TrafficPolicy::default(), &hosts(2));
    let now = bed.start;
    let busy = PickContext {
        session: Some("h0"),
        ..Default::default()
    };
    let held: Vec<_> = (0..5)
        .map(|_| bed.cluster.pick(&busy, &mut bed.rng, now).unwrap())
        .collect();
    let shares = bed.shares(1000, 0);
    assert!(shares["h1"] > 95.0, "{shares:?}");
    drop(held);
    assert_share(&bed.shares(20_000, 0), "h0", 50.0);
}

// 5.6
#[test]
fn least_request_by_weight() {
    let endpoints = [weighted("a", 1), weighted("b", 4)];
    let mut bed = Bed::new(pb::TrafficPolicy::default(), &endpoints);
    assert_share(&bed.shares(20_000, 0), "b", 80.0);
}

// 5.6: weight / (active + 1)
#[test]
fn least_request_by_weight_and_load() {
    let endpoints = [weighted("a", 1), weighted("b", 4)];
    let mut bed = Bed::new(pb::TrafficPolicy::default(), &endpoints);
    let session = PickContext {
        session: Some("b"),
        ..Default::default()
    };
    let now = bed.start;
    let _held: Vec<_> = (0..3)
        .map(|_| bed.cluster.pick(&session, &mut bed.rng, now).unwrap())
        .collect();
    assert_share(&bed.shares(20_000, 0), "b", 50.0);
}

fn by_hash(algorithm: pb::Algorithm, size: u64) -> pb::TrafficPolicy {
    pb::TrafficPolicy {
        load_balancer: Some(pb::LoadBalancer {
            algorithm: algorithm.into(),
            hash: Some(pb::ConsistentHash {
                key: Some(pb::consistent_hash::Key::Header("x-user".into())),
                size,
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn placed(bed: &mut Bed, keys: u64) -> BTreeMap<u64, String> {
    (0..keys)
        .map(|key| {
            let context = PickContext {
                hash: Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                ..Default::default()
            };
            (key, bed.pick(&context, 0).unwrap())
        })
        .collect()
}

fn consistent(algorithm: pb::Algorithm, size: u64, slack: f64) {
    let mut bed = Bed::new(by_hash(algorithm, size), &hosts(5));
    let before = placed(&mut bed, 4000);
    assert_eq!(
        before,
        placed(&mut bed, 4000),
        "the same key, the same endpoint"
    );
    for n in 0..5 {
        let own = before
            .values()
            .filter(|uid| **uid == format!("h{n}"))
            .count();
        let share = f64::from(u32::try_from(own).unwrap()) / 40.0;
        assert!((share - 20.0).abs() < slack, "h{n}: {share}");
    }
    bed.cluster.update(&decoded(&hosts(4)), bed.start);
    let after = placed(&mut bed, 4000);
    let moved = before
        .iter()
        .filter(|(key, uid)| **uid != "h4" && after.get(key) != Some(*uid))
        .count();
    assert!(moved < 200, "{moved} keys of others moved");
}

// 5.6
#[test]
fn ring_hash_moves_only_the_share_of_who_leaves() {
    consistent(pb::Algorithm::RingHash, 8192, 4.0);
}

// 5.6
#[test]
fn maglev_moves_little() {
    consistent(pb::Algorithm::Maglev, 0, 2.0);
}

// 5.6
#[test]
fn an_ejected_endpoint_is_passed_over_on_the_ring() {
    let mut policy = by_hash(pb::Algorithm::RingHash, 0);
    policy.outlier = Some(pb::Outlier {
        consecutive_5xx: 1,
        ..Default::default()
    });
    let mut bed = Bed::new(policy, &hosts(5));
    let before = placed(&mut bed, 1000);
    let now = bed.start;
    let context = PickContext {
        session: Some("h2"),
        ..Default::default()
    };
    let pick = bed.cluster.pick(&context, &mut bed.rng, now).unwrap();
    pick.report(Outcome::Status(500), None, now, &mut bed.rng);
    let after = placed(&mut bed, 1000);
    assert!(after.values().all(|uid| uid != "h2"));
    assert!(
        before
            .iter()
            .all(|(key, uid)| uid == "h2" || after[key] == *uid)
    );
}

// 3.5
#[test]
fn without_a_key_any_endpoint_will_do() {
    let mut bed = Bed::new(by_hash(pb::Algorithm::RingHash, 0), &hosts(3));
    assert_eq!(bed.shares(200, 0).len(), 3);
}

// 3.5
#[test]
fn maglev_goes_by_weight() {
    let endpoints = [weighted("a", 1), weighted("b", 3)];
    let mut bed = Bed::new(by_hash(pb::Algorithm::Maglev, 1009), &endpoints);
    let placed = placed(&mut bed, 4000);
    let b = placed.values().filter(|uid| *uid == "b").count();
    assert!((2880..3120).contains(&b), "{b}");
}

// 5.6
#[test]
fn peak_ewma_prefers_the_quick() {
    let mut bed = Bed::new(algorithm(pb::Algorithm::PeakEwma), &hosts(2));
    let now = bed.start;
    for (uid, latency) in [("h0", 500), ("h1", 5)] {
        let context = PickContext {
            session: Some(uid),
            ..Default::default()
        };
        let pick = bed.cluster.pick(&context, &mut bed.rng, now).unwrap();
        let latency = Some(Duration::from_millis(latency));
        pick.report(Outcome::Status(200), latency, now, &mut bed.rng);
    }
    let shares = bed.shares(1000, 0);
    assert!(shares["h1"] > 95.0, "{shares:?}");
}

// 3.5
#[test]
fn warm_up_begins_small_and_grows() {
    let mut policy = algorithm(pb::Algorithm::RoundRobin);
    policy.load_balancer.as_mut().unwrap().warmup = Some(pb::Warmup {
        duration_ms: 10_000,
        minimum_percent: 10,
        aggression: 1.0,
    });
    let mut bed = Bed::new(policy, &hosts(1));
    bed.cluster.update(&decoded(&hosts(2)), bed.time(1000));
    assert_share(&bed.shares(20_000, 1000), "h1", 100.0 * 0.1 / 1.1);
    assert_share(&bed.shares(20_000, 6000), "h1", 100.0 * 0.5 / 1.5);
    assert_share(&bed.shares(20_000, 11_000), "h1", 50.0);
}

// 3.5
#[test]
fn the_first_endpoints_are_warm() {
    let mut policy = algorithm(pb::Algorithm::RoundRobin);
    policy.load_balancer.as_mut().unwrap().warmup = Some(pb::Warmup {
        duration_ms: 10_000,
        minimum_percent: 10,
        aggression: 1.0,
    });
    let mut bed = Bed::new(policy, &hosts(2));
    let first = bed.pick(&PickContext::default(), 0).unwrap();
    assert_eq!(first, "h0");
}

// 5.1, 1.9
#[test]
fn a_retry_avoids_who_failed() {
    let mut bed = Bed::new(pb::TrafficPolicy::default(), &hosts(3));
    let avoid: [Arc<str>; 2] = ["h0".into(), "h2".into()];
    let context = PickContext {
        avoid: &avoid,
        ..Default::default()
    };
    for _ in 0..200 {
        assert_eq!(bed.pick(&context, 0).unwrap(), "h1");
    }
}

// 5.1
#[test]
fn when_all_failed_any_will_do() {
    let mut bed = Bed::new(pb::TrafficPolicy::default(), &hosts(1));
    let avoid: [Arc<str>; 1] = ["h0".into()];
    let context = PickContext {
        avoid: &avoid,
        ..Default::default()
    };
    assert_eq!(bed.pick(&context, 0).unwrap(), "h0");
}

// 1.10
#[test]
fn no_endpoints_no_healthy_upstream() {
    let mut bed = Bed::new(pb::TrafficPolicy::default(), &[]);
    assert_eq!(
        bed.pick(&PickContext::default(), 0),
        Err(PickError::NoHealthy)
    );
}

// 3.5
#[test]
fn passthrough_chooses_nothing() {
    let mut bed = Bed::new(algorithm(pb::Algorithm::Passthrough), &hosts(1));
    assert_eq!(
        bed.pick(&PickContext::default(), 0),
        Err(PickError::Passthrough)
    );
}

fn with_health(uid: &str, health: pb::Health) -> pb::Endpoint {
    pb::Endpoint {
        health: health.into(),
        ..endpoint(uid)
    }
}

// 1.4
#[test]
fn unready_and_draining_are_left_out() {
    let endpoints = [
        endpoint("ready"),
        with_health("unready", pb::Health::NotReady),
        with_health("draining", pb::Health::Draining),
    ];
    let mut bed = Bed::new(pb::TrafficPolicy::default(), &endpoints);
    assert_eq!(bed.shares(100, 0).len(), 1);
    let session = PickContext {
        session: Some("draining"),
        ..Default::default()
    };
    assert_eq!(bed.pick(&session, 0).unwrap(), "ready");
}

// 1.4
#[test]
fn unready_are_used_where_published() {
    let mut backend = backend(pb::TrafficPolicy::default());
    backend.publish_not_ready = true;
    let endpoints = [with_health("unready", pb::Health::NotReady)];
    let mut bed = Bed::of(&backend, "", &endpoints);
    assert_eq!(bed.pick(&PickContext::default(), 0).unwrap(), "unready");
}

// 1.4
#[test]
fn draining_keep_their_sessions() {
    let mut backend = backend(pb::TrafficPolicy::default());
    backend.persistent_sessions = true;
    let endpoints = [
        endpoint("ready"),
        with_health("draining", pb::Health::Draining),
    ];
    let mut bed = Bed::of(&backend, "", &endpoints);
    let session = PickContext {
        session: Some("draining"),
        ..Default::default()
    };
    assert_eq!(bed.pick(&session, 0).unwrap(), "draining");
    assert_eq!(bed.pick(&PickContext::default(), 0).unwrap(), "ready");
}

// 2.6: endpoint gone, pick again
#[test]
fn a_session_with_nobody_is_like_none() {
    let mut bed = Bed::new(pb::TrafficPolicy::default(), &hosts(1));
    let session = PickContext {
        session: Some("gone"),
        ..Default::default()
    };
    assert_eq!(bed.pick(&session, 0).unwrap(), "h0");
}

// 3.4
#[test]
fn a_subset_goes_by_all_labels() {
    let label = |key: &str, value: &str| pb::Label {
        key: key.into(),
        value: value.into(),
    };
    let mut backend = backend(pb::TrafficPolicy::default());
    backend.subsets = vec![pb::Subset {
        name: "v2".into(),
        labels: vec![label("version", "v2"), label("tier", "a")],
        ..Default::default()
    }];
    let of = |uid: &str, labels: Vec<pb::Label>| pb::Endpoint {
        labels,
        ..endpoint(uid)
    };
    let endpoints = [
        of("both", vec![label("tier", "a"), label("version", "v2")]),
        of("one", vec![label("version", "v2")]),
        of("none", vec![]),
    ];
    let mut bed = Bed::of(&backend, "v2", &endpoints);
    assert_eq!(bed.shares(50, 0).len(), 1);
    assert!(
        Backend::decode(&backend)
            .unwrap()
            .settings(80, "v3")
            .is_none()
    );
    assert!(
        Backend::decode(&backend)
            .unwrap()
            .settings(81, "v2")
            .is_none()
    );
}

// 3.4: what says where an endpoint runs is a label too.
#[test]
fn a_subset_may_go_by_where_endpoints_run() {
    let mut backend = backend(pb::TrafficPolicy::default());
    let subset = |key: &str, value: &str| pb::Subset {
        name: value.into(),
        labels: vec![pb::Label {
            key: key.into(),
            value: value.into(),
        }],
        ..Default::default()
    };
    backend.subsets = vec![
        subset("topology.istio.io/cluster", "east"),
        subset("topology.kubernetes.io/zone", "z2"),
    ];
    let mut east = at("one", "r/z1");
    east.cluster_id = "east".into();
    // Its pod has the label of another cluster, where it doesn't run.
    let mut west = at("two", "r/z2");
    west.cluster_id = "west".into();
    west.labels = backend.subsets[0].labels.clone();
    for (name, wanted) in [("east", "one"), ("z2", "two")] {
        let mut bed = Bed::of(&backend, name, &[east.clone(), west.clone()]);
        let shares = bed.shares(50, 0);
        assert_eq!(shares.keys().collect::<Vec<_>>(), [wanted], "{name}");
    }
}

// proto Backend: S.ports[P], S.policy, ports[P], policy
#[test]
fn the_nearest_policy_holds() {
    let pool = |most: u32| pb::TrafficPolicy {
        pool: Some(pb::ConnectionPool {
            max_requests: Some(most),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut backend = backend(pool(1));
    backend.ports.push(pb::BackendPort {
        number: 81,
        policy: Some(pool(2)),
        ..Default::default()
    });
    backend.subsets = vec![
        pb::Subset {
            name: "own".into(),
            policy: Some(pool(3)),
            ports: vec![pb::SubsetPort {
                number: 81,
                policy: Some(pool(4)),
            }],
            ..Default::default()
        },
        pb::Subset {
            name: "bare".into(),
            ..Default::default()
        },
    ];
    let backend = Backend::decode(&backend).unwrap();
    let most = |port, subset| {
        backend
            .settings(port, subset)
            .unwrap()
            .policy
            .pool
            .max_requests
    };
    assert_eq!(most(80, ""), Some(1));
    assert_eq!(most(81, ""), Some(2));
    assert_eq!(most(80, "own"), Some(3));
    assert_eq!(most(81, "own"), Some(4));
    assert_eq!(most(80, "bare"), Some(1));
    assert_eq!(most(81, "bare"), Some(2));
}

// proto Endpoint.ports
#[test]
fn who_does_not_serve_the_port_is_left_out() {
    let mut other = endpoint("other");
    other.ports[0].service = 81;
    let mut bed = Bed::new(pb::TrafficPolicy::default(), &[other, endpoint("h0")]);
    assert_eq!(bed.shares(50, 0).len(), 1);
    let now = bed.start;
    let pick = bed
        .cluster
        .pick(&PickContext::default(), &mut bed.rng, now)
        .unwrap();
    assert_eq!(pick.target_port(), 8080);
}

// 5.5: counters survive an update, by uid
#[test]
fn ejection_survives_updates() {
    let policy = pb::TrafficPolicy {
        outlier: Some(pb::Outlier {
            consecutive_5xx: 1,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut bed = Bed::new(policy, &hosts(2));
    eject(&mut bed, "h0");
    let mut changed = hosts(3);
    changed[0].weight = 5;
    bed.cluster.update(&decoded(&changed), bed.start);
    assert!(!bed.shares(200, 0).contains_key("h0"));
}

// 8.3
#[test]
fn accrual_backs_off_and_probes() {
    let policy = pb::TrafficPolicy {
        accrual: Some(pb::FailureAccrual {
            consecutive_failures: 2,
            min_penalty_ms: 1000,
            max_penalty_ms: 60_000,
            jitter: 0.0,
        }),
        ..Default::default()
    };
    let mut bed = Bed::new(policy, &hosts(1));
    let report = |bed: &mut Bed, ms: u64, outcome: Outcome| {
        let now = bed.time(ms);
        let pick = bed
            .cluster
            .pick(&PickContext::default(), &mut bed.rng, now)
            .unwrap();
        pick.report(outcome, None, now, &mut bed.rng);
    };
    let fails = Outcome::Status(503);
    report(&mut bed, 0, fails);
    report(&mut bed, 0, fails);
    let none = PickContext::default();
    assert_eq!(bed.pick(&none, 999), Err(PickError::NoHealthy));
    // One probe at a time.
    let now = bed.time(1000);
    let probe = bed.cluster.pick(&none, &mut bed.rng, now).unwrap();
    assert_eq!(bed.pick(&none, 1000), Err(PickError::NoHealthy));
    probe.report(fails, None, now, &mut bed.rng);
    drop(probe);
    // Twice as long.
    assert_eq!(bed.pick(&none, 2999), Err(PickError::NoHealthy));
    report(&mut bed, 3000, Outcome::Status(200));
    assert!(bed.pick(&none, 3000).is_ok());
    report(&mut bed, 3000, fails);
    assert!(bed.pick(&none, 3000).is_ok(), "the count began anew");
}
