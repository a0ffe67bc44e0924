//! What a rule matches.

use ambit_proto::waypoint as proto;
use http::HeaderName;
use proto::{condition, path_match, string_match};

use super::{Decoded, In, Wrong, list, port, under};
use crate::conditions::Condition;
use crate::matching::{ClaimMatch, HeaderMatch, Match, PathPattern, QueryMatch};
use crate::model::RouteKind;
use crate::response::ResponseClass;
use crate::text::{InvalidPattern, Pattern, whole};

pub(super) fn decode(message: &proto::Match, kind: RouteKind) -> Decoded<Match> {
    let text = |field: &str, message: &Option<proto::StringMatch>| {
        message
            .as_ref()
            .map(|m| decode_text(m).within(field))
            .transpose()
    };
    let mut out = Match {
        path: message
            .path
            .as_ref()
            .map(|path| path_pattern(path).within("path"))
            .transpose()?,
        method: text("method", &message.method)?,
        scheme: text("scheme", &message.scheme)?,
        authority: text("authority", &message.authority)?,
        headers: headers("headers", &message.headers)?,
        query: list("query", &message.query, |query| {
            Ok(QueryMatch {
                name: query.name.as_str().into(),
                value: value(query.value.as_ref())?,
            })
        })?,
        claims: list("claims", &message.claims, |claim| {
            Ok(ClaimMatch {
                path: claim.path.iter().map(|part| part.as_str().into()).collect(),
                value: value(claim.value.as_ref())?,
                invert: claim.invert,
            })
        })?,
        port: port(message.port).within("port")?,
        source_namespaces: message
            .source_namespaces
            .iter()
            .map(|ns| ns.as_str().into())
            .collect(),
        condition: message
            .condition
            .as_ref()
            .map(|condition| under("condition", decode_condition(condition, 0)))
            .transpose()?,
        grpc: None,
        name: message.name.as_str().into(),
    };
    first_of_each(&mut out.headers, |header| {
        (header.name.clone(), header.invert)
    });
    first_of_each(&mut out.query, |query| query.name.clone());
    if let Some(grpc) = &message.grpc {
        let (path, lengths) = grpc_path(grpc).within("grpc")?;
        out.path = path.or(out.path);
        out.grpc = Some(lengths);
    } else if kind == RouteKind::Grpc {
        out.grpc = Some((0, 0));
    }
    Ok(out)
}

/// Of equivalent names in one match only the first counts (2.3).
fn first_of_each<T, K: PartialEq>(items: &mut Vec<T>, key: impl Fn(&T) -> K) {
    let mut at = 0;
    while let Some(item) = items.get(at) {
        let name = key(item);
        let seen = items.iter().take(at).any(|before| key(before) == name);
        if seen {
            items.remove(at);
        } else {
            at += 1;
        }
    }
}

pub(super) fn headers(field: &str, messages: &[proto::HeaderMatch]) -> Decoded<Vec<HeaderMatch>> {
    list(field, messages, |header| {
        Ok(HeaderMatch {
            name: header_name(&header.name).within("name")?,
            value: value(header.value.as_ref())?,
            invert: header.invert,
        })
    })
}

pub(super) fn header_name(name: &str) -> Result<HeaderName, Wrong> {
    HeaderName::try_from(name).map_err(|_| Wrong::HeaderName { name: name.into() })
}

fn value(message: Option<&proto::StringMatch>) -> Decoded<Pattern> {
    match message {
        Some(message) => decode_text(message).within("value"),
        None => Err(Wrong::Nothing).within("value"),
    }
}

/// A comparison of the configuration; other crates have the same message.
///
/// # Errors
/// An expression that can't be used, or nothing that is set.
pub fn decode_text(message: &proto::StringMatch) -> Result<Pattern, InvalidPattern> {
    let fold = message.ignore_case;
    let text = |text: &str| -> Box<str> {
        if fold {
            text.to_ascii_lowercase().into()
        } else {
            text.into()
        }
    };
    Ok(match message.kind.as_ref() {
        Some(string_match::Kind::Exact(exact)) => Pattern::Exact {
            text: text(exact),
            fold,
        },
        Some(string_match::Kind::Prefix(prefix)) => Pattern::Prefix {
            text: text(prefix),
            fold,
        },
        Some(string_match::Kind::Suffix(suffix)) => Pattern::Suffix {
            text: text(suffix),
            fold,
        },
        Some(string_match::Kind::Regex(regex)) => Pattern::Regex(whole(regex, fold)?),
        Some(string_match::Kind::Presence(_)) => Pattern::Presence,
        None => return Err(InvalidPattern::Nothing),
    })
}

