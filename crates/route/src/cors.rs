//! Cross-origin requests (`waypoint-contract` 2.5, 3.2): what a preflight is
//! answered, and what a response gets.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::redirect::split_port;
use crate::text::Pattern;

/// A cross-origin policy.
#[derive(Debug, Clone, Default)]
pub struct Cors {
    /// Gateway API origins.
    pub origins: Vec<OriginPattern>,
    /// VirtualService origins.
    pub origin_matches: Vec<Pattern>,
    /// Allowed methods.
    pub methods: Listed,
    /// Allowed request headers.
    pub headers: Listed,
    /// Response headers that scripts may read.
    pub expose: Listed,
    /// Cookies and credentials may be sent.
    pub credentials: bool,
    /// Seconds that a preflight holds.
    pub max_age: Option<HeaderValue>,
    /// A preflight of an unknown origin goes to the backend (VirtualService).
    pub forward_unmatched: bool,
}

/// A list of names as one header value, or all names.
#[derive(Debug, Clone, Default)]
pub enum Listed {
    /// Nothing is listed.
    #[default]
    None,
    /// `*`.
    All,
    /// Joined with commas.
    These(HeaderValue),
}

/// One origin of a Gateway API policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// Every origin.
    Any,
    /// `scheme://host[:port]`.
    Of {
        /// Lower case.
        scheme: Box<str>,
        /// Lower case; with a wildcard: from the dot on.
        host: Box<str>,
        /// The host has a leading `*.`.
        wildcard: bool,
        /// As written, else the scheme's.
        port: Option<u16>,
    },
}

/// What becomes of a request.
#[derive(Debug)]
pub enum CorsDecision<'a> {
    /// The policy has no say.
    None,
    /// Answered here: 200, no body, these headers.
    Preflight(HeaderMap),
    /// A preflight that goes to the backend untouched.
    Forward,
    /// Forwarded; the response gets these headers.
    Actual(CorsActual<'a>),
}

/// The headers of a response to a cross-origin request.
#[derive(Debug)]
pub struct CorsActual<'a> {
    policy: &'a Cors,
    origin: HeaderValue,
}

impl OriginPattern {
    /// From `*` or `scheme://host[:port]`.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        let (scheme, rest) = lower.split_once("://")?;
        let (host, port) = split_port(rest);
        let (host, wildcard) = match host.strip_prefix('*') {
            Some(rest) => (rest, true),
            None => (host, false),
        };
        Some(Self::Of {
            scheme: scheme.into(),
            host: host.into(),
            wildcard,
            port: port.or_else(|| default_port(scheme)),
        })
    }

    /// Whether a request's `Origin` is one of these.
    #[must_use]
    pub fn matches(&self, origin: &str) -> bool {
        let Self::Of {
            scheme,
            host,
            wildcard,
            port,
        } = self
        else {
            return true;
        };
        let Some((sent_scheme, rest)) = origin.split_once("://") else {
            return false;
        };
        let (sent_host, sent_port) = split_port(rest);
        let same_host = if *wildcard {
            sent_host.len() > host.len()
                && sent_host
                    .get(sent_host.len() - host.len()..)
                    .is_some_and(|tail| tail.eq_ignore_ascii_case(host))
        } else {
            sent_host.eq_ignore_ascii_case(host)
        };
        same_host
            && sent_scheme.eq_ignore_ascii_case(scheme)
            && sent_port.or_else(|| default_port(scheme)) == *port
    }
}

impl Cors {
    /// Decides for one request.
    #[must_use]
    pub fn decide(&self, method: &Method, headers: &HeaderMap) -> CorsDecision<'_> {
        let Some(origin) = headers.get(ORIGIN).filter(|origin| !origin.is_empty()) else {
            return CorsDecision::None;
        };
        let asked = headers
            .get(ACCESS_CONTROL_REQUEST_METHOD)
            .filter(|asked| !asked.is_empty());
        let preflight = asked.filter(|_| method == Method::OPTIONS);
        match (self.allows(origin), preflight) {
            (true, Some(asked)) => CorsDecision::Preflight(self.preflight(origin, asked, headers)),
            (true, None) => CorsDecision::Actual(CorsActual {
                policy: self,
                origin: origin.clone(),
            }),
            (false, Some(_)) if self.forward_unmatched => CorsDecision::Forward,
            (false, Some(_)) => CorsDecision::Preflight(HeaderMap::new()),
            (false, None) => CorsDecision::None,
        }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let listed = || {
            origin
                .to_str()
                .is_ok_and(|text| self.origins.iter().any(|pattern| pattern.matches(text)))
        };
        self.origin_matches
            .iter()
            .any(|pattern| pattern.matches(origin.as_bytes()))
            || listed()
    }

    fn preflight(
        &self,
        origin: &HeaderValue,
        asked: &HeaderValue,
        headers: &HeaderMap,
    ) -> HeaderMap {
        let mut out = HeaderMap::with_capacity(6);
        self.write_origin(origin, &mut out);
        let mut put = |name, listed: &Listed, echo: Option<&HeaderValue>| {
            let value = match listed {
                Listed::None => None,
                Listed::All if self.credentials => echo.cloned(),
                Listed::All => Some(HeaderValue::from_static("*")),
                Listed::These(value) => Some(value.clone()),
            };
            if let Some(value) = value {
                out.insert(name, value);
            }
        };
        put(ACCESS_CONTROL_ALLOW_METHODS, &self.methods, Some(asked));
        let asked_headers = headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        put(ACCESS_CONTROL_ALLOW_HEADERS, &self.headers, asked_headers);
        if let Some(seconds) = &self.max_age {
            out.insert(ACCESS_CONTROL_MAX_AGE, seconds.clone());
        }
        out
    }

    /// `*` only where every origin is allowed and no credentials are; an
    /// echoed origin says that the response differs by it.
    fn write_origin(&self, origin: &HeaderValue, out: &mut HeaderMap) {
        if self.origins.contains(&OriginPattern::Any) && !self.credentials {
            out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            return;
        }
        out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            out.insert(
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        let varies = out.get_all(VARY).iter().any(|vary| {
            vary.to_str().is_ok_and(|text| {
                text.split(',').any(|name| {
                    matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case("origin")
                })
            })
        });
        if !varies {
            out.append(VARY, HeaderValue::from_name(ORIGIN));
        }
    }
}

impl CorsActual<'_> {
    /// Writes the headers into a response, over what the backend said.
    pub fn apply(&self, response: &mut HeaderMap) {
        let policy = self.policy;
        response.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        policy.write_origin(&self.origin, response);
        let exposed = match &policy.expose {
            Listed::None => None,
            Listed::These(value) => Some(value.clone()),
            Listed::All if !policy.credentials => Some(HeaderValue::from_static("*")),
            Listed::All => all_names(response),
        };
        if let Some(exposed) = exposed {
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
}

/// With credentials `*` is a name like any other: the names themselves.
fn all_names(response: &HeaderMap) -> Option<HeaderValue> {
    let names: Vec<&str> = response
        .keys()
        .map(http::HeaderName::as_str)
        .filter(|name| !name.starts_with("access-control-") && *name != "set-cookie")
        .collect();
    (!names.is_empty())
        .then(|| HeaderValue::try_from(names.join(", ")).ok())
        .flatten()
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        s if s.eq_ignore_ascii_case("http") => Some(80),
        s if s.eq_ignore_ascii_case("https") => Some(443),
        _ => None,
    }
}
