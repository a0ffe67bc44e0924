//! Whatever happens to a cluster, a choice is one of those who may be chosen,
//! and there is one whenever somebody may.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;

use ambit_proto::waypoint as pb;
use ambit_upstream::{Outcome, PickContext};
use proptest::prelude::*;
use support::{Bed, decoded, weighted};

#[derive(Debug, Clone)]
enum Op {
    Update(Vec<(u8, u32)>),
    Report(u8, bool),
    Tick(u64),
}

fn an_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => prop::collection::vec((0_u8..8, 1_u32..5), 0..8).prop_map(Op::Update),
        6 => (0_u8..8, any::<bool>()).prop_map(|(host, good)| Op::Report(host, good)),
        1 => (1_u64..20_000).prop_map(Op::Tick),
    ]
}

const ALGORITHMS: [pb::Algorithm; 6] = [
    pb::Algorithm::LeastRequest,
    pb::Algorithm::RoundRobin,
    pb::Algorithm::Random,
    pb::Algorithm::RingHash,
    pb::Algorithm::Maglev,
    pb::Algorithm::PeakEwma,
];

fn policy(algorithm: pb::Algorithm) -> pb::TrafficPolicy {
    pb::TrafficPolicy {
        load_balancer: Some(pb::LoadBalancer {
            algorithm: algorithm.into(),
            hash: Some(pb::ConsistentHash {
                key: Some(pb::consistent_hash::Key::SourceIp(true)),
                size: 101,
            }),
            ..Default::default()
        }),
        outlier: Some(pb::Outlier {
            consecutive_5xx: 1,
            max_ejection_percent: 100,
            ..Default::default()
        }),
        ..Default::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn choices_are_of_those_who_may_be_chosen(
        which in 0_usize..6,
        ops in prop::collection::vec(an_op(), 1..40),
        hash in any::<u64>(),
        avoid in prop::collection::vec(0_u8..8, 0..3),
    ) {
        let mut bed = Bed::new(policy(ALGORITHMS[which]), &[weighted("h0", 1), weighted("h1", 2)]);
        let mut now = 0;
        let avoid: Vec<Arc<str>> = avoid.iter().map(|n| format!("h{n}").into()).collect();
        for op in ops {
            match op {
                Op::Update(hosts) => {
                    let mut endpoints: Vec<_> = hosts
                        .iter()
                        .map(|(host, weight)| weighted(&format!("h{host}"), *weight))
                        .collect();
                    endpoints.sort_by(|a, b| a.uid.cmp(&b.uid));
                    endpoints.dedup_by(|a, b| a.uid == b.uid);
                    bed.cluster.update(&decoded(&endpoints), bed.time(now));
                }
                Op::Report(host, good) => {
                    let uid = format!("h{host}");
                    let context = PickContext { session: Some(&uid), ..Default::default() };
                    let at = bed.time(now);
                    if let Ok(pick) = bed.cluster.pick(&context, &mut bed.rng, at) {
                        let outcome = Outcome::Status(if good { 200 } else { 500 });
                        pick.report(outcome, None, at, &mut bed.rng);
                    }
                }
                Op::Tick(ms) => {
                    now += ms;
                    bed.cluster.tick(bed.time(now));
                }
            }
            let snapshot = bed.cluster.snapshot(bed.time(now));
            let may: Vec<String> = snapshot
                .hosts
                .iter()
                .filter(|host| !host.ejected)
                .map(|host| host.endpoint.uid.to_string())
                .collect();
            prop_assert!(snapshot.hosts.iter().all(|host| host.active == 0));
            let context = PickContext { hash: Some(hash), avoid: &avoid, ..Default::default() };
            match bed.pick(&context, now) {
                Ok(uid) => {
                    prop_assert!(may.contains(&uid), "{} of {:?}", uid, may);
                    let others = may.iter().any(|uid| !avoid.iter().any(|a| **a == **uid));
                    let avoided = avoid.iter().any(|a| **a == *uid);
                    prop_assert!(!(others && avoided), "{} was to be avoided: {:?}", uid, may);
                }
                Err(_) => prop_assert!(may.is_empty(), "{:?}", may),
            }
        }
    }
}
