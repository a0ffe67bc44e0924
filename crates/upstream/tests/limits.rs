//! Rate limits (`waypoint-contract` 7.1, 8.4).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use ambit_proto::waypoint as pb;
use ambit_upstream::{LimitRequest, LimitVerdict, RateLimit};
use http::HeaderMap;
use rand::SeedableRng;
use rand::rngs::StdRng;

struct Bed {
    limit: RateLimit,
    start: Instant,
    rng: StdRng,
}

fn rule(max: u32, per_fill: u32, interval_ms: u64) -> pb::RateLimitRule {
    pb::RateLimitRule {
        name: "all".into(),
        max_tokens: max,
        tokens_per_fill: per_fill,
        fill_interval_ms: interval_ms,
        enforced_share: 1_000_000,
        ..Default::default()
    }
}

impl Bed {
    fn new(rules: Vec<pb::RateLimitRule>) -> Self {
        let start = Instant::now();
        let message = pb::RateLimit {
            rules,
            ..Default::default()
        };
        Self {
            limit: RateLimit::decode("LocalRateLimit/shop/l", &message, start).unwrap(),
            start,
            rng: StdRng::seed_from_u64(3),
        }
    }

    fn ask(&mut self, principal: Option<&str>, ms: u64) -> LimitVerdict {
        let headers = HeaderMap::new();
        let request = LimitRequest {
            principal,
            headers: &headers,
        };
        let now = self.start + Duration::from_millis(ms);
        self.limit.check(&request, now, &mut self.rng)
    }

    /// How many pass of 100 at that time.
    fn passed(&mut self, principal: Option<&str>, ms: u64) -> usize {
        (0..100)
            .filter(|_| matches!(self.ask(principal, ms), LimitVerdict::Allowed(_)))
            .count()
    }
}

#[test]
fn a_bucket_is_full_at_first_and_fills_in_steps() {
    let mut bed = Bed::new(vec![rule(10, 4, 1000)]);
    assert_eq!(bed.passed(None, 0), 10);
    assert_eq!(bed.passed(None, 999), 0);
    assert_eq!(bed.passed(None, 1000), 4);
    assert_eq!(bed.passed(None, 60_000), 10, "never more than its size");
}

#[test]
fn smooth_buckets_fill_evenly() {
    let mut smooth = rule(10, 10, 1000);
    smooth.smooth = true;
    let mut bed = Bed::new(vec![smooth]);
    assert_eq!(bed.passed(None, 0), 10, "burst is a second's worth");
    assert_eq!(bed.passed(None, 99), 0);
    assert_eq!(bed.passed(None, 100), 1);
    assert_eq!(bed.passed(None, 350), 2);
    assert_eq!(bed.passed(None, 10_000), 10);
}

#[test]
fn clients_have_buckets_of_their_own() {
    let mut own = rule(2, 2, 1000);
    own.per_client = true;
    let mut bed = Bed::new(vec![own]);
    assert_eq!(bed.passed(Some("td/ns/a/sa/a"), 0), 2);
    assert_eq!(bed.passed(Some("td/ns/a/sa/b"), 0), 2);
    assert_eq!(bed.passed(None, 0), 2, "the unauthenticated share one");
    assert_eq!(bed.passed(None, 0), 0);
}

#[test]
fn more_clients_than_there_is_room_for_share_a_bucket() {
    let mut own = rule(1, 1, 1000);
    own.per_client = true;
    let mut bed = Bed::new(vec![own]);
    let passed = (0..20_000)
        .filter(|n| {
            let who = format!("td/ns/a/sa/{n}");
            matches!(bed.ask(Some(&who), 0), LimitVerdict::Allowed(_))
        })
        .count();
    assert!((9_000..=10_100).contains(&passed), "{passed}");
    assert!(matches!(
        bed.ask(Some("td/ns/b/sa/new"), 1000),
        LimitVerdict::Allowed(_)
    ));
}

#[test]
fn the_first_rule_that_matches_counts() {
    let mut special = rule(1, 1, 1000);
    special.name = "special".into();
    special.principals = vec![pb::StringMatch {
        kind: Some(pb::string_match::Kind::Suffix("/sa/batch".into())),
        ignore_case: false,
    }];
    let mut bed = Bed::new(vec![special, rule(5, 5, 1000)]);
    assert_eq!(bed.passed(Some("td/ns/a/sa/batch"), 0), 1);
    assert_eq!(bed.passed(Some("td/ns/a/sa/web"), 0), 5);
}

#[test]
fn total_first_then_the_clients() {
    let mut total = rule(3, 3, 1000);
    total.also_next = true;
    let mut own = rule(2, 2, 1000);
    own.name = "own".into();
    own.per_client = true;
    let mut bed = Bed::new(vec![total, own]);
    assert_eq!(bed.passed(Some("a"), 0), 2);
    assert_eq!(
        bed.passed(Some("b"), 0),
        0,
        "a's refused request counted in total"
    );
}

#[test]
fn a_part_may_be_counted_only() {
    let mut half = rule(1, 1, 1000);
    half.enforced_share = 0;
    let mut bed = Bed::new(vec![half]);
    assert_eq!(bed.passed(None, 0), 100);
}

#[test]
fn refusals_carry_what_the_answer_needs() {
    let mut told = rule(1, 1, 2000);
    told.response_headers = true;
    told.grpc_resource_exhausted = true;
    let mut bed = Bed::new(vec![told]);
    let LimitVerdict::Allowed(Some(first)) = bed.ask(None, 500) else {
        panic!("it is full")
    };
    assert_eq!((first.limit, first.remaining, first.reset), (1, 0, 2));
    let LimitVerdict::Limited(limited) = bed.ask(None, 500) else {
        panic!("it is empty")
    };
    assert_eq!((&*limited.rule, limited.grpc_status), ("all", 8));
    let names: Vec<_> = limited
        .standing
        .unwrap()
        .headers()
        .map(|(n, v)| format!("{n}={v:?}"))
        .into();
    assert_eq!(
        names,
        [
            "x-ratelimit-limit=\"1\"",
            "x-ratelimit-remaining=\"0\"",
            "x-ratelimit-reset=\"2\""
        ]
    );
}

#[test]
fn counts_survive_an_update_of_another_rule() {
    let mut bed = Bed::new(vec![rule(2, 2, 1000)]);
    assert_eq!(bed.passed(None, 0), 2);
    let message = pb::RateLimit {
        rules: vec![rule(2, 2, 1000), rule(9, 9, 1000)],
        ..Default::default()
    };
    let next = RateLimit::decode("l", &message, bed.start).unwrap();
    bed.limit = next.inheriting(&bed.limit);
    assert_eq!(bed.passed(None, 0), 0);
}

#[test]
fn a_bucket_that_never_fills_is_refused() {
    let message = pb::RateLimit {
        rules: vec![rule(1, 0, 1000)],
        ..Default::default()
    };
    let error = RateLimit::decode("l", &message, Instant::now()).unwrap_err();
    assert!(error.to_string().starts_with("rules[0]"), "{error}");
}
