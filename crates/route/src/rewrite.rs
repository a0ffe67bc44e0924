//! Changes of host and path for the backend (`waypoint-contract` 2.5, 3.2).

use std::borrow::Cow;

use http::HeaderValue;
use http::uri::PathAndQuery;
use regex::Regex;

use crate::matching::MatchedPath;

/// What the backend sees instead.
#[derive(Debug, Clone)]
pub struct Rewrite {
    /// Its Host or `:authority`.
    pub hostname: Option<HeaderValue>,
    /// Its path; the query stays.
    pub path: Option<PathChange>,
}

/// How a path is changed.
#[derive(Debug, Clone)]
pub enum PathChange {
    /// Replaced as a whole.
    Full(Box<str>),
    /// In place of the matched prefix, by element.
    Element(Box<str>),
    /// In place of the matched text, or of the whole path.
    Text(Box<str>),
    /// Every match of an expression.
    Regex(RegexChange),
}

/// A substitution by expression (VirtualService `uriRegexRewrite`).
#[derive(Debug, Clone)]
pub struct RegexChange {
    /// What is replaced, wherever it is.
    pub pattern: Regex,
    /// In the syntax of `regex`: `${1}`.
    pub substitution: Box<str>,
}

impl RegexChange {
    /// RE2's `\1` in the syntax of `regex`, where `$` is special instead.
    #[must_use]
    pub fn substitution(re2: &str) -> Box<str> {
        let mut out = String::with_capacity(re2.len() + 4);
        let mut chars = re2.chars();
        while let Some(char) = chars.next() {
            match char {
                '$' => out.push_str("$$"),
                '\\' => match chars.next() {
                    Some(digit) if digit.is_ascii_digit() => {
                        out.push_str("${");
                        out.push(digit);
                        out.push('}');
                    }
                    Some('$') => out.push_str("$$"),
                    Some(other) => out.push(other),
                    None => out.push('\\'),
                },
                _ => out.push(char),
            }
        }
        out.into()
    }
}

impl Rewrite {
    /// The new path with the old query; `None` when the path stays, or when
    /// the change would give what isn't a path.
    #[must_use]
    pub fn apply(
        &self,
        path: &str,
        query: Option<&str>,
        matched: MatchedPath,
    ) -> Option<PathAndQuery> {
        let changed = self.path.as_ref()?.apply(path, matched);
        let whole = match query {
            Some(query) => format!("{changed}?{query}"),
            None => changed.into_owned(),
        };
        PathAndQuery::try_from(whole).ok()
    }
}

impl PathChange {
    /// The new path, always from the root.
    #[must_use]
    pub fn apply<'a>(&'a self, path: &'a str, matched: MatchedPath) -> Cow<'a, str> {
        let changed = match self {
            Self::Full(full) => Cow::Borrowed(&**full),
            Self::Element(prefix) => by_element(prefix, rest_of(path, matched)),
            Self::Text(prefix) => match rest_of(path, matched) {
                "" => Cow::Borrowed(&**prefix),
                rest => Cow::Owned(format!("{prefix}{rest}")),
            },
            Self::Regex(change) => change.pattern.replace_all(path, &*change.substitution),
        };
        if changed.starts_with('/') {
            changed
        } else {
            Cow::Owned(format!("/{changed}"))
        }
    }
}

/// The table of 2.5: no `//` where the two meet, never an empty path.
fn by_element<'a>(prefix: &'a str, rest: &'a str) -> Cow<'a, str> {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    match (prefix, rest) {
        ("", "") => Cow::Borrowed("/"),
        ("", rest) => Cow::Borrowed(rest),
        (prefix, "") => Cow::Borrowed(prefix),
        (prefix, rest) => Cow::Owned(format!("{prefix}{rest}")),
    }
}

/// What is behind the part that the match covered.
fn rest_of(path: &str, matched: MatchedPath) -> &str {
    let covered = match matched {
        MatchedPath::Whole => path.len(),
        MatchedPath::Element(length) | MatchedPath::Text(length) => length,
    };
    path.get(covered..).unwrap_or_default()
}
