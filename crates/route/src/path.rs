//! The one form of a path that authorization, routing and the backend see
//! (`waypoint-contract` 4.7).
//!
//! Order: escaped slashes become slashes (if the mode says so), escaped
//! unreserved characters are decoded and `\` becomes `/`, dot segments are
//! resolved (RFC 3986, never above the root), then slashes merge. What a
//! second pass would read differently is refused, so the result is stable.

use std::borrow::Cow;

use crate::matching::hex;

/// How much of a path is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Normalization {
    /// As received.
    None,
    /// RFC 3986; `\` is `/`.
    #[default]
    Base,
    /// And `//` is `/`.
    MergeSlashes,
    /// And `%2F`, `%5C` are `/` before that.
    DecodeAndMergeSlashes,
}

/// A path that is refused with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// A fragment has no place in a request (CVE-2021-32779).
    #[error("the path has a fragment")]
    Fragment,
    /// Neither `*` nor from the root.
    #[error("the path doesn't start with /")]
    NotAbsolute,
    /// An escaped NUL ends texts early in some backends.
    #[error("the path has an escaped NUL")]
    Nul,
    /// Decoding would complete an escape that is broken as sent.
    #[error("the path has nested escapes")]
    NestedEscape,
}

/// Normalises a path without its query.
///
/// # Errors
/// What no mode lets through: fragments, paths that aren't from the root; with
/// normalisation also escaped NULs and escapes inside escapes.
pub fn normalize(path: &str, mode: Normalization) -> Result<Cow<'_, str>, BadPath> {
    if path.contains('#') {
        return Err(BadPath::Fragment);
    }
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(BadPath::NotAbsolute);
    }
    if mode == Normalization::None || is_normal(path, mode) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = unescape(path, mode == Normalization::DecodeAndMergeSlashes)?;
    let mut resolved = resolve_dots(&decoded);
    if mode != Normalization::Base {
        resolved = merge_slashes(&resolved);
    }
    Ok(Cow::Owned(resolved))
}

/// True when nothing can change: the usual case, seen in one scan.
fn is_normal(path: &str, mode: Normalization) -> bool {
    let mut previous = 0;
    for byte in path.bytes() {
        match byte {
            b'%' | b'\\' => return false,
            b'.' if previous == b'/' => return false,
            b'/' if previous == b'/' && mode != Normalization::Base => return false,
            _ => previous = byte,
        }
    }
    true
}

fn unescape(path: &str, slashes: bool) -> Result<String, BadPath> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        let escape = match rest.as_bytes() {
            [b'%', high, low, ..] => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        let Some(byte) = escape else {
            out.push(if first == '\\' { '/' } else { first });
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
            continue;
        };
        let (as_sent, tail) = rest.split_at_checked(3).unwrap_or((rest, ""));
        match byte {
            0 => return Err(BadPath::Nul),
            b'/' | b'\\' if slashes => out.push('/'),
            _ if is_unreserved(byte) => {
                if byte.is_ascii_hexdigit() && ends_in_open_escape(&out) {
                    return Err(BadPath::NestedEscape);
                }
                out.push(char::from(byte));
            }
            _ => out.push_str(as_sent),
        }
        rest = tail;
    }
    Ok(out)
}

/// Whether one or two more digits would make an escape of the end of `out`.
fn ends_in_open_escape(out: &str) -> bool {
    match out.as_bytes() {
        [.., b'%'] => true,
        [.., b'%', digit] => digit.is_ascii_hexdigit(),
        _ => false,
    }
}

/// RFC 3986, 5.2.4.
fn resolve_dots(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    out.truncate(out.rfind('/').unwrap_or(0));
                }
                if last {
                    out.push('/');
                }
            }
            _ => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    out
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for char in path.chars() {
        if char != '/' || !out.ends_with('/') {
            out.push(char);
        }
    }
    out
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}
