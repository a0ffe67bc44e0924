//! What bounds requests and retries, and what is hashed (`waypoint-contract`
//! 3.5, 5.1, 5.4).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::HashSet;
use std::time::Duration;

use ambit_proto::waypoint as pb;
use ambit_upstream::{Backend, HashPolicy, Resource};
use http::{HeaderMap, HeaderValue};
use rand::SeedableRng;
use rand::rngs::StdRng;
use support::{Bed, algorithm, backend};

fn pool(pool: pb::ConnectionPool) -> pb::TrafficPolicy {
    pb::TrafficPolicy {
        pool: Some(pool),
        ..Default::default()
    }
}

// 5.4
#[test]
fn breakers_give_back_what_they_took() {
    let bed = Bed::new(
        pool(pb::ConnectionPool {
            max_connections: Some(1),
            max_pending_requests: Some(1),
            max_requests: Some(2),
            max_retries: Some(1),
            ..Default::default()
        }),
        &[],
    );
    let cluster = &bed.cluster;
    let connection = cluster.try_connection().unwrap();
    assert_eq!(
        cluster.try_connection().unwrap_err().resource,
        Resource::Connection
    );
    drop(connection);
    let _connection = cluster.try_connection().unwrap();
    let _pending = cluster.try_pending().unwrap();
    assert!(cluster.try_pending().is_err());
    let _requests = [
        cluster.try_request().unwrap(),
        cluster.try_request().unwrap(),
    ];
    assert!(cluster.try_request().is_err());
    let _retry = cluster.try_retry(bed.start).unwrap();
    assert!(cluster.try_retry(bed.start).is_err());
    assert_eq!(cluster.snapshot(bed.start).gauges, [1, 1, 2, 1]);
    assert_eq!(cluster.snapshot(bed.start).overflows, 4);
}

// 9 #24: zero is unset, but for idle timeouts
#[test]
fn zero_is_unset_except_idle() {
    let zeros = pb::ConnectionPool {
        max_requests: Some(0),
        connect_timeout_ms: Some(0),
        http_idle_timeout_ms: Some(0),
        ..Default::default()
    };
    let backend = Backend::decode(&backend(pool(zeros))).unwrap();
    let pool = &backend.policy.pool;
    assert_eq!((pool.max_requests, pool.connect_timeout), (None, None));
    assert_eq!(pool.http_idle_timeout, None);
    assert_eq!(pool.tcp_idle_timeout, Some(Duration::from_secs(3600)));
}

fn budget(kind: pb::retry_budget::Kind) -> Bed {
    let policy = pb::TrafficPolicy {
        retry_budget: Some(pb::RetryBudget { kind: Some(kind) }),
        ..Default::default()
    };
    Bed::new(policy, &[])
}

fn retries(bed: &Bed, ms: u64) -> usize {
    (0..1000)
        .take_while(|_| bed.cluster.try_retry(bed.time(ms)).is_ok())
        .count()
}

// 5.1, 3.5
#[test]
fn concurrent_budget() {
    let bed = budget(pb::retry_budget::Kind::Concurrent(pb::ConcurrentBudget {
        percent: 20.0,
        min_concurrency: 3,
    }));
    let take = |bed: &Bed| -> Vec<_> {
        std::iter::from_fn(|| bed.cluster.try_retry(bed.start).ok()).collect()
    };
    assert_eq!(take(&bed).len(), 3, "at least three");
    let _requests: Vec<_> = (0..50)
        .map(|_| bed.cluster.try_request().unwrap())
        .collect();
    assert_eq!(take(&bed).len(), 10, "20 % of 50");
}

// 5.1, 2.7
#[test]
fn window_budget() {
    let bed = budget(pb::retry_budget::Kind::Window(pb::WindowBudget {
        percent: 20,
        interval_ms: 10_000,
        min_count: 2,
        min_interval_ms: 1000,
    }));
    (0..100).for_each(|_| bed.cluster.on_first_request(bed.start));
    assert_eq!(retries(&bed, 0), 20);
    assert_eq!(retries(&bed, 2000), 2, "the minimum of another second");
    assert_eq!(retries(&bed, 30_000), 2, "the window is over");
}

// 5.1, 8.1
#[test]
fn token_budget() {
    let bed = budget(pb::retry_budget::Kind::Tokens(pb::TokenBudget {
        ratio: 0.2,
        min_per_second: 1,
        ttl_ms: 10_000,
    }));
    (0..100).for_each(|_| bed.cluster.on_first_request(bed.start));
    assert_eq!(retries(&bed, 0), 30, "10 in reserve and 20 paid in");
    assert_eq!(retries(&bed, 30_000), 10, "the reserve");
}

fn key(policy: pb::consistent_hash::Key) -> HashPolicy {
    let mut settings = algorithm(pb::Algorithm::RingHash);
    settings.load_balancer.as_mut().unwrap().hash = Some(pb::ConsistentHash {
        key: Some(policy),
        size: 0,
    });
    let backend = Backend::decode(&backend(settings)).unwrap();
    backend.policy.balancer.hash.clone().unwrap()
}

// 3.5
#[test]
fn hash_cookies_are_made_once() {
    let policy = key(pb::consistent_hash::Key::Cookie(pb::HashCookie {
        name: "user".into(),
        path: "/p".into(),
        ttl_ms: Some(2000),
        attributes: vec![],
    }));
    let mut rng = StdRng::seed_from_u64(1);
    let source = [10, 0, 0, 9].into();
    let made = policy.key(&HeaderMap::new(), None, source, &mut rng);
    let text = made.set_cookie.unwrap();
    let text = text.to_str().unwrap();
    assert!(text.ends_with("; Max-Age=2; Path=/p; HttpOnly"), "{text}");
    let mut headers = HeaderMap::new();
    let value = text.split(';').next().unwrap();
    headers.insert(
        "cookie",
        HeaderValue::try_from(format!("a=b; {value}")).unwrap(),
    );
    let again = policy.key(&headers, None, source, &mut rng);
    assert_eq!((again.hash, again.set_cookie), (made.hash, None));
}

// 3.5: without lifetime a cookie is only read
#[test]
fn hash_cookie_without_lifetime() {
    let policy = key(pb::consistent_hash::Key::Cookie(pb::HashCookie {
        name: "user".into(),
        ..Default::default()
    }));
    let mut rng = StdRng::seed_from_u64(1);
    let got = policy.key(&HeaderMap::new(), None, [10, 0, 0, 9].into(), &mut rng);
    assert_eq!((got.hash, got.set_cookie), (None, None));
}

// 3.5
#[test]
fn hash_of_address_header_and_query() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut seen = HashSet::new();
    let (one, two) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let ip = key(pb::consistent_hash::Key::SourceIp(true));
    let none = HeaderMap::new();
    assert!(seen.insert(ip.key(&none, None, one, &mut rng).hash));
    assert!(seen.insert(ip.key(&none, None, two, &mut rng).hash));
    let query = key(pb::consistent_hash::Key::Query("u".into()));
    assert!(seen.insert(query.key(&none, Some("a=1&u=7"), one, &mut rng).hash));
    assert_eq!(query.key(&none, Some("a=1"), one, &mut rng).hash, None);
    let header = key(pb::consistent_hash::Key::Header("x-user".into()));
    assert_eq!(header.key(&none, None, one, &mut rng).hash, None);
}
