//! Timelines of ejection (`cases/outlier.yaml`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use ambit_proto::waypoint as pb;
use ambit_upstream::{LocalFailure, Outcome, PickContext};
use serde::Deserialize;
use support::{Bed, endpoint};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    defaults: OutlierYaml,
    cases: Vec<Case>,
}

#[derive(Deserialize, Clone, Default)]
#[serde(default, deny_unknown_fields)]
struct OutlierYaml {
    consecutive_5xx: Option<u32>,
    consecutive_gateway_errors: Option<u32>,
    consecutive_local_failures: Option<u32>,
    split_local_errors: Option<bool>,
    interval_ms: Option<u64>,
    base_ejection_ms: Option<u64>,
    max_ejection_percent: Option<u32>,
    min_health_percent: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    clause: String,
    hosts: usize,
    #[serde(default)]
    outlier: OutlierYaml,
    steps: Vec<Step>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Step {
    at: u64,
    report: Option<(usize, String, u32)>,
    tick: bool,
    ejected: Option<Vec<usize>>,
    pick: Option<bool>,
    panic: Option<bool>,
}

fn outcome(text: &str) -> Outcome {
    match text {
        "connect" => Outcome::Local(LocalFailure::Connect),
        "timeout" => Outcome::Local(LocalFailure::Timeout),
        "reset" => Outcome::Local(LocalFailure::Reset),
        "connected" => Outcome::Connected,
        "unknown" => Outcome::Unknown,
        status => match status.strip_prefix("grpc") {
            Some(code) => Outcome::of_grpc(code.parse().unwrap()),
            None => Outcome::Status(status.parse().unwrap()),
        },
    }
}

fn run(name: &str) {
    let table: Table = serde_saphyr::from_str(TABLE).unwrap();
    let case = table.cases.iter().find(|case| case.name == name).unwrap();
    assert!(!case.clause.is_empty(), "a case cites its clause");
    let (own, default) = (&case.outlier, &table.defaults);
    let count = |of: fn(&OutlierYaml) -> Option<u32>| of(own).or(of(default)).unwrap_or(0);
    let policy = pb::TrafficPolicy {
        outlier: Some(pb::Outlier {
            consecutive_5xx: count(|o| o.consecutive_5xx),
            consecutive_gateway_errors: count(|o| o.consecutive_gateway_errors),
            consecutive_local_failures: count(|o| o.consecutive_local_failures),
            split_local_errors: own.split_local_errors.unwrap_or(false),
            interval_ms: own.interval_ms.or(default.interval_ms).unwrap(),
            base_ejection_ms: own.base_ejection_ms.or(default.base_ejection_ms).unwrap(),
            max_ejection_ms: 300_000,
            max_ejection_percent: count(|o| o.max_ejection_percent),
            min_health_percent: count(|o| o.min_health_percent),
        }),
        ..Default::default()
    };
    let hosts: Vec<_> = (0..case.hosts)
        .map(|n| endpoint(&format!("h{n}")))
        .collect();
    let mut bed = Bed::new(policy, &hosts);
    for step in &case.steps {
        take(&mut bed, step);
    }
}

fn take(bed: &mut Bed, step: &Step) {
    let now = bed.time(step.at);
    if let Some((host, text, times)) = &step.report {
        let uid = format!("h{host}");
        let context = PickContext {
            session: Some(&uid),
            ..Default::default()
        };
        // One request is under way for each report, as they would be.
        let picks: Vec<_> = (0..*times)
            .map(|_| bed.cluster.pick(&context, &mut bed.rng, now).unwrap())
            .collect();
        for pick in picks {
            assert_eq!(**pick.uid(), *uid);
            pick.report(outcome(text), None, now, &mut bed.rng);
        }
    }
    if step.tick {
        bed.cluster.tick(now);
    }
    let snapshot = bed.cluster.snapshot(now);
    if let Some(want) = &step.ejected {
        let mut ejected: Vec<_> = snapshot
            .hosts
            .iter()
            .filter(|host| host.ejected)
            .map(|host| host.endpoint.uid.to_string())
            .collect();
        ejected.sort();
        let want: Vec<_> = want.iter().map(|n| format!("h{n}")).collect();
        assert_eq!(ejected, want, "at {}", step.at);
    }
    if let Some(want) = step.panic {
        assert_eq!(snapshot.panic, want, "at {}", step.at);
    }
    if let Some(want) = step.pick {
        let got = bed.pick(&PickContext::default(), step.at);
        assert_eq!(got.is_ok(), want, "at {}: {got:?}", step.at);
    }
}

const TABLE: &str = include_str!("cases/outlier.yaml");

/// One test per named case, and one that no case of the file is left out.
macro_rules! cases {
    ($($case:ident),+ $(,)?) => {
        $(#[test]
        fn $case() {
            run(stringify!($case));
        })+

        #[test]
        fn every_case_is_a_test() {
            let table: Table = serde_saphyr::from_str(TABLE).unwrap();
            let in_file: Vec<_> = table.cases.iter().map(|case| case.name.as_str()).collect();
            assert_eq!(in_file, [$(stringify!($case)),+]);
        }
    };
}

cases!(
    five_5xx_eject_at_once,
    any_other_status_resets_the_run,
    local_failures_count_as_5xx,
    split_local_failures_count_apart,
    split_a_response_ends_the_local_run,
    zero_turns_5xx_off,
    gateway_errors,
    ejection_ends_at_a_sweep,
    ejections_get_longer,
    ejections_are_capped,
    old_ejections_are_forgotten,
    readmission_starts_the_count_anew,
    at_most_ten_percent,
    one_may_always_be_ejected,
    the_only_host_too,
    all_ejected_is_no_healthy_upstream,
    panic_uses_all,
    unknown_outcomes_count_for_nothing,
    grpc_by_mapped_status,
    connections_count_as_success,
);
