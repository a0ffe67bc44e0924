//! How single values are compared (4.3, 4.4, 4.7).

use std::net::IpAddr;

use ambit_types::SpiffeId;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use serde_json::Value;
use smallvec::SmallVec;

use super::attrs::RequestAuth;
use super::model::{Account, Text};
use crate::matching::principal_matches;
use crate::model::StringMatch;

/// A header that is sent more than once is one list, which an application may
/// read in either form: each line, its elements and the joined lines are
/// compared (4.7, CVE-2026-26308). An ALLOW asks no element but whole lines; a
/// `notValues` that closes passes only if no line is something else.
pub(super) fn header_holds(
    headers: &HeaderMap,
    name: &HeaderName,
    values: &[Text],
    not: &[Text],
    opens: bool,
) -> bool {
    let line = |m: &Text, line: &[u8]| match m.form {
        StringMatch::Presence() => true,
        _ => bytes_match(m, line),
    };
    let lines = || headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let several = || lines().nth(1).is_some();
    let by_line = |m: &Text| lines().any(|one| line(m, one));
    let by_element = |m: &Text| {
        let mut elements = lines().flat_map(|one| one.split(|b| *b == b','));
        elements.any(|one| line(m, one.trim_ascii()))
    };
    let joined = |m: &Text| {
        several() && {
            let parts: SmallVec<[&[u8]; 8]> = lines().collect();
            [&b","[..], b", "]
                .iter()
                .any(|by| line(m, &parts.join(*by)))
        }
    };
    let wanted = |m: &Text| by_line(m) || joined(m) || (!opens && by_element(m));
    if !values.is_empty() && !values.iter().any(wanted) {
        return false;
    }
    if opens {
        return !not.iter().any(|m| by_line(m) || joined(m) || by_element(m));
    }
    let excused = |one: &[u8]| not.iter().any(|m| line(m, one));
    not.is_empty() || lines().next().is_none() || !lines().all(excused)
}

pub(super) fn bytes_match(m: &Text, bytes: &[u8]) -> bool {
    // A value that isn't text equals no text, yet its ends can.
    let (form, cased) = (&m.form, !m.ignore_case);
    let same = |a: &[u8], b: &[u8]| {
        if cased {
            a == b
        } else {
            a.eq_ignore_ascii_case(b)
        }
    };
    match form {
        StringMatch::Exact(text) => same(bytes, text.as_bytes()),
        StringMatch::Prefix(text) => bytes
            .get(..text.len())
            .is_some_and(|head| same(head, text.as_bytes())),
        StringMatch::Suffix(text) => bytes
            .len()
            .checked_sub(text.len())
            .and_then(|at| bytes.get(at..))
            .is_some_and(|tail| same(tail, text.as_bytes())),
        StringMatch::Presence() => !bytes.is_empty(),
    }
}

pub(super) fn text_matches(m: &Text, text: &str) -> bool {
    form_matches(&m.form, text, m.ignore_case)
}

pub(super) fn form_matches(form: &StringMatch, text: &str, ignore_case: bool) -> bool {
    if !ignore_case {
        return match form {
            // Unlike at L4, the empty text can be meant.
            StringMatch::Exact(exact) => **exact == *text,
            other => crate::matching::text_matches(other, text),
        };
    }
    let (bytes, same) = (text.as_bytes(), <[u8]>::eq_ignore_ascii_case);
    match form {
        StringMatch::Exact(exact) => same(bytes, exact.as_bytes()),
        StringMatch::Prefix(head) => bytes
            .get(..head.len())
            .is_some_and(|start| same(start, head.as_bytes())),
        StringMatch::Suffix(tail) => bytes
            .len()
            .checked_sub(tail.len())
            .and_then(|at| bytes.get(at..))
            .is_some_and(|end| same(end, tail.as_bytes())),
        StringMatch::Presence() => !bytes.is_empty(),
    }
}

pub(super) fn is_principal(m: &Text, peer: Option<&SpiffeId>) -> bool {
    peer.is_some_and(|id| {
        if m.ignore_case {
            text_matches(m, &id.principal().to_string())
        } else {
            principal_matches(&m.form, id)
        }
    })
}

pub(super) fn is_account(m: &Account, id: &SpiffeId) -> bool {
    m.namespace == *id.namespace() && m.name == *id.service_account()
}

/// `iss/sub`, split at the last slash of the value (4.3): a subject with a
/// slash can't pass for another issuer's.
pub(super) fn is_request_principal(m: &Text, auth: Option<&RequestAuth<'_>>) -> bool {
    let Some(auth) = auth else {
        return false;
    };
    let (iss, sub) = (auth.issuer, auth.subject);
    if iss.is_empty() || sub.is_empty() {
        return false;
    }
    match &m.form {
        StringMatch::Presence() => true,
        StringMatch::Exact(text) => text.rsplit_once('/') == Some((iss, sub)),
        StringMatch::Prefix(text) => {
            iss.starts_with(&**text)
                || text
                    .rsplit_once('/')
                    .is_some_and(|(whole, head)| iss == whole && sub.starts_with(head))
        }
        StringMatch::Suffix(text) => match text.rsplit_once('/') {
            Some((tail, whole)) => iss.ends_with(tail) && sub == whole,
            None => sub.ends_with(&**text),
        },
    }
}

/// A string, or one of a list of strings; nothing else matches (4.4).
pub(super) fn claim_matches(m: &Text, value: &Value) -> bool {
    match value {
        Value::String(text) => text_matches(m, text),
        Value::Array(list) => list
            .iter()
            .any(|one| one.as_str().is_some_and(|text| text_matches(m, text))),
        _ => false,
    }
}

pub(super) fn contains(net: &IpNet, ip: IpAddr) -> bool {
    net.contains(&ip.to_canonical())
}
