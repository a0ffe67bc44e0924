//! Where tokens are found in a request, and how they are taken out of it (4.9).

use std::borrow::Cow;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};

/// One place where a rule looks for its tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A header, after a prefix whose case doesn't count.
    Header {
        /// The header.
        name: HeaderName,
        /// What stands before the token; lines without it hold none.
        prefix: String,
    },
    /// A query parameter.
    Param(String),
    /// A cookie.
    Cookie(String),
}

impl Location {
    pub(crate) fn header(name: HeaderName, prefix: String) -> Self {
        Self::Header { name, prefix }
    }

    /// Every token there: a second one mustn't hide behind the first.
    pub(crate) fn find<'r>(
        &self,
        headers: &'r HeaderMap,
        path: &'r str,
        found: &mut impl FnMut(Cow<'r, str>),
    ) {
        match self {
            Self::Header { name, prefix } => {
                for line in headers.get_all(name) {
                    if let Some(token) = after_prefix(line, prefix) {
                        found(String::from_utf8_lossy(token.trim_ascii()));
                    }
                }
            }
            Self::Param(name) => {
                for (key, value) in params(path) {
                    if decoded(key) == *name {
                        found(decoded(value));
                    }
                }
            }
            Self::Cookie(name) => {
                for (_, value) in cookies(headers).filter(|(key, _)| *key == name.as_bytes()) {
                    found(String::from_utf8_lossy(value));
                }
            }
        }
    }

    /// Takes the tokens out of the request.
    pub(crate) fn strip(&self, headers: &mut HeaderMap, path: &mut Cow<'_, str>) {
        match self {
            Self::Header { name, prefix } => {
                let keep: Vec<HeaderValue> = headers
                    .get_all(name)
                    .iter()
                    .filter(|line| after_prefix(line, prefix).is_none())
                    .cloned()
                    .collect();
                headers.remove(name);
                for line in keep {
                    headers.append(name, line);
                }
            }
            Self::Param(name) => {
                let Some((bare, query)) = path.split_once('?') else {
                    return;
                };
                let kept: Vec<&str> = query
                    .split('&')
                    .filter(|pair| decoded(pair.split_once('=').unwrap_or((pair, "")).0) != *name)
                    .collect();
                let stripped = if kept.is_empty() {
                    bare.to_owned()
                } else {
                    format!("{bare}?{}", kept.join("&"))
                };
                *path = Cow::Owned(stripped);
            }
            Self::Cookie(name) => {
                let kept: Vec<Vec<u8>> = cookies(headers)
                    .filter(|(key, _)| *key != name.as_bytes())
                    .map(|(key, value)| [key, b"=", value].concat())
                    .collect();
                headers.remove(COOKIE);
                if !kept.is_empty()
                    && let Ok(line) = HeaderValue::from_bytes(&kept.join(&b"; "[..]))
                {
                    headers.insert(COOKIE, line);
                }
            }
        }
    }
}

fn after_prefix<'v>(line: &'v HeaderValue, prefix: &str) -> Option<&'v [u8]> {
    let line = line.as_bytes();
    let head = line.get(..prefix.len())?;
    // A scheme's case doesn't count (RFC 9110 11.1), and a backend may agree.
    head.eq_ignore_ascii_case(prefix.as_bytes())
        .then(|| line.get(prefix.len()..))
        .flatten()
}

/// A fragment, which the proxy refuses anyway, hides nothing here.
fn params(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = headers.get_all(COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|b| *b == b'=')?;
        let (key, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        Some((key.trim_ascii(), value.trim_ascii()))
    })
}

/// Percent-decoded; what isn't an escape stays.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = (*first == b'%')
            .then(|| Some((hex(*after.first()?)?, hex(*after.get(1)?)?)))
            .flatten();
        match escape {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}
