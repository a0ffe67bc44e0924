//! Clusters for tests.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by several test programs"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_proto::waypoint as pb;
use ambit_upstream::{Backend, Cluster, Endpoint, Local, Outcome, PickContext, PickError};
use rand::SeedableRng;
use rand::rngs::StdRng;

pub struct Bed {
    pub cluster: Cluster,
    pub start: Instant,
    pub rng: StdRng,
}

pub fn endpoint(uid: &str) -> pb::Endpoint {
    pb::Endpoint {
        uid: uid.into(),
        addresses: vec![vec![10, 0, 0, 1]],
        ports: vec![pb::PortMapping {
            service: 80,
            target: 8080,
        }],
        ..Default::default()
    }
}

pub fn at(uid: &str, locality: &str) -> pb::Endpoint {
    let mut parts = locality.split('/').map(str::to_owned);
    pb::Endpoint {
        locality: Some(pb::Locality {
            region: parts.next().unwrap_or_default(),
            zone: parts.next().unwrap_or_default(),
            subzone: parts.next().unwrap_or_default(),
        }),
        ..endpoint(uid)
    }
}

pub fn weighted(uid: &str, weight: u32) -> pb::Endpoint {
    pb::Endpoint {
        weight,
        ..endpoint(uid)
    }
}

pub fn decoded(endpoints: &[pb::Endpoint]) -> Vec<Arc<Endpoint>> {
    endpoints
        .iter()
        .map(|endpoint| Arc::new(Endpoint::decode(endpoint).unwrap()))
        .collect()
}

pub fn backend(policy: pb::TrafficPolicy) -> pb::Backend {
    pb::Backend {
        namespace: "shop".into(),
        name: "cart".into(),
        hostname: "cart.shop.svc".into(),
        ports: vec![pb::BackendPort {
            number: 80,
            ..Default::default()
        }],
        policy: Some(policy),
        ..Default::default()
    }
}

pub fn algorithm(algorithm: pb::Algorithm) -> pb::TrafficPolicy {
    pb::TrafficPolicy {
        load_balancer: Some(pb::LoadBalancer {
            algorithm: algorithm.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// In `here/z1/s1`, on node n1.
pub fn local() -> Arc<Local> {
    Arc::new(Local {
        locality: ambit_types::Locality {
            region: "here".into(),
            zone: "z1".into(),
            subzone: "s1".into(),
        },
        node: "n1".into(),
        network: "net".into(),
        cluster_id: "c1".into(),
        labels: vec![("rack".into(), "r1".into())],
    })
}

impl Bed {
    pub fn new(policy: pb::TrafficPolicy, endpoints: &[pb::Endpoint]) -> Self {
        Self::of(&backend(policy), "", endpoints)
    }

    pub fn of(backend: &pb::Backend, subset: &str, endpoints: &[pb::Endpoint]) -> Self {
        let start = Instant::now();
        let settings = Backend::decode(backend).unwrap().settings(80, subset);
        let cluster = Cluster::new(settings.unwrap(), local(), start);
        cluster.update(&decoded(endpoints), start);
        Self {
            cluster,
            start,
            rng: StdRng::seed_from_u64(7),
        }
    }

    pub fn time(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    pub fn pick(&mut self, context: &PickContext<'_>, ms: u64) -> Result<String, PickError> {
        let now = self.time(ms);
        self.cluster
            .pick(context, &mut self.rng, now)
            .map(|pick| pick.uid().to_string())
    }

    /// How often each endpoint is chosen of `count` times, in percent.
    pub fn shares(&mut self, count: u32, ms: u64) -> BTreeMap<String, f64> {
        let mut shares = BTreeMap::new();
        for _ in 0..count {
            let uid = self.pick(&PickContext::default(), ms).unwrap();
            *shares.entry(uid).or_insert(0.0) += 100.0 / f64::from(count);
        }
        shares
    }
}

/// Within two points.
pub fn assert_share(shares: &BTreeMap<String, f64>, uid: &str, percent: f64) {
    let got = shares.get(uid).copied().unwrap_or(0.0);
    assert!(
        (got - percent).abs() < 2.0,
        "{uid}: {got}, wanted {percent}: {shares:?}"
    );
}

pub fn hosts(count: usize) -> Vec<pb::Endpoint> {
    (0..count).map(|n| endpoint(&format!("h{n}"))).collect()
}

/// By one response, where one is enough.
pub fn eject(bed: &mut Bed, uid: &str) {
    let now = bed.start;
    let context = PickContext {
        session: Some(uid),
        ..Default::default()
    };
    let pick = bed.cluster.pick(&context, &mut bed.rng, now).unwrap();
    pick.report(Outcome::Status(500), None, now, &mut bed.rng);
}
