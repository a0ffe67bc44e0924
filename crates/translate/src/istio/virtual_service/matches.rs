//! Conditions of VirtualService rules (3.2).
//!
//! Owns what each field of a match entry becomes. An entry that has a condition
//! which a waypoint can't judge is left out as a whole, and said.

use std::collections::BTreeMap;

use ambit_kube::{StringMatch as Text, VsHttpMatch};
use ambit_proto::waypoint::path_match::Kind as PathKind;
use ambit_proto::waypoint::string_match::Kind as TextKind;
use ambit_proto::waypoint::{ClaimMatch, HeaderMatch, Match, PathMatch, QueryMatch, StringMatch};

use super::Scope;
use super::parents::for_mesh;
use crate::istio::codes;
use crate::istio::say::{Fault, Say};
use crate::istio::values::{is_regex, is_token, present, string_match};

/// What became of an entry.
pub(super) enum Entry {
    Match(Box<Match>),
    /// It is for other proxies.
    NotForUs,
    /// A value of it can't be used.
    Broken,
}

/// A value can't be used; it has been said.
struct Bad;

/// One entry of `http[].match`.
pub(super) fn http(say: &mut Say, entry: &VsHttpMatch, path: &str, scope: &Scope<'_>) -> Entry {
    if not_for_us(say, path, &entry.gateways, &entry.source_labels) {
        return Entry::NotForUs;
    }
    match conditions(say, entry, path) {
        Ok(built) => {
            if let Some(port) = entry.port
                && !scope.ports.iter().any(|known| u32::from(*known) == port)
            {
                say.warning(
                    codes::NO_PORT,
                    Fault {
                        field: &format!("{path}.port"),
                        value: &port.to_string(),
                        message: "no host of the VirtualService has this service port",
                        remedy: "write a port of the Service, not a target port",
                    },
                );
            }
            Entry::Match(Box::new(built))
        }
        Err(Bad) => Entry::Broken,
    }
}

/// Whether a match entry can't be a waypoint's; says so.
pub(super) fn not_for_us(
    say: &mut Say,
    path: &str,
    gateways: &[String],
    source_labels: &BTreeMap<String, String>,
) -> bool {
    if !for_mesh(gateways) {
        say.info(
            codes::NOT_FOR_MESH,
            Fault {
                field: &format!("{path}.gateways"),
                value: &gateways.join(", "),
                message: "the match is for gateways only and isn't used for mesh traffic",
                remedy: "add `mesh` to the list if it should hold inside the mesh",
            },
        );
        return true;
    }
    if source_labels.is_empty() {
        return false;
    }
    let labels: Vec<_> = source_labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    say.warning(
        codes::MATCH_NOT_USED,
        Fault {
            field: &format!("{path}.sourceLabels"),
            value: &labels.join(", "),
            message: "a waypoint knows clients by their identity, not their labels: the match is left out",
            remedy: "use sourceNamespace, a header that the client sets, or an AuthorizationPolicy on the service account",
        },
    );
    true
}

fn conditions(say: &mut Say, entry: &VsHttpMatch, path: &str) -> Result<Match, Bad> {
    let mut built = Match {
        path: uri(say, entry, path)?,
        method: optional(say, entry.method.as_ref(), &format!("{path}.method"))?,
        scheme: optional(say, entry.scheme.as_ref(), &format!("{path}.scheme"))?,
        authority: optional(say, entry.authority.as_ref(), &format!("{path}.authority"))?,
        port: entry.port.unwrap_or_default(),
        source_namespaces: entry.source_namespace.clone().into_iter().collect(),
        name: entry.name.clone().unwrap_or_default(),
        ..Match::default()
    };
    for (field, headers, invert) in [
        ("headers", &entry.headers, false),
        ("withoutHeaders", &entry.without_headers, true),
    ] {
        for (name, value) in headers {
            header(
                say,
                (name, value),
                &format!("{path}.{field}"),
                invert,
                &mut built,
            )?;
        }
    }
    for (name, value) in &entry.query_params {
        let field = format!("{path}.queryParams.{name}");
        let value = match value.exact.as_deref() {
            Some("") => present(),
            _ => text(say, value, &field)?.unwrap_or_else(present),
        };
        built.query.push(QueryMatch {
            name: name.clone(),
            value: Some(value),
        });
    }
    Ok(built)
}

fn uri(say: &mut Say, entry: &VsHttpMatch, path: &str) -> Result<Option<PathMatch>, Bad> {
    let Some(written) = &entry.uri else {
        return Ok(None);
    };
    let field = format!("{path}.uri");
    let kind = match text(say, written, &field)?.and_then(|m| m.kind) {
        Some(TextKind::Exact(exact)) => PathKind::Exact(exact),
        Some(TextKind::Prefix(prefix)) => PathKind::TextPrefix(prefix),
        Some(TextKind::Regex(regex)) => {
            if entry.ignore_uri_case {
                say.warning(
                    codes::MATCH_NOT_USED,
                    Fault {
                        field: &format!("{path}.ignoreUriCase"),
                        value: "true",
                        message: "it holds for exact and prefix only, not for a regular expression",
                        remedy: "begin the expression with (?i)",
                    },
                );
            }
            return Ok(Some(PathMatch {
                kind: Some(PathKind::Regex(regex)),
                ignore_case: false,
            }));
        }
        _ => return Ok(None),
    };
    Ok(Some(PathMatch {
        kind: Some(kind),
        ignore_case: entry.ignore_uri_case,
    }))
}

