//! Whether one match of a rule holds for a request (`waypoint-contract` 2.3,
//! 3.2). Nothing here allocates, but for repeated headers and encoded query
//! values that are longer than usual.

use http::{HeaderMap, HeaderName, HeaderValue};
use regex::Regex;
use serde_json::Value;
use smallvec::SmallVec;

use crate::conditions::Condition;
use crate::text::Pattern;

/// What of a request decides its route.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// As sent; methods are case-sensitive.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host, with its port as sent.
    pub authority: &'a str,
    /// After normalisation, without query.
    pub path: &'a str,
    /// Behind the `?`.
    pub query: Option<&'a str>,
    /// All others.
    pub headers: &'a HeaderMap,
    /// The service port.
    pub port: u16,
    /// Of the client's identity.
    pub source_namespace: Option<&'a str>,
    /// Of its verified token, as a JSON object.
    pub claims: Option<&'a Value>,
}

/// One match of a rule: everything in it must hold.
#[derive(Debug, Clone, Default)]
pub struct Match {
    /// None: every path.
    pub path: Option<PathPattern>,
    /// Case-sensitive.
    pub method: Option<Pattern>,
    /// Case-sensitive.
    pub scheme: Option<Pattern>,
    /// With the port as sent.
    pub authority: Option<Pattern>,
    /// All of them, each name once.
    pub headers: Vec<HeaderMatch>,
    /// All of them, each name once.
    pub query: Vec<QueryMatch>,
    /// All of them.
    pub claims: Vec<ClaimMatch>,
    /// The service port; 0: any.
    pub port: u16,
    /// The client's namespace; none: any.
    pub source_namespaces: Vec<Box<str>>,
    /// A ServiceProfile's condition.
    pub condition: Option<Condition>,
    /// Lengths of service and method of a gRPC match, for its precedence.
    pub(crate) grpc: Option<(u32, u32)>,
    /// For logs; empty when it has none.
    pub name: Box<str>,
}

/// How a path is compared.
#[derive(Debug, Clone)]
pub enum PathPattern {
    /// Byte by byte.
    Exact {
        /// The path.
        text: Box<str>,
        /// ASCII case doesn't count (VirtualService).
        fold: bool,
    },
    /// By path element; the text has no trailing slash, so `/` is empty.
    Element {
        /// The prefix.
        text: Box<str>,
        /// ASCII case doesn't count.
        fold: bool,
    },
    /// Plain text prefix (VirtualService).
    Text {
        /// The prefix.
        text: Box<str>,
        /// ASCII case doesn't count.
        fold: bool,
    },
    /// The whole path.
    Regex {
        /// Compiled.
        regex: Regex,
        /// Of the expression as written, for its precedence.
        length: u32,
    },
}

/// One header to compare.
#[derive(Debug, Clone)]
pub struct HeaderMatch {
    /// Its name.
    pub name: HeaderName,
    /// Its value; repeated ones are joined with commas first.
    pub value: Pattern,
    /// Holds when the header is absent or doesn't match (3.2).
    pub invert: bool,
}

/// One query parameter to compare.
#[derive(Debug, Clone)]
pub struct QueryMatch {
    /// Case-sensitive.
    pub name: Box<str>,
    /// Of the first occurrence.
    pub value: Pattern,
}

/// One claim of the request's token to compare.
#[derive(Debug, Clone)]
pub struct ClaimMatch {
    /// From the outside inwards.
    pub path: Vec<Box<str>>,
    /// A string, or one element of a list of strings.
    pub value: Pattern,
    /// Holds when the claim is absent or doesn't match.
    pub invert: bool,
}

/// What part of a path a match covered: rewrites and redirects put theirs in
/// its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchedPath {
    /// The whole path, or a match that says nothing of paths in document order.
    Whole,
    /// Bytes of a prefix by element, without trailing slash.
    Element(usize),
    /// Bytes of a plain text prefix.
    Text(usize),
}

/// Why a match doesn't hold: the first thing that didn't.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// The service port.
    Port,
    /// The path.
    Path,
    /// The method.
    Method,
    /// The scheme.
    Scheme,
    /// The Host header.
    Authority,
    /// A header.
    Header(HeaderName),
    /// A query parameter.
    Query(Box<str>),
    /// A claim: its path, joined with dots.
    Claim(Box<str>),
    /// The client's namespace.
    SourceNamespace,
    /// A ServiceProfile condition.
    Condition,
}

impl Match {
    /// The whole comparison, without saying why not.
    pub(crate) fn check_quietly(&self, head: &Head<'_>) -> Option<MatchedPath> {
        let matched = match &self.path {
            Some(path) => path.matches(head.path)?,
            None => MatchedPath::Text(usize::from(head.path.starts_with('/'))),
        };
        self.first_miss(head).is_none().then_some(matched)
    }

    /// The whole comparison.
    ///
    /// # Errors
    /// What doesn't hold.
    pub fn check(&self, head: &Head<'_>) -> Result<MatchedPath, Miss> {
        let matched = match &self.path {
            Some(path) => path.matches(head.path).ok_or(Miss::Path)?,
            None => MatchedPath::Text(usize::from(head.path.starts_with('/'))),
        };
        match self.first_miss(head) {
            Some(part) => Err(part.miss()),
            None => Ok(matched),
        }
    }