fn path_pattern(message: &proto::PathMatch) -> Result<PathPattern, Wrong> {
    let fold = message.ignore_case;
    Ok(match message.kind.as_ref().ok_or(Wrong::Nothing)? {
        path_match::Kind::Exact(text) => PathPattern::Exact {
            text: text.as_str().into(),
            fold,
        },
        path_match::Kind::ElementPrefix(text) => PathPattern::Element {
            text: text.strip_suffix('/').unwrap_or(text).into(),
            fold,
        },
        path_match::Kind::TextPrefix(text) => PathPattern::Text {
            text: text.as_str().into(),
            fold,
        },
        path_match::Kind::Regex(regex) => PathPattern::Regex {
            regex: whole(regex, fold)?,
            length: length(regex),
        },
    })
}

/// The path that a gRPC match stands for (2.3), and the lengths that decide
/// its precedence.
fn grpc_path(message: &proto::GrpcMethod) -> Result<(Option<PathPattern>, (u32, u32)), Wrong> {
    let (service, method) = (&message.service, &message.method);
    let lengths = (length(service), length(method));
    let exact = |text: String| PathPattern::Exact {
        text: text.into(),
        fold: false,
    };
    let path = match (service.as_str(), method.as_str(), message.regex) {
        ("", "", _) => None,
        (service, "", false) => Some(PathPattern::Text {
            text: format!("/{service}/").into(),
            fold: false,
        }),
        ("", method, regex) => {
            let method = if regex {
                method.to_owned()
            } else {
                regex::escape(method)
            };
            Some(regex_path(&format!("/[^/]+/(?:{method})"))?)
        }
        (service, method, false) => Some(exact(format!("/{service}/{method}"))),
        (service, "", true) => Some(regex_path(&format!("/(?:{service})/[^/]+"))?),
        (service, method, true) => Some(regex_path(&format!("/(?:{service})/(?:{method})"))?),
    };
    Ok((path, lengths))
}

fn regex_path(pattern: &str) -> Result<PathPattern, Wrong> {
    Ok(PathPattern::Regex {
        regex: whole(pattern, false)?,
        length: length(pattern),
    })
}

fn length(text: &str) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}

pub(super) fn response_class(message: &proto::ResponseClass) -> Decoded<ResponseClass> {
    let Some(condition) = &message.condition else {
        return Err(Wrong::Nothing).within("condition");
    };
    Ok(ResponseClass {
        condition: under("condition", decode_condition(condition, 0))?,
        is_failure: message.is_failure,
    })
}

fn decode_condition(message: &proto::Condition, depth: u32) -> Decoded<Condition> {
    if depth > MAX_CONDITION_DEPTH {
        return Err(Wrong::Nested {
            most: MAX_CONDITION_DEPTH,
        })
        .within("kind");
    }
    let several = |field: &str, of: &proto::Conditions| {
        list(field, &of.of, |inner| decode_condition(inner, depth + 1))
    };
    let bound = |field: &str, code: u32| {
        u16::try_from(code)
            .map_err(|_| Wrong::Status { status: code })
            .within(field)
    };
    Ok(match message.kind.as_ref() {
        Some(condition::Kind::PathRegex(regex)) => {
            Condition::Path(whole(regex, false).within("path_regex")?)
        }
        Some(condition::Kind::Method(method)) => Condition::Method(method.as_str().into()),
        Some(condition::Kind::All(all)) => Condition::All(several("all", all)?),
        Some(condition::Kind::Any(any)) => Condition::Any(several("any", any)?),
        Some(condition::Kind::Not(not)) => {
            Condition::Not(Box::new(under("not", decode_condition(not, depth + 1))?))
        }
        Some(condition::Kind::Status(range)) => Condition::Status {
            min: bound("status.min", range.min)?,
            max: match range.max {
                0 => bound("status.min", range.min)?,
                max => bound("status.max", max)?,
            },
        },
        None => return Err(Wrong::Nothing).within("kind"),
    })
}

const MAX_CONDITION_DEPTH: u32 = 16;