fn header(
    say: &mut Say,
    (name, value): (&str, &Text),
    path: &str,
    invert: bool,
    built: &mut Match,
) -> Result<(), Bad> {
    let field = format!("{path}.{name}");
    let lower = name.to_ascii_lowercase();
    if matches!(&*lower, "uri" | "scheme" | "method" | "authority") {
        say.warning(
            codes::MATCH_NOT_USED,
            Fault {
                field: &field,
                value: name,
                message: "this isn't a header, and is not looked at here",
                remedy: "use the match's own field of that name",
            },
        );
        return Ok(());
    }
    let matched = text(say, value, &field)?.unwrap_or_else(present);
    if lower.starts_with("@request.auth.") {
        let Some(claim) = claim_path(name) else {
            return refuse(
                say,
                &field,
                name,
                "it isn't the name of a claim",
                "write @request.auth.claims.NAME or @request.auth.claims[a][b]",
            );
        };
        built.claims.push(ClaimMatch {
            path: claim,
            value: Some(matched),
            invert,
        });
        return Ok(());
    }
    if !is_token(&lower) {
        return refuse(
            say,
            &field,
            name,
            "it can't be a header's name",
            "use letters, digits and dashes",
        );
    }
    built.headers.push(HeaderMatch {
        name: lower,
        value: Some(matched),
        invert,
    });
    Ok(())
}

fn refuse(say: &mut Say, field: &str, value: &str, message: &str, remedy: &str) -> Result<(), Bad> {
    say.error(
        codes::BAD_VALUE,
        Fault {
            field,
            value,
            message,
            remedy,
        },
    );
    Err(Bad)
}

/// `@request.auth.claims.a.b` or `@request.auth.claims[a][b]`; the prefix in any case.
fn claim_path(name: &str) -> Option<Vec<String>> {
    const PREFIX: &str = "@request.auth.claims";
    let head = name.get(..PREFIX.len())?;
    if !head.eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    let rest = name.get(PREFIX.len()..)?;
    let parts: Vec<String> = if let Some(dotted) = rest.strip_prefix('.') {
        dotted.split('.').map(str::to_owned).collect()
    } else {
        let inner = rest.strip_prefix('[')?.strip_suffix(']')?;
        inner.split("][").map(str::to_owned).collect()
    };
    let bad = |part: &String| part.is_empty() || part.contains(['[', ']']);
    (!parts.iter().any(bad)).then_some(parts)
}

/// A match of something that is always there: none where nothing is asked.
fn optional(
    say: &mut Say,
    written: Option<&Text>,
    field: &str,
) -> Result<Option<StringMatch>, Bad> {
    written.map_or(Ok(None), |written| text(say, written, field))
}

/// The match of a text; none where nothing is set, or all is allowed.
fn text(say: &mut Say, written: &Text, field: &str) -> Result<Option<StringMatch>, Bad> {
    let set = [&written.exact, &written.prefix, &written.regex];
    if set.iter().filter(|one| one.is_some()).count() > 1 {
        return refuse(
            say,
            field,
            "",
            "it has more than one of exact, prefix and regex",
            "keep one of them",
        )
        .map(|()| None);
    }
    if let Some(exact) = &written.exact {
        return Ok(Some(string_match(TextKind::Exact(exact.clone()))));
    }
    if let Some(prefix) = &written.prefix {
        let any = prefix.is_empty();
        return Ok((!any).then(|| string_match(TextKind::Prefix(prefix.clone()))));
    }
    let Some(regex) = &written.regex else {
        return Ok(None);
    };
    if regex == "*" {
        return Ok(None);
    }
    if !is_regex(regex) {
        return refuse(
            say,
            field,
            regex,
            "it isn't a regular expression of RE2",
            "write it without look-around and back references",
        )
        .map(|()| None);
    }
    Ok(Some(string_match(TextKind::Regex(regex.clone()))))
}

/// Whether every request matches an entry.
pub(super) fn is_catch_all(entry: &Match) -> bool {
    let path = entry.path.as_ref().and_then(|path| path.kind.as_ref());
    let any_path = match path {
        None => true,
        Some(PathKind::TextPrefix(prefix)) => prefix == "/",
        Some(PathKind::Regex(regex)) => regex == ".*",
        Some(_) => false,
    };
    any_path
        && Match {
            path: None,
            name: String::new(),
            ..entry.clone()
        } == Match::default()
}