    fn first_miss(&self, head: &Head<'_>) -> Option<Part<'_>> {
        let text = |pattern: &Option<Pattern>, value: &str| {
            pattern.as_ref().is_none_or(|p| p.matches(value.as_bytes()))
        };
        if self.port != 0 && self.port != head.port {
            return Some(Part::Port);
        }
        if !text(&self.method, head.method) {
            return Some(Part::Method);
        }
        if !text(&self.scheme, head.scheme) {
            return Some(Part::Scheme);
        }
        if !text(&self.authority, head.authority) {
            return Some(Part::Authority);
        }
        if let Some(header) = self.headers.iter().find(|h| !h.holds(head.headers)) {
            return Some(Part::Header(header));
        }
        if let Some(query) = self.query.iter().find(|q| !q.holds(head.query)) {
            return Some(Part::Query(query));
        }
        if !self.source_namespaces.is_empty()
            && !head
                .source_namespace
                .is_some_and(|ns| self.source_namespaces.iter().any(|of| **of == *ns))
        {
            return Some(Part::SourceNamespace);
        }
        if let Some(claim) = self.claims.iter().find(|c| !c.holds(head.claims)) {
            return Some(Part::Claim(claim));
        }
        if self.condition.as_ref().is_some_and(|c| !c.of_request(head)) {
            return Some(Part::Condition);
        }
        None
    }
}

/// A miss, before anything is copied for people.
enum Part<'a> {
    Port,
    Method,
    Scheme,
    Authority,
    Header(&'a HeaderMatch),
    Query(&'a QueryMatch),
    SourceNamespace,
    Claim(&'a ClaimMatch),
    Condition,
}

impl Part<'_> {
    fn miss(self) -> Miss {
        match self {
            Self::Port => Miss::Port,
            Self::Method => Miss::Method,
            Self::Scheme => Miss::Scheme,
            Self::Authority => Miss::Authority,
            Self::Header(header) => Miss::Header(header.name.clone()),
            Self::Query(query) => Miss::Query(query.name.clone()),
            Self::SourceNamespace => Miss::SourceNamespace,
            Self::Claim(claim) => Miss::Claim(claim.path.join(".").into()),
            Self::Condition => Miss::Condition,
        }
    }
}

impl PathPattern {
    /// The part of `path` that it covers, if it matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> Option<MatchedPath> {
        let starts = |text: &str, fold: bool| {
            path.as_bytes().get(..text.len()).is_some_and(|head| {
                if fold {
                    head.eq_ignore_ascii_case(text.as_bytes())
                } else {
                    head == text.as_bytes()
                }
            })
        };
        match self {
            Self::Exact { text, fold } => {
                (path.len() == text.len() && starts(text, *fold)).then_some(MatchedPath::Whole)
            }
            Self::Element { text, fold } => {
                let bounded = match path.as_bytes().get(text.len()) {
                    Some(next) => *next == b'/',
                    None => !text.is_empty(),
                };
                (starts(text, *fold) && bounded).then_some(MatchedPath::Element(text.len()))
            }
            Self::Text { text, fold } => {
                starts(text, *fold).then_some(MatchedPath::Text(text.len()))
            }
            Self::Regex { regex, .. } => regex.is_match(path).then_some(MatchedPath::Whole),
        }
    }
}

impl HeaderMatch {
    /// Whether it holds. An absent header matches nothing, so an inverted
    /// match holds then (3.2).
    #[must_use]
    pub fn holds(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter();
        let found = match (values.next(), values.next()) {
            (None, _) => false,
            (Some(one), None) => self.value.matches(one.as_bytes()),
            (Some(first), Some(second)) => self.value.matches(&joined(first, second, values)),
        };
        found != self.invert
    }
}

/// Repeated headers as one, as everybody sees them who is asked (2.3).
fn joined<'a>(
    first: &'a HeaderValue,
    second: &'a HeaderValue,
    rest: impl Iterator<Item = &'a HeaderValue>,
) -> SmallVec<[u8; 256]> {
    let mut all = SmallVec::from_slice(first.as_bytes());
    for value in std::iter::once(second).chain(rest) {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    all
}

impl QueryMatch {
    fn holds(&self, query: Option<&str>) -> bool {
        let Some(value) = query.and_then(|query| first_value(query, &self.name)) else {
            return false;
        };
        self.value.matches(value.as_bytes())
            || (value.contains('%') && self.value.matches(&decoded(value)))
    }
}

/// The value of the first parameter of that name (2.3), as sent.
pub(crate) fn first_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|parameter| {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let same = key == name || (key.contains('%') && *decoded(key) == *name.as_bytes());
        same.then_some(value)
    })
}

fn decoded(text: &str) -> SmallVec<[u8; 128]> {
    let mut out = SmallVec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = after;
                }
                _ => out.push(b'%'),
            },
            _ => out.push(*byte),
        }
    }
    out
}

/// A hexadecimal digit's value.
pub(crate) fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

impl ClaimMatch {
    fn holds(&self, claims: Option<&Value>) -> bool {
        let mut at = claims;
        for name in &self.path {
            at = at.and_then(|value| value.get(&**name));
        }
        let found = match at {
            Some(Value::String(text)) => self.value.matches(text.as_bytes()),
            Some(Value::Array(list)) => list
                .iter()
                .filter_map(Value::as_str)
                .any(|text| self.value.matches(text.as_bytes())),
            _ => false,
        };
        found != self.invert
    }
}
