//! `ambit.waypoint.v1.RateLimit`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_proto::waypoint as proto;
use http::HeaderName;
use proto::string_match::Kind;
use regex::{Regex, RegexBuilder};

use super::bucket::{Counters, Rate};
use super::{LimitRule, LimitTarget, RateLimit};

/// A rate limit that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRateLimit {
    /// A header's name.
    #[error("rules[{rule}].headers: {name:?} is no header name")]
    HeaderName {
        /// The rule.
        rule: usize,
        /// As written.
        name: Box<str>,
    },
    /// An expression.
    #[error("rules[{rule}]: an expression")]
    Regex {
        /// The rule.
        rule: usize,
        /// What is wrong with it.
        source: Box<regex::Error>,
    },
    /// A comparison without anything.
    #[error("rules[{rule}]: no comparison is set")]
    Nothing {
        /// The rule.
        rule: usize,
    },
    /// A bucket that would never fill.
    #[error("rules[{rule}]: tokens_per_fill and fill_interval_ms must not be 0")]
    NeverFills {
        /// The rule.
        rule: usize,
    },
    /// A port.
    #[error("targets: {port} is no port")]
    Port {
        /// As written.
        port: u32,
    },
}

/// How a text is compared.
#[derive(Debug)]
pub(super) struct Text {
    kind: Comparison,
    fold: bool,
}

#[derive(Debug)]
enum Comparison {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Regex(Regex),
    Presence,
}

impl Text {
    fn new(message: &proto::StringMatch, rule: usize) -> Result<Self, InvalidRateLimit> {
        let kind = match message.kind.as_ref() {
            Some(Kind::Exact(text)) => Comparison::Exact(text.as_str().into()),
            Some(Kind::Prefix(text)) => Comparison::Prefix(text.as_str().into()),
            Some(Kind::Suffix(text)) => Comparison::Suffix(text.as_str().into()),
            Some(Kind::Regex(text)) => RegexBuilder::new(&format!("^(?:{text})$"))
                .case_insensitive(message.ignore_case)
                .size_limit(MAX_REGEX_PROGRAM)
                .build()
                .map(Comparison::Regex)
                .map_err(|error| InvalidRateLimit::Regex {
                    rule,
                    source: Box::new(error),
                })?,
            Some(Kind::Presence(_)) => Comparison::Presence,
            None => return Err(InvalidRateLimit::Nothing { rule }),
        };
        Ok(Self {
            kind,
            fold: message.ignore_case,
        })
    }

    pub(super) fn matches(&self, value: &[u8]) -> bool {
        let same = |a: &[u8], b: &str| {
            if self.fold {
                a.eq_ignore_ascii_case(b.as_bytes())
            } else {
                a == b.as_bytes()
            }
        };
        match &self.kind {
            Comparison::Exact(text) => same(value, text),
            Comparison::Prefix(text) => {
                value.get(..text.len()).is_some_and(|head| same(head, text))
            }
            Comparison::Suffix(text) => value
                .len()
                .checked_sub(text.len())
                .and_then(|at| value.get(at..))
                .is_some_and(|tail| same(tail, text)),
            Comparison::Regex(regex) => {
                std::str::from_utf8(value).is_ok_and(|text| regex.is_match(text))
            }
            Comparison::Presence => !value.is_empty(),
        }
    }
}

impl RateLimit {
    /// Reads a resource named `name`; its buckets are full at `now`.
    ///
    /// # Errors
    /// The first field that can't be used.
    pub fn decode(
        name: &str,
        message: &proto::RateLimit,
        now: Instant,
    ) -> Result<Self, InvalidRateLimit> {
        let target = |target: &proto::Target| {
            Ok(LimitTarget {
                frontend: target.frontend.as_str().into(),
                route: target.route.as_str().into(),
                section: target.section.as_str().into(),
                port: u16::try_from(target.port)
                    .map_err(|_| InvalidRateLimit::Port { port: target.port })?,
            })
        };
        Ok(Self {
            name: name.into(),
            targets: message
                .targets
                .iter()
                .map(target)
                .collect::<Result<_, _>>()?,
            rules: message
                .rules
                .iter()
                .enumerate()
                .map(|(at, rule)| LimitRule::decode(at, rule, now))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl LimitRule {
    fn decode(
        at: usize,
        message: &proto::RateLimitRule,
        now: Instant,
    ) -> Result<Self, InvalidRateLimit> {
        let interval = Duration::from_millis(message.fill_interval_ms);
        if message.tokens_per_fill == 0 || interval.is_zero() {
            return Err(InvalidRateLimit::NeverFills { rule: at });
        }
        let header = |header: &proto::HeaderMatchLite| {
            let name = HeaderName::try_from(header.name.as_str()).map_err(|_| {
                InvalidRateLimit::HeaderName {
                    rule: at,
                    name: header.name.as_str().into(),
                }
            })?;
            match &header.value {
                Some(value) => Ok((name, Text::new(value, at)?)),
                None => Err(InvalidRateLimit::Nothing { rule: at }),
            }
        };
        Ok(Self {
            name: message.name.as_str().into(),
            principals: message
                .principals
                .iter()
                .map(|of| Text::new(of, at))
                .collect::<Result<_, _>>()?,
            headers: message
                .headers
                .iter()
                .map(header)
                .collect::<Result<_, _>>()?,
            rate: Rate {
                max: message.max_tokens,
                per_fill: message.tokens_per_fill,
                interval,
                smooth: message.smooth,
            },
            per_client: message.per_client,
            enforced_share: message.enforced_share,
            response_headers: message.response_headers,
            grpc_resource_exhausted: message.grpc_resource_exhausted,
            also_next: message.also_next,
            counters: Arc::new(Counters::new(now, message.per_client)),
        })
    }
}

const MAX_REGEX_PROGRAM: usize = 1 << 20;
