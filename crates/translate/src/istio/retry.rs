//! Retry policies as Istio writes them (`waypoint-contract` 3.3 and 5.2).
//!
//! Owns the tokens of `retryOn` and the policy that holds where nothing is
//! said. When a retry is made is the proxy's business.

use ambit_proto::waypoint::{Retry, RetryOn};

/// What is retried where nothing else is said (3.3).
pub(crate) const DEFAULT_ON: &str = "connect-failure,refused-stream,unavailable,cancelled";
/// Retries after the first attempt, where nothing else is said (3.3).
pub(crate) const DEFAULT_ATTEMPTS: u32 = 2;
/// The base of the backoff, in milliseconds (3.3).
pub(crate) const BACKOFF_BASE_MS: u64 = 25;
/// The bound of the backoff, as a multiple of its base (3.3).
pub(crate) const BACKOFF_FACTOR: u64 = 10;

/// The tokens of a `retryOn`, with those that nobody knows.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tokens<'a> {
    pub(crate) on: RetryOn,
    pub(crate) codes: Vec<u32>,
    pub(crate) unknown: Vec<&'a str>,
    /// `retriable-headers`: names come with requests of Envoy's own clients only.
    pub(crate) headers: bool,
}

/// Reads a comma list of 5.2's tokens and status codes.
pub(crate) fn tokens(text: &str) -> Tokens<'_> {
    let mut read = Tokens::default();
    for token in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        let on = &mut read.on;
        match token {
            "5xx" => on.status_5xx = true,
            "gateway-error" => on.gateway_error = true,
            "reset" => on.reset = true,
            "reset-before-request" => on.reset_before_request = true,
            "connect-failure" => on.connect_failure = true,
            "refused-stream" => on.refused_stream = true,
            "retriable-4xx" => on.retriable_4xx = true,
            "envoy-ratelimited" => on.rate_limited = true,
            "http3-post-connect-failure" => on.http3_post_connect_failure = true,
            // The codes are tokens of their own.
            "retriable-status-codes" => {}
            "retriable-headers" => read.headers = true,
            "cancelled" => grpc(on, 1),
            "deadline-exceeded" => grpc(on, 4),
            "resource-exhausted" => grpc(on, 8),
            "internal" => grpc(on, 13),
            "unavailable" => grpc(on, 14),
            _ => match token.parse::<u32>() {
                Ok(code @ 100..=599) => {
                    if !read.codes.contains(&code) {
                        read.codes.push(code);
                    }
                }
                _ => read.unknown.push(token),
            },
        }
    }
    read
}

fn grpc(on: &mut RetryOn, code: u32) {
    if !on.grpc.contains(&code) {
        on.grpc.push(code);
    }
}

/// The policy where nothing else is said.
pub(crate) fn default_policy() -> Retry {
    Retry {
        attempts: DEFAULT_ATTEMPTS,
        on: Some(tokens(DEFAULT_ON).on),
        backoff_base_ms: BACKOFF_BASE_MS,
        backoff_max_ms: BACKOFF_BASE_MS * BACKOFF_FACTOR,
        avoid_previous_hosts: true,
        ..Retry::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_and_codes() {
        let read = tokens(
            "5xx, gateway-error,reset,503,503,retriable-4xx,cancelled,bogus,42,retriable-headers",
        );
        assert!(read.on.status_5xx && read.on.gateway_error && read.on.reset);
        assert!(read.on.retriable_4xx && read.headers);
        assert_eq!(read.codes, [503]);
        assert_eq!(read.on.grpc, [1]);
        assert_eq!(read.unknown, ["bogus", "42"]);
    }

    #[test]
    fn default_is_the_contracts() {
        let policy = default_policy();
        let on = policy.on.unwrap();
        assert_eq!(policy.attempts, 2);
        assert!(on.connect_failure && on.refused_stream && !on.status_5xx);
        assert_eq!(on.grpc, [14, 1]);
        assert_eq!((policy.backoff_base_ms, policy.backoff_max_ms), (25, 250));
    }
}
