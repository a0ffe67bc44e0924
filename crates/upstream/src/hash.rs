//! What of a request decides its endpoint, where that is consistent
//! (`waypoint-contract` 3.5).

use std::net::IpAddr;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};
use rand::{Rng, RngExt};
use twox_hash::XxHash64;

/// What is hashed.
#[derive(Debug, Clone)]
pub enum HashPolicy {
    /// A header.
    Header(HeaderName),
    /// A cookie, made where it is missing and has a lifetime.
    Cookie {
        /// Its name.
        name: Box<str>,
        /// What is written behind `name=value` when it is made; `None`: it is
        /// only read.
        attributes: Option<Box<str>>,
    },
    /// The client's address.
    SourceIp,
    /// The first query parameter of that name.
    Query(Box<str>),
}

/// The key of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HashKey {
    /// `None`: what is hashed isn't there; any endpoint will do.
    pub hash: Option<u64>,
    /// For the response: a cookie that was made.
    pub set_cookie: Option<HeaderValue>,
}

impl HashPolicy {
    /// The key of a request.
    pub fn key<R: Rng + ?Sized>(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        source: IpAddr,
        rng: &mut R,
    ) -> HashKey {
        let hash = match self {
            Self::Header(name) => headers.get(name).map(|value| xx(value.as_bytes())),
            Self::SourceIp => Some(match source.to_canonical() {
                IpAddr::V4(v4) => xx(&v4.octets()),
                IpAddr::V6(v6) => xx(&v6.octets()),
            }),
            Self::Query(name) => query.and_then(|query| parameter(query, name)).map(xx),
            Self::Cookie { name, attributes } => {
                return match (cookie(headers, name), attributes) {
                    (Some(value), _) => HashKey {
                        hash: Some(xx(value.as_bytes())),
                        set_cookie: None,
                    },
                    (None, None) => HashKey::default(),
                    (None, Some(attributes)) => made(name, attributes, rng),
                };
            }
        };
        HashKey {
            hash,
            set_cookie: None,
        }
    }
}

fn made<R: Rng + ?Sized>(name: &str, attributes: &str, rng: &mut R) -> HashKey {
    let value = format!("{:032x}", rng.random::<u128>());
    HashKey {
        hash: Some(xx(value.as_bytes())),
        set_cookie: HeaderValue::try_from(format!("{name}=\"{value}\"{attributes}")).ok(),
    }
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a [u8]> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value.as_bytes())
    })
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
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

/// xxHash64, as everywhere in this crate.
pub(crate) fn xx(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}
