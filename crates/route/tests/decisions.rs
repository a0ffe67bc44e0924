//! Decisions that are drawn, counted or timed, and what is refused at decoding.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use ambit_proto::waypoint as pb;
use ambit_route::{
    Abort, AttemptOutcome, Choice, Failure, Head, Log, Next, Retries, Route, RouteKind, Routes,
    Rule, Semantics, StopReason, Why, timeout,
};
use http::{HeaderMap, StatusCode};
use rand::SeedableRng;
use rand::rngs::StdRng;
use support::{FRONTEND, MatchYaml, RouteYaml, RuleYaml, headers};

fn rng() -> StdRng {
    StdRng::seed_from_u64(11)
}

fn rule_of(semantics: Semantics, message: &pb::Rule) -> Rule {
    Rule::decode(message, RouteKind::Http, semantics).unwrap()
}

fn gateway(message: &pb::Rule) -> Rule {
    rule_of(Semantics::GatewayApi, message)
}

fn backends(weights: &[u32]) -> pb::Rule {
    pb::Rule {
        backends: weights
            .iter()
            .enumerate()
            .map(|(at, weight)| pb::BackendRef {
                service: format!("shop/b{at}"),
                port: 80,
                weight: *weight,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn drawn(rule: &Rule) -> [f64; 3] {
    let mut rng = rng();
    let mut counts = [0.0; 3];
    for _ in 0..20_000 {
        match rule.choose(&mut rng) {
            Choice::Backend(backend) => match &*backend.service {
                "shop/b0" => counts[0] += 1.0 / 200.0,
                _ => counts[1] += 1.0 / 200.0,
            },
            Choice::Refused { .. } => counts[2] += 1.0 / 200.0,
            Choice::Frontend => panic!("not asked for"),
        }
    }
    counts
}

// 2.4, 2.9 MeshHTTPRouteWeight
#[test]
fn weights_are_shares_of_their_sum() {
    let [first, second, _] = drawn(&gateway(&backends(&[7, 3, 0])));
    assert!(
        (first - 70.0).abs() < 1.5 && (second - 30.0).abs() < 1.5,
        "{first} {second}"
    );
}

// 2.4: some invalid: that share gets 500, the rest is normal
#[test]
fn an_invalid_destination_keeps_its_share() {
    let mut message = backends(&[1, 3]);
    message.backends[1].invalid = Some(pb::Invalid {
        reason: "no such service".into(),
        status: 500,
    });
    let [first, _, refused] = drawn(&gateway(&message));
    assert!((first - 25.0).abs() < 1.5 && (refused - 75.0).abs() < 1.5);
}

fn refused(rule: &Rule) -> Option<u16> {
    match rule.choose(&mut rng()) {
        Choice::Refused { status, .. } => Some(status.as_u16()),
        _ => None,
    }
}

// 2.4, 3.2, 9 #19
#[test]
fn no_destination_and_no_weight() {
    assert_eq!(refused(&gateway(&backends(&[]))), Some(500));
    assert_eq!(refused(&gateway(&backends(&[0, 0]))), Some(500));
    assert_eq!(refused(&gateway(&backends(&[0]))), Some(500));
    let istio = |weights: &[u32]| rule_of(Semantics::VirtualService, &backends(weights));
    assert_eq!(refused(&istio(&[0, 0])), Some(503));
    assert_eq!(
        refused(&istio(&[0])),
        None,
        "a single destination ignores its weight"
    );
    let own = pb::Rule {
        to_frontend: true,
        ..Default::default()
    };
    assert!(matches!(gateway(&own).choose(&mut rng()), Choice::Frontend));
}

// 3.2, 9 #21
#[test]
fn faults_are_drawn_by_share() {
    let fault = |delay_share, abort_share| {
        gateway(&pb::Rule {
            fault: Some(pb::Fault {
                delay_share,
                delay_ms: 50,
                abort_share,
                abort_status: 418,
                abort_grpc_status: None,
            }),
            ..Default::default()
        })
    };
    let count = |rule: &Rule| {
        let mut rng = rng();
        let draws = (0..10_000).map(|_| rule.fault.as_ref().unwrap().draw(&mut rng));
        draws.fold((0, 0), |(delays, aborts), draw| {
            assert!(
                draw.delay
                    .is_none_or(|delay| delay == Duration::from_millis(50))
            );
            (
                delays + i32::from(draw.delay.is_some()),
                aborts + i32::from(draw.abort.is_some()),
            )
        })
    };
    assert_eq!(count(&fault(0, 0)), (0, 0));
    assert_eq!(count(&fault(1_000_000, 1_000_000)), (10_000, 10_000));
    let (delays, aborts) = count(&fault(100_000, 500_000));
    assert!((900..1100).contains(&delays) && (4800..5200).contains(&aborts));
    let abort = fault(0, 1_000_000).fault.unwrap().abort;
    assert_eq!(abort, Some(Abort::Status(StatusCode::IM_A_TEAPOT)));
}

// 2.5
#[test]
fn mirrors_are_drawn_one_by_one() {
    let mirror = |service: &str, share| pb::Mirror {
        backend: Some(pb::BackendRef {
            service: service.into(),
            ..Default::default()
        }),
        share,
    };
    let rule = gateway(&pb::Rule {
        mirrors: vec![
            mirror("always", 1_000_000),
            mirror("half", 500_000),
            mirror("never", 0),
        ],
        ..Default::default()
    });
    let mut rng = rng();
    let mut counts = [0; 3];
    for _ in 0..1000 {
        for backend in rule.mirrors(&mut rng) {
            counts[["always", "half", "never"]
                .iter()
                .position(|n| **n == *backend.service)
                .unwrap()] += 1;
        }
    }
    assert_eq!((counts[0], counts[2]), (1000, 0));
    assert!((430..570).contains(&counts[1]));
}

// 3.2, 9 #22
#[test]
fn who_wins_among_header_operations() {
    let set = |value: &str| {
        Some(pb::HeaderOps {
            set: vec![pb::Header {
                name: "x-a".into(),
                value: value.into(),
            }],
            ..Default::default()
        })
    };
    let result = |count: usize, route_headers_last| {
        let mut message = backends(&vec![1; count]);
        message.request_headers = set("route");
        message
            .backends
            .iter_mut()
            .for_each(|b| b.request_headers = set("destination"));
        message.route_headers_last = route_headers_last;
        let rule = gateway(&message);
        let mut map = HeaderMap::new();
        for ops in rule.ops_in_order(rule.backends.first()) {
            ops.apply(&mut map);
        }
        map["x-a"].to_str().unwrap().to_owned()
    };
    assert_eq!(result(1, true), "destination");
    assert_eq!(result(2, true), "route");
    assert_eq!(result(2, false), "destination");
}

// 3.2: removes, then set and add; host may be set
#[test]
fn header_operations_in_order() {
    let pair = |name: &str, value: &str| pb::Header {
        name: name.into(),
        value: value.into(),
    };
    let rule = gateway(&pb::Rule {
        request_headers: Some(pb::HeaderOps {
            set: vec![pair("X-Set", "new"), pair("Host", "other.example")],
            add: vec![
                pair("x-set", "more"),
                pair("x-old", "again"),
                pair("host", "loser"),
            ],
            remove: vec!["X-Old".into(), "Host".into()],
        }),
        ..Default::default()
    });
    let mut map = headers(&[
        ("x-set".into(), "old".into()),
        ("x-old".into(), "old".into()),
    ]);
    rule.request_headers.apply(&mut map);
    let listed = support::listed(&map);
    assert_eq!(listed["x-set"], ["new", "more"]);
    assert_eq!(listed["x-old"], ["again"]);
    assert_eq!(
        rule.request_headers.authority.as_ref().unwrap(),
        "other.example"
    );
}

fn retrying(message: pb::Retry) -> Rule {
    gateway(&pb::Rule {
        retry: Some(message),
        ..Default::default()
    })
}

// 2.6, 9 #28: attempts are retries
#[test]
fn attempts_are_retries_after_the_first() {
    let rule = retrying(pb::Retry {
        attempts: 2,
        status_codes: vec![500],
        ..Default::default()
    });
    let mut retries = Retries::new(rule.retry.as_ref().unwrap());
    let none = HeaderMap::new();
    let failed = |status| AttemptOutcome::Response {
        status: StatusCode::from_u16(status).unwrap(),
        headers: &none,
        trailer: None,
    };
    let mut rng = rng();
    assert!(matches!(
        retries.after(&failed(500), None, &mut rng),
        Next::Again { .. }
    ));
    assert_eq!(
        retries.after(&failed(503), None, &mut rng),
        Next::Stop(StopReason::NotRetriable)
    );
    assert!(matches!(
        retries.after(&failed(500), None, &mut rng),
        Next::Again { .. }
    ));
    assert_eq!(
        retries.after(&failed(500), None, &mut rng),
        Next::Stop(StopReason::Exhausted)
    );
}

// 5.1: uniform below min(250 ms, 25 ms x (2^n - 1))
#[test]
fn backoff_has_full_jitter_and_a_bound() {
    let rule = retrying(pb::Retry {
        attempts: 100,
        ..Default::default()
    });
    let policy = rule.retry.as_ref().unwrap();
    let mut rng = rng();
    for (n, most) in [(1, 25), (2, 75), (3, 175), (4, 250), (60, 250)] {
        let waits: Vec<_> = (0..2000).map(|_| policy.backoff(n, &mut rng)).collect();
        let longest = *waits.iter().max().unwrap();
        assert!(longest < Duration::from_millis(most));
        assert!(longest > Duration::from_millis(most * 9 / 10));
        assert!(*waits.iter().min().unwrap() < Duration::from_millis(most / 10));
    }
}

// 8.3: lifted on the last try
#[test]
fn the_bound_of_an_attempt() {
    let rule = retrying(pb::Retry {
        attempts: 1,
        per_try_timeout_ms: 200,
        on_per_try_timeout: true,
        last_try_untimed: true,
        ..Default::default()
    });
    let mut retries = Retries::new(rule.retry.as_ref().unwrap());
    let ms = Duration::from_millis;
    assert_eq!(retries.attempt_timeout(None), Some(ms(200)));
    assert_eq!(retries.attempt_timeout(Some(ms(150))), Some(ms(150)));
    let timed_out = AttemptOutcome::Failed(Failure::PerTryTimeout);
    assert!(matches!(
        retries.after(&timed_out, None, &mut rng()),
        Next::Again { .. }
    ));
    assert_eq!(retries.attempt_timeout(None), None);
    assert_eq!(retries.attempt_timeout(Some(ms(400))), Some(ms(400)));
}

// 1.5
#[test]
fn grpc_timeouts() {
    let parse =
        |text: &str| timeout::grpc_timeout(&headers(&[("grpc-timeout".into(), text.into())]));
    assert_eq!(parse("1H"), Some(Duration::from_secs(3600)));
    assert_eq!(parse("2M"), Some(Duration::from_secs(120)));
    assert_eq!(parse("3S"), Some(Duration::from_secs(3)));
    assert_eq!(parse("99999999m"), Some(Duration::from_millis(99_999_999)));
    assert_eq!(parse("5u"), Some(Duration::from_micros(5)));
    assert_eq!(parse("6n"), Some(Duration::from_nanos(6)));
    for bad in [
        "",
        "S",
        "1",
        "1s",
        "-1S",
        "+1S",
        "123456789S",
        "1.5S",
        "1 S",
    ] {
        assert_eq!(parse(bad), None, "{bad:?}");
    }
    let (short, long) = (Some(Duration::from_secs(1)), Some(Duration::from_secs(2)));
    assert_eq!(timeout::whole(long, short), short);
    assert_eq!(timeout::whole(short, long), short);
    assert_eq!(timeout::whole(None, long), long);
    assert_eq!(timeout::whole(short, Some(Duration::ZERO)), short);
}

fn session(message: pb::SessionPersistence) -> Rule {
    gateway(&pb::Rule {
        session: Some(message),
        ..Default::default()
    })
}

// 2.6
#[test]
fn sessions_in_cookies() {
    let rule = session(pb::SessionPersistence {
        cookie: "s".into(),
        permanent: true,
        absolute_timeout_ms: 60_000,
        ..Default::default()
    });
    let session = rule.session.as_ref().unwrap();
    let (name, value) = session.write("c1//Pod/shop/cart-0", 1_000).unwrap();
    assert_eq!(name, "set-cookie");
    let text = value.to_str().unwrap();
    assert!(text.ends_with("; Path=/; HttpOnly; Max-Age=60"), "{text}");
    let cookie = format!("x=1; {}", text.split(';').next().unwrap());
    let brought = headers(&[("cookie".into(), cookie.clone())]);
    let token = session.read(&brought).unwrap();
    assert_eq!(
        (token.endpoint.as_str(), token.issued_ms),
        ("c1//Pod/shop/cart-0", 1_000)
    );
    assert!(!session.expired(&token, 60_999));
    assert!(session.expired(&token, 61_000));
    // Damaged, cut, or somebody else's: as if there were none.
    for end in 5..cookie.len() {
        let cut = headers(&[("cookie".into(), cookie[..end].to_owned())]);
        assert_eq!(session.read(&cut), None, "{}", &cookie[..end]);
    }
    let junk = headers(&[("cookie".into(), format!("s={}", "A".repeat(10_000)))]);
    assert_eq!(session.read(&junk), None);
}

// 2.6
#[test]
fn sessions_in_headers() {
    let rule = session(pb::SessionPersistence {
        header: "X-Session".into(),
        ..Default::default()
    });
    let session = rule.session.as_ref().unwrap();
    let (name, value) = session.write("uid", 5).unwrap();
    let mut map = HeaderMap::new();
    map.insert(name, value);
    let token = session.read(&map).unwrap();
    assert_eq!(token.endpoint, "uid");
    assert!(!session.expired(&token, u64::MAX));
    assert!(!session.expired(&token, 0), "clocks differ a little");
}

#[test]
fn what_cannot_be_read_names_its_field() {
    let message = |rule: pb::Rule| pb::Route {
        rules: vec![pb::Rule::default(), rule],
        ..Default::default()
    };
    let matching = |yaml: MatchYaml| pb::Rule {
        matches: vec![support::one_match(&yaml)],
        ..Default::default()
    };
    let bad_regex = matching(MatchYaml {
        regex: Some("(".into()),
        ..Default::default()
    });
    let escaping = matching(MatchYaml {
        regex: Some("a)|(b".into()),
        ..Default::default()
    });
    let huge = matching(MatchYaml {
        regex: Some("(a{1000}){1000}".into()),
        ..Default::default()
    });
    let header = matching(MatchYaml {
        headers: vec![("bad name".into(), support::TextYaml::Exact("x".into()))],
        ..Default::default()
    });
    let status = pb::Rule {
        redirect: Some(pb::Redirect {
            status: 99,
            ..Default::default()
        }),
        ..Default::default()
    };
    let value = pb::Rule {
        request_headers: Some(pb::HeaderOps {
            set: vec![pb::Header {
                name: "x".into(),
                value: "a\nb".into(),
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    for (rule, field) in [
        (bad_regex, "rules[1].matches[0].path"),
        (escaping, "rules[1].matches[0].path"),
        (huge, "rules[1].matches[0].path"),
        (header, "rules[1].matches[0].headers[0].name"),
        (status, "rules[1].redirect.status"),
        (value, "rules[1].request_headers.set[0].value"),
    ] {
        let error = Route::decode("r", &message(rule)).unwrap_err();
        assert_eq!(error.field, field, "{error:?}");
    }
}

#[test]
fn a_trace_says_why_not() {
    let route = |name: &str, kind: &str, consumer: &str| {
        let yaml = RouteYaml {
            name: name.into(),
            kind: kind.into(),
            consumer: consumer.into(),
            rules: vec![RuleYaml {
                name: name.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        Arc::new(Route::decode(name, &support::route(&yaml)).unwrap())
    };
    let mut edit = Routes::new(FRONTEND).edit();
    edit.set(route("HTTPRoute/shop/http", "http", ""));
    edit.set(route("GRPCRoute/shop/grpc", "grpc", ""));
    edit.set(route("HTTPRoute/client/mine", "http", "client"));
    let routes = edit.finish();
    let none = HeaderMap::new();
    let mut head = Head {
        method: "GET",
        scheme: "http",
        authority: "cart",
        path: "/",
        query: None,
        headers: &none,
        port: 80,
        source_namespace: None,
        claims: None,
    };
    let why = |head: &Head<'_>| {
        let mut log = Log::default();
        let _ = routes.find_with(head, &mut log);
        log.steps
            .iter()
            .map(|step| (step.route.name.to_string(), step.why.clone()))
            .collect::<Vec<_>>()
    };
    let (http, grpc) = (
        "HTTPRoute/shop/http".to_owned(),
        "GRPCRoute/shop/grpc".to_owned(),
    );
    assert_eq!(
        why(&head),
        [
            (grpc.clone(), Why::Taken),
            (http.clone(), Why::GrpcReplaces)
        ]
    );
    head.source_namespace = Some("client");
    assert_eq!(
        why(&head),
        [
            ("HTTPRoute/client/mine".to_owned(), Why::Taken),
            (grpc, Why::ConsumerReplaces),
            (http, Why::ConsumerReplaces)
        ]
    );
}

/// A waypoint has thousands of rules: what each has room for is what it has.
#[test]
fn a_rule_takes_no_more_room_than_it_needs() {
    let header = ambit_proto::waypoint::Header {
        name: "a".into(),
        value: "b".into(),
    };
    let message = ambit_proto::waypoint::Rule {
        matches: vec![Default::default()],
        backends: vec![Default::default()],
        response_headers: Some(ambit_proto::waypoint::HeaderOps {
            set: vec![header],
            ..Default::default()
        }),
        ..Default::default()
    };
    let (kind, semantics) = (RouteKind::Http, Semantics::GatewayApi);
    let rule = Rule::decode(&message, kind, semantics).unwrap();
    let room = [
        rule.matches.capacity(),
        rule.backends.capacity(),
        rule.response_headers.set.capacity(),
    ];
    assert_eq!(room, [1, 1, 1]);
}
