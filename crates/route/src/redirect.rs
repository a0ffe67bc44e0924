//! The `Location` of a redirect (`waypoint-contract` 2.5, 3.2).

use http::{HeaderValue, StatusCode};

use crate::matching::MatchedPath;
use crate::rewrite::PathChange;

/// Elsewhere.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `None`: the request's.
    pub scheme: Option<Box<str>>,
    /// `None`: the request's.
    pub hostname: Option<Box<str>>,
    /// Which port is written.
    pub port: RedirectPort,
    /// `None`: the request's path.
    pub path: Option<PathChange>,
}

/// Which port a redirect names. `:80` with http and `:443` with https are
/// never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectPort {
    /// The scheme's if the redirect names a scheme, else the listener's.
    GatewayApi,
    /// This one.
    Explicit(u16),
    /// Nothing is said of the port: what the hostname or the request's Host
    /// has stays, unless it was the default of a scheme that changes.
    Keep,
    /// The scheme's.
    FromProtocol,
    /// The listener's.
    FromRequest,
}

/// What of the request a redirect builds on.
#[derive(Debug, Clone, Copy)]
pub struct RedirectInput<'a> {
    /// Of the request.
    pub scheme: &'a str,
    /// Host, with its port as sent.
    pub authority: &'a str,
    /// The service port.
    pub port: u16,
    /// Normalised, without query.
    pub path: &'a str,
    /// Kept.
    pub query: Option<&'a str>,
}

impl Redirect {
    /// The value of `Location`; `None` if configuration and request together
    /// give what isn't a header value.
    #[must_use]
    pub fn location(&self, input: &RedirectInput<'_>, matched: MatchedPath) -> Option<HeaderValue> {
        let scheme = self.scheme.as_deref().unwrap_or(input.scheme);
        let path = self.path.as_ref().map_or(input.path.into(), |change| {
            change.apply(input.path, matched)
        });
        let (host, port) = self.host_and_port(input, scheme);
        let mut location = format!("{scheme}://{host}");
        if let Some(port) = port.filter(|port| !is_default(scheme, *port)) {
            location.push_str(&format!(":{port}"));
        }
        location.push_str(&path);
        if let Some(query) = input.query.filter(|_| !path.contains('?')) {
            location.push('?');
            location.push_str(query);
        }
        HeaderValue::try_from(location).ok()
    }

    fn host_and_port<'a>(
        &'a self,
        input: &RedirectInput<'a>,
        scheme: &str,
    ) -> (&'a str, Option<u16>) {
        let (sent_host, sent_port) = split_port(input.authority);
        let (host, own_port) = match self.hostname.as_deref() {
            Some(hostname) => split_port(hostname),
            None => (sent_host, None),
        };
        let port = match self.port {
            RedirectPort::GatewayApi if self.scheme.is_some() => None,
            RedirectPort::GatewayApi | RedirectPort::FromRequest => Some(input.port),
            RedirectPort::Explicit(port) => Some(port),
            RedirectPort::FromProtocol => None,
            RedirectPort::Keep if self.hostname.is_some() => own_port,
            RedirectPort::Keep => {
                sent_port.filter(|port| scheme == input.scheme || !is_default(input.scheme, *port))
            }
        };
        (host, port)
    }
}

fn is_default(scheme: &str, port: u16) -> bool {
    matches!((scheme, port), ("http", 80) | ("https", 443))
}

/// `host:port`, `[v6]:port` or either without port.
pub(crate) fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}
