//! Compact YAML into `ambit.waypoint.v1` messages, as a compiler would write
//! them.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by several test programs"
)]

use std::collections::BTreeMap;

use ambit_proto::waypoint as pb;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

/// One test per named case, and one that no case of the file is left out.
#[macro_export]
macro_rules! table {
    ($module:ident, $file:literal, $case_type:ty, $run:path, [$($case:ident),+ $(,)?]) => {
        mod $module {
            #[allow(unused_imports, reason = "the case's type may be beside")]
            use super::*;

            const TABLE: &str = include_str!($file);

            $(#[test]
            fn $case() {
                let table: $case_type = serde_saphyr::from_str(TABLE).unwrap();
                let case = table.cases.iter().find(|c| c.name == stringify!($case)).unwrap();
                assert!(!case.clause.is_empty(), "a case cites its clause");
                $run(&table, case);
            })+

            #[test]
            fn every_case_is_a_test() {
                let table: $case_type = serde_saphyr::from_str(TABLE).unwrap();
                let in_file: Vec<_> = table.cases.iter().map(|case| case.name.as_str()).collect();
                assert_eq!(in_file, [$(stringify!($case)),+]);
            }
        }
    };
}

#[derive(Deserialize, Default, Clone)]
#[serde(default, deny_unknown_fields)]
pub struct RouteYaml {
    pub name: String,
    pub kind: String,
    pub semantics: String,
    pub created: i64,
    pub parents: Vec<u32>,
    pub consumer: String,
    pub rules: Vec<RuleYaml>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default, deny_unknown_fields)]
pub struct RuleYaml {
    pub name: String,
    pub matches: Vec<MatchYaml>,
    pub sni: Vec<String>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default, deny_unknown_fields)]
pub struct MatchYaml {
    pub exact: Option<String>,
    pub prefix: Option<String>,
    pub text: Option<String>,
    pub regex: Option<String>,
    pub fold: bool,
    pub method: Option<TextYaml>,
    pub scheme: Option<TextYaml>,
    pub authority: Option<TextYaml>,
    pub headers: Vec<(String, TextYaml)>,
    pub without: Vec<(String, TextYaml)>,
    pub query: Vec<(String, TextYaml)>,
    pub claims: Vec<(String, TextYaml)>,
    pub without_claims: Vec<(String, TextYaml)>,
    pub port: u32,
    pub namespaces: Vec<String>,
    pub grpc: Option<GrpcYaml>,
    pub condition: Option<ConditionYaml>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcYaml {
    pub service: String,
    pub method: String,
    pub regex: bool,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "snake_case")]
