//! Sessions that stay with one endpoint (`waypoint-contract` 2.6): what is
//! written into the cookie or header, and what is believed of it.
//!
//! The value is opaque to clients and validated, not secret: several waypoints
//! serve one service and share no key. Whoever forges one only chooses among
//! the endpoints that the same route could have chosen.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Where a session is kept.
#[derive(Debug, Clone)]
pub struct SessionPersistence {
    /// In what.
    pub carrier: Carrier,
    /// From its first request on; `None`: no end.
    pub absolute_timeout: Option<Duration>,
}

/// What carries a session.
#[derive(Debug, Clone)]
pub enum Carrier {
    /// A cookie.
    Cookie {
        /// Its name.
        name: Box<str>,
        /// Its path.
        path: Box<str>,
        /// It outlives the browser: `Max-Age` is written.
        permanent: bool,
    },
    /// A header of requests and responses.
    Header(HeaderName),
}

/// A session that a request brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Uid of the endpoint.
    pub endpoint: String,
    /// When it began, in Unix milliseconds.
    pub issued_ms: u64,
}

impl SessionPersistence {
    /// The request's session, if it brought a readable one.
    #[must_use]
    pub fn read(&self, headers: &HeaderMap) -> Option<Token> {
        match &self.carrier {
            Carrier::Header(name) => decode(headers.get(name)?.to_str().ok()?),
            Carrier::Cookie { name, .. } => cookie(headers, name).and_then(decode),
        }
    }

    /// True when a session's time is over, or begins more than a minute ahead.
    #[must_use]
    pub fn expired(&self, token: &Token, now_ms: u64) -> bool {
        if token.issued_ms > now_ms.saturating_add(CLOCK_SKEW_MS) {
            return true;
        }
        self.absolute_timeout.is_some_and(|timeout| {
            Duration::from_millis(now_ms.saturating_sub(token.issued_ms)) >= timeout
        })
    }

    /// The response's header for a session with `endpoint` that begins at
    /// `now_ms`; `None` if the configured names can't be written.
    #[must_use]
    pub fn write(&self, endpoint: &str, now_ms: u64) -> Option<(HeaderName, HeaderValue)> {
        let value = encode(endpoint, now_ms);
        let (name, text) = match &self.carrier {
            Carrier::Header(name) => (name.clone(), value),
            Carrier::Cookie {
                name,
                path,
                permanent,
            } => {
                let mut text = format!("{name}={value}; Path={path}; HttpOnly");
                if let Some(timeout) = self.absolute_timeout.filter(|_| *permanent) {
                    text.push_str(&format!("; Max-Age={}", timeout.as_secs()));
                }
                (SET_COOKIE, text)
            }
        };
        Some((name, HeaderValue::try_from(text).ok()?))
    }
}

/// The first cookie of that name, in any of the `cookie` headers.
#[must_use]
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .find_map(|pair| {
            let (key, value) = pair.trim().split_once('=')?;
            (key == name).then_some(value.trim_matches('"'))
        })
}

/// Version, milliseconds, uid, and a sum over all of them.
fn encode(endpoint: &str, issued_ms: u64) -> String {
    let mut bytes = Vec::with_capacity(endpoint.len() + 17);
    bytes.push(VERSION);
    bytes.extend_from_slice(&issued_ms.to_be_bytes());
    bytes.extend_from_slice(endpoint.as_bytes());
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(text: &str) -> Option<Token> {
    if text.len() > MAX_ENCODED {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    if checksum(body) != u32::from_be_bytes(*sum) {
        return None;
    }
    let (version, rest) = body.split_first()?;
    let (issued, endpoint) = rest.split_first_chunk::<8>()?;
    if *version != VERSION || endpoint.is_empty() {
        return None;
    }
    Some(Token {
        endpoint: std::str::from_utf8(endpoint).ok()?.to_owned(),
        issued_ms: u64::from_be_bytes(*issued),
    })
}

/// FNV-1a: finds damage, not malice.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| {
        (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

const VERSION: u8 = 1;
const CLOCK_SKEW_MS: u64 = 60_000;
/// Uids are cluster, group, kind, namespace and name: 253 bytes at most each.
const MAX_ENCODED: usize = 2048;
