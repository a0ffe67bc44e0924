//! What holds for all routes and paths: the index finds what a linear scan
//! finds, in whatever order routes came and went; prefixes are by element;
//! normalised paths are stable.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use std::cmp::Reverse;
use std::sync::Arc;

use ambit_route::{Found, Head, MatchedPath, Normalization, PathPattern, Route, Routes, path};
use http::HeaderMap;
use proptest::prelude::*;
use support::{FRONTEND, MatchYaml, RouteYaml, RuleYaml, TextYaml};

#[derive(Debug, Clone)]
enum Op {
    Set(u8, Vec<(u8, String, bool, u8)>, i64, bool),
    Remove(u8),
}

fn a_path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]{0,2}", 0..4).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn an_op() -> impl Strategy<Value = Op> {
    let rule = (0_u8..5, a_path(), any::<bool>(), 0_u8..3);
    prop_oneof![
        4 => (0_u8..6, prop::collection::vec(rule, 1..4), 0_i64..3, any::<bool>())
            .prop_map(|(name, rules, created, istio)| Op::Set(name, rules, created, istio)),
        1 => (0_u8..6).prop_map(Op::Remove),
    ]
}

fn yaml(name: u8, rules: &[(u8, String, bool, u8)], created: i64, istio: bool) -> RouteYaml {
    let rules = rules
        .iter()
        .enumerate()
        .map(|(at, (kind, path, method, headers))| {
            let mut matching = MatchYaml::default();
            match kind {
                0 => matching.exact = Some(path.clone()),
                1 => matching.prefix = Some(path.clone()),
                2 if istio => matching.text = Some(path.clone()),
                2 => matching.prefix = Some(path.clone()),
                3 => matching.regex = Some(format!("{path}.*")),
                _ => {}
            }
            if *method {
                matching.method = Some(TextYaml::Exact("POST".into()));
            }
            for header in 0..*headers {
                let name = format!("x-{header}");
                matching.headers.push((name, TextYaml::Exact("1".into())));
            }
            RuleYaml {
                name: format!("{name}-{at}"),
                matches: vec![matching],
                sni: vec![],
            }
        })
        .collect();
    RouteYaml {
        name: format!("HTTPRoute/shop/r{name}"),
        semantics: if istio { "istio" } else { "gateway" }.into(),
        created,
        rules,
        ..Default::default()
    }
}

/// Everything in a list, sorted by the words of 2.2 and 3.6.
fn oracle(routes: &[Arc<Route>], head: &Head<'_>) -> String {
    use ambit_route::Semantics;
    let block = routes
        .iter()
        .filter(|r| r.semantics == Semantics::GatewayApi)
        .map(|r| (r.created, r.object.to_string()))
        .min();
    let mut all = vec![];
    for route in routes {
        let gateway = route.semantics == Semantics::GatewayApi;
        let own = (route.created, route.object.to_string());
        for (at, rule) in route.rules.iter().enumerate() {
            let matching = &rule.matches[0];
            let (class, length) = match &matching.path {
                Some(PathPattern::Exact { .. }) => (3, 0),
                Some(PathPattern::Element { text, .. }) => (2, text.len()),
                Some(PathPattern::Regex { length, .. }) => (1, *length as usize),
                Some(PathPattern::Text { .. }) | None => (2, 0),
            };
            let rank = if gateway {
                Reverse((
                    class,
                    length,
                    matching.method.is_some(),
                    matching.headers.len(),
                ))
            } else {
                Reverse((0, 0, false, 0))
            };
            let outer = if gateway {
                block.clone().unwrap()
            } else {
                own.clone()
            };
            all.push((outer, rank, own.clone(), at, rule, matching));
        }
    }
    all.sort_by(|a, b| (&a.0, &a.1, &a.2, a.3).cmp(&(&b.0, &b.1, &b.2, b.3)));
    if all.is_empty() {
        return "service".into();
    }
    all.iter()
        .find(|(.., matching)| matching.check(head).is_ok())
        .map_or("no_match".into(), |(.., rule, _)| rule.name.to_string())
}

