//! How long a request may take (`waypoint-contract` 1.5, 2.6).

use std::time::Duration;

use http::HeaderMap;

/// The header in which gRPC clients say how long they wait.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The client's own bound; `None` when there is none, or it isn't one to eight
/// digits and a unit.
#[must_use]
pub fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// The bound of the whole transaction: the rule's, the client's, or the
/// smaller of both. A client's 0 is no bound.
#[must_use]
pub fn whole(rule: Option<Duration>, grpc: Option<Duration>) -> Option<Duration> {
    let grpc = grpc.filter(|timeout| !timeout.is_zero());
    match (rule, grpc) {
        (Some(rule), Some(grpc)) => Some(rule.min(grpc)),
        (rule, grpc) => rule.or(grpc),
    }
}