pub enum ConditionYaml {
    Path(String),
    Method(String),
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Status(u32, u32),
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
pub enum TextYaml {
    Exact(String),
    Other(OtherText),
}

#[derive(Deserialize, Clone, Default)]
#[serde(default, deny_unknown_fields)]
pub struct OtherText {
    exact: Option<String>,
    prefix: Option<String>,
    suffix: Option<String>,
    regex: Option<String>,
    present: bool,
    fold: bool,
}

pub fn text(text: &TextYaml) -> pb::StringMatch {
    use pb::string_match::Kind;
    let (kind, ignore_case) = match text.clone() {
        TextYaml::Exact(text) => (Kind::Exact(text), false),
        TextYaml::Other(other) => {
            let fold = other.fold;
            let kind = other
                .exact
                .map(Kind::Exact)
                .or(other.prefix.map(Kind::Prefix))
                .or(other.suffix.map(Kind::Suffix))
                .or(other.regex.map(Kind::Regex));
            (kind.unwrap_or(Kind::Presence(other.present)), fold)
        }
    };
    pb::StringMatch {
        kind: Some(kind),
        ignore_case,
    }
}

pub fn condition(of: &ConditionYaml) -> pb::Condition {
    use pb::condition::Kind;
    let all = |of: &[ConditionYaml]| pb::Conditions {
        of: of.iter().map(condition).collect(),
    };
    let kind = match of {
        ConditionYaml::Path(regex) => Kind::PathRegex(regex.clone()),
        ConditionYaml::Method(method) => Kind::Method(method.clone()),
        ConditionYaml::All(of) => Kind::All(all(of)),
        ConditionYaml::Any(of) => Kind::Any(all(of)),
        ConditionYaml::Not(not) => Kind::Not(Box::new(condition(not))),
        ConditionYaml::Status(min, max) => Kind::Status(pb::StatusRange {
            min: *min,
            max: *max,
        }),
    };
    pb::Condition { kind: Some(kind) }
}

pub fn one_match(of: &MatchYaml) -> pb::Match {
    use pb::path_match::Kind;
    let kind = of
        .exact
        .clone()
        .map(Kind::Exact)
        .or(of.prefix.clone().map(Kind::ElementPrefix))
        .or(of.text.clone().map(Kind::TextPrefix))
        .or(of.regex.clone().map(Kind::Regex));
    let header = |invert: bool| {
        move |(name, value): &(String, TextYaml)| pb::HeaderMatch {
            name: name.clone(),
            value: Some(text(value)),
            invert,
        }
    };
    let claim = |invert: bool| {
        move |(path, value): &(String, TextYaml)| pb::ClaimMatch {
            path: path.split('.').map(str::to_owned).collect(),
            value: Some(text(value)),
            invert,
        }
    };
    pb::Match {
        path: kind.map(|kind| pb::PathMatch {
            kind: Some(kind),
            ignore_case: of.fold,
        }),
        method: of.method.as_ref().map(text),
        scheme: of.scheme.as_ref().map(text),
        authority: of.authority.as_ref().map(text),
        headers: of
            .headers
            .iter()
            .map(header(false))
            .chain(of.without.iter().map(header(true)))
            .collect(),
        query: of
            .query
            .iter()
            .map(|(name, value)| pb::QueryMatch {
                name: name.clone(),
                value: Some(text(value)),
            })
            .collect(),
        claims: of
            .claims
            .iter()
            .map(claim(false))
            .chain(of.without_claims.iter().map(claim(true)))
            .collect(),
        port: of.port,
        source_namespaces: of.namespaces.clone(),
        condition: of.condition.as_ref().map(condition),
        grpc: of.grpc.as_ref().map(|grpc| pb::GrpcMethod {
            service: grpc.service.clone(),
            method: grpc.method.clone(),
            regex: grpc.regex,
        }),
        name: String::new(),
    }
}

/// The frontend of every test.
pub const FRONTEND: &str = "shop/cart.shop.svc.cluster.local";

pub fn route(of: &RouteYaml) -> pb::Route {
    let mut parts = of.name.split('/');
    let parents = if of.parents.is_empty() {
        vec![0]
    } else {
        of.parents.clone()
    };
    pb::Route {
        origin: Some(pb::Origin {
            kind: parts.next().unwrap_or_default().into(),
            namespace: parts.next().unwrap_or_default().into(),
            name: parts.next().unwrap_or_default().into(),
            generation: 1,
        }),
        parents: parents
            .into_iter()
            .map(|port| pb::Parent {
                frontend: FRONTEND.into(),
                port,
            })
            .collect(),
        kind: kind(&of.kind).into(),
        semantics: semantics(&of.semantics).into(),
        created: of.created,
        consumer_namespace: of.consumer.clone(),
        rules: of
            .rules
            .iter()
            .map(|rule| pb::Rule {
                name: rule.name.clone(),
                matches: rule.matches.iter().map(one_match).collect(),
                sni: rule.sni.clone(),
                ..Default::default()
            })
            .collect(),
    }
}

pub fn kind(kind: &str) -> pb::RouteKind {
    match kind {
        "" | "http" => pb::RouteKind::Http,
        "grpc" => pb::RouteKind::Grpc,
        "tls" => pb::RouteKind::Tls,
        "tcp" => pb::RouteKind::Tcp,
        other => panic!("kind {other}"),
    }
}

pub fn semantics(semantics: &str) -> pb::Semantics {
    match semantics {
        "" | "gateway" => pb::Semantics::GatewayApi,
        "istio" => pb::Semantics::VirtualService,
        "profile" => pb::Semantics::ServiceProfile,
        other => panic!("semantics {other}"),
    }
}

pub fn headers<'a>(pairs: impl IntoIterator<Item = &'a (String, String)>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(
            HeaderName::try_from(name.as_str()).unwrap(),
            HeaderValue::try_from(value.as_str()).unwrap(),
        );
    }
    map
}

/// As sorted text, one list for each name.
pub fn listed(map: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in map {
        out.entry(name.to_string())
            .or_default()
            .push(value.to_str().unwrap().to_owned());
    }
    out
}
