//! One token, taken apart and checked as far as it can be without keys.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::json;
use crate::keys::Alg;
use crate::reject::Reason;

/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Tolerance towards other clocks (4.9).
pub(crate) const SKEW: Duration = Duration::from_secs(60);

/// The present, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For what is kept: never goes back.
    pub mono: Instant,
    /// For what tokens say: time since the Unix epoch.
    pub unix: Duration,
}

/// A token whose signature isn't known to be good.
pub(crate) struct Parsed<'t> {
    pub(crate) alg: Alg,
    pub(crate) kid: Option<String>,
    /// What is signed: `header.payload`.
    pub(crate) signed: &'t str,
    pub(crate) payload: &'t str,
    pub(crate) signature: Vec<u8>,
    pub(crate) claims: Map<String, Value>,
}

impl<'t> Parsed<'t> {
    pub(crate) fn parse(token: &'t str) -> Result<Self, Reason> {
        if token.len() > MAX_TOKEN {
            return Err(Reason::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Reason::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(Reason::Form)?;
        if payload.contains('.') || header.is_empty() || payload.is_empty() {
            return Err(Reason::Form);
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::Form);
        let header = json::object(&decode(header)?).ok_or(Reason::Header)?;
        let alg = header.get("alg").and_then(Value::as_str);
        let alg = alg.and_then(Alg::parse).ok_or(Reason::Algorithm)?;
        // RFC 7515 4.1.11: what isn't understood and is critical is refused.
        if header.contains_key("crit") {
            return Err(Reason::Algorithm);
        }
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Reason::Header),
        };
        let claims = json::object(&decode(payload)?).ok_or(Reason::Payload)?;
        Ok(Self {
            alg,
            kid,
            signed,
            payload,
            signature: decode(signature)?,
            claims,
        })
    }

    pub(crate) fn issuer(&self) -> &str {
        self.claims
            .get("iss")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    pub(crate) fn times(&self) -> Result<Times, Reason> {
        let read = |name| match self.claims.get(name) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .map(Some)
                .ok_or(Reason::Payload),
        };
        Ok(Times {
            expires: read("exp")?,
            not_before: read("nbf")?,
        })
    }

    /// `aud`, a string or a list of strings.
    pub(crate) fn audiences(&self) -> Result<Vec<String>, Reason> {
        match self.claims.get("aud") {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one.clone()]),
            Some(Value::Array(list)) => list
                .iter()
                .map(|one| one.as_str().map(str::to_owned).ok_or(Reason::Payload))
                .collect(),
            Some(_) => Err(Reason::Payload),
        }
    }
}

/// When a token holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) expires: Option<Duration>,
    pub(crate) not_before: Option<Duration>,
}

impl Times {
    pub(crate) fn check(self, unix: Duration) -> Result<(), Reason> {
        if self
            .expires
            .is_some_and(|at| unix > at.saturating_add(SKEW))
        {
            return Err(Reason::Expired);
        }
        if self
            .not_before
            .is_some_and(|at| at > unix.saturating_add(SKEW))
        {
            return Err(Reason::NotYetValid);
        }
        Ok(())
    }
}
