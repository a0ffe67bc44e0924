//! What a rule matches (`waypoint-contract` 2.3).
//!
//! A match that can't be read is left out and reported; a rule none of whose
//! matches can be read is left out as a whole, since without matches it would
//! match everything.

use ambit_proto::waypoint::path_match::Kind as PathKind;
use ambit_proto::waypoint::string_match::Kind as TextKind;
use ambit_proto::waypoint::{GrpcMethod, HeaderMatch, Match, PathMatch, QueryMatch, StringMatch};
use regex::RegexBuilder;

use super::codes;
use super::headers::{is_name, second};
use super::report::{Fault, Report};
use super::spec::{GrpcSpec, MatchSpec, MethodSpec, PathSpec, ValueSpec};

/// Why a match can't be used: the field below it, the value, what to do.
type Wrong = (String, String, &'static str);

/// The matches of an HTTP rule; none: none of those written can be used.
pub(super) fn http(report: &mut Report, field: &str, specs: &[MatchSpec]) -> Option<Vec<Match>> {
    if specs.is_empty() {
        return Some(vec![everything()]);
    }
    read(report, field, specs, http_match)
}

/// The matches of a gRPC rule; likewise.
pub(super) fn grpc(report: &mut Report, field: &str, specs: &[MatchSpec]) -> Option<Vec<Match>> {
    if specs.is_empty() {
        return Some(vec![Match::default()]);
    }
    read(report, field, specs, grpc_match)
}

/// Whether each match is by path prefix, so that a prefix can be replaced.
pub(super) fn all_prefixes(matches: &[Match]) -> bool {
    matches.iter().all(|one| {
        let kind = one.path.as_ref().and_then(|path| path.kind.as_ref());
        matches!(kind, Some(PathKind::ElementPrefix(_)))
    })
}

fn read(
    report: &mut Report,
    field: &str,
    specs: &[MatchSpec],
    one: fn(&mut Report, &str, &MatchSpec) -> Result<Match, Wrong>,
) -> Option<Vec<Match>> {
    let mut matches = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        let at = format!("{field}[{index}]");
        match one(report, &at, spec) {
            Ok(read) => matches.push(read),
            Err((below, value, remedy)) => report.dropped(
                codes::BAD_MATCH,
                Fault {
                    field: &format!("{at}.{below}"),
                    value: &value,
                    message: "the match can't be read and is left out",
                    remedy,
                },
            ),
        }
    }
    (!matches.is_empty()).then_some(matches)
}

fn http_match(report: &mut Report, field: &str, spec: &MatchSpec) -> Result<Match, Wrong> {
    let method = match &spec.method {
        None => None,
        Some(MethodSpec::Http(method)) if METHODS.contains(&&**method) => Some(exact(method)),
        Some(MethodSpec::Http(method)) => {
            let remedy = "write a method in upper case: GET, HEAD, POST, PUT, DELETE, CONNECT, \
                          OPTIONS, TRACE or PATCH";
            return Err(("method".into(), method.clone(), remedy));
        }
        Some(MethodSpec::Grpc(_)) => {
            let remedy = "use a GRPCRoute to match gRPC methods";
            return Err(("method".into(), String::new(), remedy));
        }
    };
    Ok(Match {
        path: Some(path(spec.path.as_ref())?),
        method,
        headers: header_matches(report, field, &spec.headers)?,
        query: query_matches(report, field, &spec.query_params)?,
        ..Match::default()
    })
}

fn grpc_match(report: &mut Report, field: &str, spec: &MatchSpec) -> Result<Match, Wrong> {
    let grpc = match &spec.method {
        None => None,
        Some(MethodSpec::Grpc(method)) => Some(grpc_method(method)?),
        Some(MethodSpec::Http(method)) => {
            let remedy = "write method as service and method of a gRPC call";
            return Err(("method".into(), method.clone(), remedy));
        }
    };
    Ok(Match {
        grpc,
        headers: header_matches(report, field, &spec.headers)?,
        ..Match::default()
    })
}

fn grpc_method(spec: &GrpcSpec) -> Result<GrpcMethod, Wrong> {
    let service = spec.service.clone().unwrap_or_default();
    let method = spec.method.clone().unwrap_or_default();
    if service.is_empty() && method.is_empty() {
        let remedy = "give service, method or both";
        return Err(("method".into(), String::new(), remedy));
    }
    let regex = match spec.r#type.as_deref().unwrap_or("Exact") {
        "Exact" => false,
        "RegularExpression" => true,
        other => return Err(("method.type".into(), other.to_owned(), TEXT_TYPES)),
    };
    for (name, text) in [("method.service", &service), ("method.method", &method)] {
        let fits = match (regex, name) {
            (true, _) => text.len() <= 1024 && compiles(text),
            (false, "method.service") => text
                .trim_start_matches('.')
                .split('.')
                .all(|part| text.is_empty() || is_identifier(part)),
            (false, _) => text.is_empty() || is_identifier(text),
        };
        if !fits {
            let remedy = "write the full name of a service (package.Service) and of a method \
                          (Method), or RE2 expressions with type RegularExpression";
            return Err((name.to_owned(), text.clone(), remedy));
        }
    }
    Ok(GrpcMethod {
        service,
        method,
        regex,
    })
}