fn named(found: Found<'_>) -> String {
    match found {
        Found::Rule(matched) => matched.rule.name.to_string(),
        Found::Service => "service".into(),
        Found::NoMatch => "no_match".into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn the_index_finds_what_a_scan_finds(
        ops in prop::collection::vec(an_op(), 1..12),
        requests in prop::collection::vec((a_path(), any::<bool>(), 0_u8..3), 1..8),
    ) {
        let mut routes = Routes::new(FRONTEND);
        let mut plain: Vec<Arc<Route>> = vec![];
        for op in ops.clone() {
            let mut edit = routes.edit();
            match op {
                Op::Set(name, rules, created, istio) => {
                    let yaml = yaml(name, &rules, created, istio);
                    let route = Route::decode(&yaml.name, &support::route(&yaml)).unwrap();
                    let route = Arc::new(route);
                    plain.retain(|other| other.name != route.name);
                    plain.push(Arc::clone(&route));
                    edit.set(route);
                }
                Op::Remove(name) => {
                    let name = format!("HTTPRoute/shop/r{name}");
                    plain.retain(|other| *other.name != *name);
                    edit.remove(&name);
                }
            }
            routes = edit.finish();
        }
        let mut fresh = Routes::new(FRONTEND).edit();
        plain.iter().rev().for_each(|route| fresh.set(Arc::clone(route)));
        let fresh = fresh.finish();
        for (path, post, count) in &requests {
            let mut headers = HeaderMap::new();
            for header in 0..*count {
                let name = http::HeaderName::try_from(format!("x-{header}")).unwrap();
                headers.insert(name, "1".parse().unwrap());
            }
            let head = Head {
                method: if *post { "POST" } else { "GET" },
                scheme: "http",
                authority: "cart",
                path,
                query: None,
                headers: &headers,
                port: 80,
                source_namespace: None,
                claims: None,
            };
            let want = oracle(&plain, &head);
            prop_assert_eq!(named(routes.find(&head)), want.clone());
            prop_assert_eq!(named(fresh.find(&head)), want);
        }
    }

    #[test]
    fn prefixes_are_by_element(prefix in a_path(), path in a_path()) {
        let elements = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let wanted = elements(prefix.strip_suffix('/').unwrap_or(&prefix));
        let want = elements(&path).starts_with(&wanted);
        let text = prefix.strip_suffix('/').unwrap_or(&prefix);
        let pattern = PathPattern::Element { text: text.into(), fold: false };
        let got = pattern.matches(&path);
        prop_assert_eq!(got.is_some(), want);
        if let Some(matched) = got {
            prop_assert_eq!(matched, MatchedPath::Element(text.len()));
        }
    }

    #[test]
    fn normalised_paths_are_stable(raw in "/([ab./%\\\\]|%2[efEF5]|%5[cC]|%6[15]|\\.\\.){0,12}") {
        for mode in [
            Normalization::None,
            Normalization::Base,
            Normalization::MergeSlashes,
            Normalization::DecodeAndMergeSlashes,
        ] {
            let Ok(once) = path::normalize(&raw, mode) else { continue };
            let twice = path::normalize(&once, mode).unwrap();
            prop_assert_eq!(&*once, &*twice);
            prop_assert!(once.starts_with('/'));
            if mode != Normalization::None {
                prop_assert!(!once.split('/').any(|part| matches!(part, "." | "..")));
                prop_assert!(!once.contains('\\'));
            }
            if matches!(mode, Normalization::MergeSlashes | Normalization::DecodeAndMergeSlashes) {
                prop_assert!(!once.contains("//"));
            }
        }
    }
}

/// `cargo test --release -p ambit-route --test properties -- --ignored
/// --nocapture`: what a lookup and a rebuild cost with 5,000 routes.
#[test]
#[ignore = "a measurement"]
fn cost_with_5000_routes() {
    use std::time::Instant;
    let routes: Vec<Arc<Route>> = (0..5000)
        .map(|n| {
            let matching = MatchYaml {
                prefix: (n % 2 == 0).then(|| format!("/api/v{}/things/{n}", n % 7)),
                exact: (n % 2 == 1).then(|| format!("/api/v{}/things/{n}", n % 7)),
                ..Default::default()
            };
            let yaml = RouteYaml {
                name: format!("HTTPRoute/shop/route-{n}"),
                created: n,
                rules: vec![RuleYaml {
                    name: n.to_string(),
                    matches: vec![matching],
                    sni: vec![],
                }],
                ..Default::default()
            };
            Arc::new(Route::decode(&yaml.name, &support::route(&yaml)).unwrap())
        })
        .collect();
    let start = Instant::now();
    let mut edit = Routes::new(FRONTEND).edit();
    routes.iter().for_each(|route| edit.set(Arc::clone(route)));
    let built = edit.finish();
    println!("build of 5,000 decoded routes: {:?}", start.elapsed());

    let start = Instant::now();
    let mut current = built.clone();
    for n in 0..100 {
        let mut edit = current.edit();
        edit.set(Arc::clone(&routes[n * 37]));
        current = edit.finish();
    }
    println!("replacing one route: {:?}", start.elapsed() / 100);

    let headers = HeaderMap::new();
    let paths: Vec<String> = (0..1000)
        .map(|n| format!("/api/v{}/things/{}", (n * 5) % 7, n * 5))
        .collect();
    for (what, suffix) in [("hit", ""), ("miss", "0/deeper/than/that")] {
        let paths: Vec<String> = paths.iter().map(|path| format!("{path}{suffix}")).collect();
        let start = Instant::now();
        let mut hits = 0;
        for _ in 0..200 {
            for path in &paths {
                let head = Head {
                    method: "GET",
                    scheme: "http",
                    authority: "cart",
                    path,
                    query: None,
                    headers: &headers,
                    port: 80,
                    source_namespace: None,
                    claims: None,
                };
                hits += usize::from(matches!(current.find(&head), Found::Rule(_)));
            }
        }
        let each = start.elapsed() / 200_000;
        println!("find, {what}: {each:?} ({hits} of 200000 matched)");
    }
}
