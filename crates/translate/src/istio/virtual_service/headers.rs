//! Header operations of VirtualServices (3.2).

use std::collections::BTreeMap;

use ambit_kube::{VsHeaderOperations, VsHeaders};
use ambit_proto::waypoint::{Header, HeaderOps};

use crate::istio::codes;
use crate::istio::say::{Fault, Say};
use crate::istio::values::is_token;

/// The operations of a rule or a destination.
#[derive(Debug, Default)]
pub(super) struct Operations {
    pub(super) request: Option<HeaderOps>,
    pub(super) response: Option<HeaderOps>,
    /// A `host` that is set: it becomes the upstream Host.
    pub(super) host: Option<String>,
}

/// Reads both directions.
pub(super) fn operations(say: &mut Say, headers: Option<&VsHeaders>, path: &str) -> Operations {
    let Some(headers) = headers else {
        return Operations::default();
    };
    let mut host = None;
    let request = headers.request.as_ref().and_then(|ops| {
        host = authority(ops);
        one(say, ops, &format!("{path}.headers.request"), true)
    });
    let response = headers
        .response
        .as_ref()
        .and_then(|ops| one(say, ops, &format!("{path}.headers.response"), false));
    Operations {
        request,
        response,
        host,
    }
}

/// `host` may be set, and set beats add.
fn authority(ops: &VsHeaderOperations) -> Option<String> {
    [&ops.set, &ops.add]
        .into_iter()
        .flat_map(BTreeMap::iter)
        .find(|(name, _)| is_host(name))
        .map(|(_, value)| value.clone())
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn one(say: &mut Say, ops: &VsHeaderOperations, path: &str, request: bool) -> Option<HeaderOps> {
    let mut built = HeaderOps::default();
    for (field, from, to) in [
        ("set", &ops.set, &mut built.set),
        ("add", &ops.add, &mut built.add),
    ] {
        for (name, value) in from {
            if request && is_host(name) {
                continue;
            }
            let field = format!("{path}.{field}.{name}");
            if !usable(say, name, &field) {
                continue;
            }
            if let Some(value) = literal(say, value, &field) {
                to.push(Header {
                    name: name.to_ascii_lowercase(),
                    value,
                });
            }
        }
    }
    for (at, name) in ops.remove.iter().enumerate() {
        let field = format!("{path}.remove[{at}]");
        if is_host(name) {
            refuse(
                say,
                &field,
                name,
                "the host of a request can't be removed",
                "set it instead",
            );
        } else if usable(say, name, &field) {
            built.remove.push(name.to_ascii_lowercase());
        }
    }
    (built != HeaderOps::default()).then_some(built)
}

fn usable(say: &mut Say, name: &str, field: &str) -> bool {
    if name.starts_with(':') {
        refuse(
            say,
            field,
            name,
            "a pseudo-header can't be changed so",
            "use rewrite for path and authority",
        );
        return false;
    }
    if !is_token(name) {
        refuse(
            say,
            field,
            name,
            "it can't be a header's name",
            "use letters, digits and dashes",
        );
        return false;
    }
    true
}

fn refuse(say: &mut Say, field: &str, value: &str, message: &str, remedy: &str) {
    say.error(
        codes::BAD_HEADER,
        Fault {
            field,
            value,
            message,
            remedy,
        },
    );
}

/// The value with doubled percent signs halved; none where it asks Envoy to
/// compute something, or could end the header.
fn literal(say: &mut Say, value: &str, field: &str) -> Option<String> {
    if value.chars().any(|c| c.is_ascii_control() && c != '\t') {
        refuse(
            say,
            field,
            value,
            "a header's value can't have control characters",
            "remove them",
        );
        return None;
    }
    let parts: Vec<&str> = value.split("%%").collect();
    // What stands between two single signs is a command.
    let computed = parts.iter().any(|part| {
        let pieces: Vec<&str> = part.split('%').collect();
        let inner = pieces.len().saturating_sub(2);
        pieces
            .iter()
            .skip(1)
            .take(inner)
            .any(|piece| is_command(piece))
    });
    if computed {
        refuse(
            say,
            field,
            value,
            "values that Envoy computes aren't supported, so the header isn't written",
            "write a fixed value; double a percent sign that is meant as such",
        );
        return None;
    }
    Some(parts.join("%"))
}

/// `START_TIME`, `REQ(X)`, ...
fn is_command(text: &str) -> bool {
    let name = text.split(['(', ':']).next().unwrap_or_default();
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit())
}