fn is_identifier(part: &str) -> bool {
    part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && part
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn path(spec: Option<&PathSpec>) -> Result<PathMatch, Wrong> {
    let value = spec.and_then(|spec| spec.value.as_deref()).unwrap_or("/");
    let kind = spec
        .and_then(|spec| spec.r#type.as_deref())
        .unwrap_or("PathPrefix");
    let wrong = |remedy| Err(("path.value".to_owned(), value.to_owned(), remedy));
    if value.len() > MOST_PATH {
        return wrong("write a path of at most 1024 characters");
    }
    let kind = match kind {
        "Exact" => PathKind::Exact(value.to_owned()),
        "PathPrefix" => PathKind::ElementPrefix(value.to_owned()),
        "RegularExpression" if compiles(value) => {
            return Ok(PathMatch {
                kind: Some(PathKind::Regex(value.to_owned())),
                ignore_case: false,
            });
        }
        "RegularExpression" => return wrong(RE2),
        other => {
            let remedy = "use Exact, PathPrefix or RegularExpression";
            return Err(("path.type".into(), other.to_owned(), remedy));
        }
    };
    if !value.starts_with('/') {
        return wrong("begin the path with /");
    }
    if ["//", "/./", "/../", "%2f", "%2F", "#"]
        .iter()
        .any(|part| value.contains(part))
        || value.ends_with("/.")
        || value.ends_with("/..")
    {
        return wrong("write the normalised path, without //, /./, /../, %2f and #");
    }
    Ok(PathMatch {
        kind: Some(kind),
        ignore_case: false,
    })
}

fn header_matches(
    report: &mut Report,
    field: &str,
    specs: &[ValueSpec],
) -> Result<Vec<HeaderMatch>, Wrong> {
    limit("headers", specs.len())?;
    let mut kept: Vec<HeaderMatch> = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        let below = format!("headers[{index}]");
        let name = spec.name.to_ascii_lowercase();
        if !is_name(&name) {
            let remedy = "write a header name: letters, digits and -";
            return Err((format!("{below}.name"), spec.name.clone(), remedy));
        }
        let value = text(&below, spec)?;
        // Of equivalent names only the first counts (2.3).
        if kept.iter().any(|header| header.name == name) {
            second(report, &format!("{field}.{below}"), &spec.name);
            continue;
        }
        kept.push(HeaderMatch {
            name,
            value: Some(value),
            invert: false,
        });
    }
    Ok(kept)
}

fn query_matches(
    report: &mut Report,
    field: &str,
    specs: &[ValueSpec],
) -> Result<Vec<QueryMatch>, Wrong> {
    limit("queryParams", specs.len())?;
    let mut kept: Vec<QueryMatch> = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        let below = format!("queryParams[{index}]");
        if spec.name.is_empty() {
            let remedy = "name the parameter";
            return Err((format!("{below}.name"), String::new(), remedy));
        }
        let value = text(&below, spec)?;
        if kept.iter().any(|query| query.name == spec.name) {
            second(report, &format!("{field}.{below}"), &spec.name);
            continue;
        }
        kept.push(QueryMatch {
            name: spec.name.clone(),
            value: Some(value),
        });
    }
    Ok(kept)
}

fn text(below: &str, spec: &ValueSpec) -> Result<StringMatch, Wrong> {
    match spec.r#type.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(exact(&spec.value)),
        "RegularExpression" if compiles(&spec.value) => Ok(StringMatch {
            kind: Some(TextKind::Regex(spec.value.clone())),
            ignore_case: false,
        }),
        "RegularExpression" => Err((format!("{below}.value"), spec.value.clone(), RE2)),
        other => Err((format!("{below}.type"), other.to_owned(), TEXT_TYPES)),
    }
}

fn limit(name: &str, count: usize) -> Result<(), Wrong> {
    if count <= MOST_VALUES {
        return Ok(());
    }
    let remedy = "list at most 16";
    Err((name.to_owned(), count.to_string(), remedy))
}

/// An empty list of matches is the prefix `/` (2.2).
fn everything() -> Match {
    Match {
        path: Some(PathMatch {
            kind: Some(PathKind::ElementPrefix("/".to_owned())),
            ignore_case: false,
        }),
        ..Match::default()
    }
}

fn exact(text: &str) -> StringMatch {
    StringMatch {
        kind: Some(TextKind::Exact(text.to_owned())),
        ignore_case: false,
    }
}

/// Whether the proxy can compile it, within the bounds that it has too.
fn compiles(pattern: &str) -> bool {
    let whole = format!("^(?:{pattern})$");
    pattern.len() <= 4096
        && [pattern, whole.as_str()]
            .iter()
            .all(|text| RegexBuilder::new(text).size_limit(1 << 20).build().is_ok())
}

const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
const RE2: &str = "write an expression in RE2 syntax (no look-around, no back-references)";
const TEXT_TYPES: &str = "use Exact or RegularExpression";
/// Characters of a path (2.3).
const MOST_PATH: usize = 1024;
/// Headers, and query parameters, of a match (2.3).
const MOST_VALUES: usize = 16;
