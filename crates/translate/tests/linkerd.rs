//! ServiceProfiles, TrafficSplits, annotations and policies of Linkerd: what
//! becomes of requests (`waypoint-contract` section 8).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod table;
mod world;

use std::collections::BTreeMap;

use ambit_kube::{Kind, ObjectKey, Origin};
use ambit_proto::waypoint::{Retry, Rule};
use ambit_translate::linkerd;

const BASE: &str = include_str!("fixtures/istio/base.yaml");

#[test]
fn linkerd_inputs() {
    table::run(BASE, include_str!("fixtures/linkerd/inputs.yaml"));
}

/// 8.3: annotations of a route fill what its rules leave unset.
#[test]
fn annotations_of_routes() {
    let key = ObjectKey::new(Kind::HttpRoute, "shop", "r");
    let origin = Origin {
        file: "r.yaml".into(),
        document: 1,
        line: 1,
    };
    let annotations = BTreeMap::from([
        ("retry.linkerd.io/http".to_owned(), "5xx".to_owned()),
        ("timeout.linkerd.io/request".to_owned(), "2s".to_owned()),
    ]);
    let own = Retry {
        attempts: 9,
        ..Retry::default()
    };
    let mut rules = [
        Rule::default(),
        Rule {
            retry: Some(own.clone()),
            timeout_ms: Some(7),
            ..Rule::default()
        },
    ];
    let problems = linkerd::annotate_rules(&key, &origin, &annotations, &mut rules);
    assert!(problems.is_empty(), "{problems:?}");
    let [bare, set] = &rules;
    let retry = bare.retry.as_ref().unwrap();
    assert_eq!((retry.attempts, retry.status_codes.len()), (1, 100));
    assert_eq!(bare.timeout_ms, Some(2_000));
    assert_eq!((set.retry.as_ref(), set.timeout_ms), (Some(&own), Some(7)));

    let bad = BTreeMap::from([(
        "retry.linkerd.io/grpc".to_owned(),
        "unavailable,nope".to_owned(),
    )]);
    let mut rules = [Rule::default()];
    let problems = linkerd::annotate_rules(&key, &origin, &bad, &mut rules);
    assert_eq!(problems.first().unwrap().code.as_str(), "AMB0448");
    assert_eq!(rules, [Rule::default()]);
}
