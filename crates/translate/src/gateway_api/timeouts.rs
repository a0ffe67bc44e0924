//! Timeouts and retries (`waypoint-contract` 2.6).

use ambit_proto::waypoint::{Retry, RetryOn};

use super::codes;
use super::duration::milliseconds;
use super::report::{Fault, Report};
use super::spec::{RetrySpec, TimeoutSpec};

/// What one rule says about time and repetition.
#[derive(Debug, Clone, Default)]
pub(super) struct Timing {
    /// The whole transaction.
    pub(super) timeout_ms: Option<u64>,
    /// None: the mesh's default holds.
    pub(super) retry: Option<Retry>,
}

/// Reads both, since a bound of one attempt is the retry's where there is one.
pub(super) fn read(
    report: &mut Report,
    field: &str,
    timeouts: Option<&TimeoutSpec>,
    retry: Option<&RetrySpec>,
) -> Timing {
    let at = |name: &str| format!("{field}.timeouts.{name}");
    let of = |name: &str, text: Option<&String>, report: &mut Report| {
        text.and_then(|text| duration(report, (&at(name), codes::BAD_TIMEOUT), text))
    };
    let request = of("request", timeouts.and_then(|t| t.request.as_ref()), report);
    let attempt = of(
        "backendRequest",
        timeouts.and_then(|t| t.backend_request.as_ref()),
        report,
    );
    if let (Some(request), Some(attempt)) = (request, attempt)
        && request > 0
        && attempt > request
    {
        report.unusable(
            "UnsupportedValue",
            codes::BAD_TIMEOUT,
            Fault {
                field: &at("backendRequest"),
                value: &format!("{attempt}ms"),
                message: "one attempt may last longer than the whole request",
                remedy: "make backendRequest at most as long as request",
            },
        );
    }
    let retry = retry.map(|spec| self::retry(report, &format!("{field}.retry"), spec, attempt));
    let timeout_ms = if retry.is_some() {
        request
    } else {
        shortest(request, attempt)
    };
    Timing { timeout_ms, retry }
}

/// Without retries an attempt is the whole; 0 is no bound.
fn shortest(request: Option<u64>, attempt: Option<u64>) -> Option<u64> {
    let bound = |time: Option<u64>| time.filter(|ms| *ms > 0);
    match (bound(request), bound(attempt)) {
        (Some(request), Some(attempt)) => Some(request.min(attempt)),
        (Some(bound), None) | (None, Some(bound)) => Some(bound),
        (None, None) => request.or(attempt),
    }
}

fn retry(report: &mut Report, field: &str, spec: &RetrySpec, attempt: Option<u64>) -> Retry {
    let mut status_codes = Vec::new();
    for (index, code) in spec.codes.iter().enumerate() {
        match u32::try_from(*code) {
            Ok(code) if (400..=599).contains(&code) => {
                if !status_codes.contains(&code) {
                    status_codes.push(code);
                }
            }
            _ => bad(
                report,
                &format!("{field}.codes[{index}]"),
                &code.to_string(),
                "list status codes from 400 to 599",
            ),
        }
    }
    let attempts = spec.attempts.unwrap_or(DEFAULT_ATTEMPTS);
    if !(1..=MOST_ATTEMPTS).contains(&attempts) {
        bad(
            report,
            &format!("{field}.attempts"),
            &attempts.to_string(),
            "write the number of retries after the first attempt, from 1 to 100",
        );
    }
    let backoff = spec.backoff.as_ref().and_then(|text| {
        duration(
            report,
            (&format!("{field}.backoff"), codes::BAD_RETRY),
            text,
        )
    });
    let base = backoff.unwrap_or(DEFAULT_BACKOFF);
    Retry {
        attempts: u32::try_from(attempts).unwrap_or_default(),
        per_try_timeout_ms: attempt.unwrap_or_default(),
        on: Some(RetryOn {
            // GEP-1731: disconnects, resets, failures to connect.
            reset: true,
            connect_failure: true,
            refused_stream: true,
            // UNAVAILABLE and CANCELLED, as in upstream's list.
            grpc: vec![14, 1],
            ..RetryOn::default()
        }),
        status_codes,
        backoff_base_ms: base,
        backoff_max_ms: base.saturating_mul(10),
        avoid_previous_hosts: true,
        on_per_try_timeout: true,
        ..Retry::default()
    }
}

/// A duration, or nothing and a report that the rule can't be used.
pub(super) fn duration(
    report: &mut Report,
    (field, code): (&str, ambit_kube::Code),
    text: &str,
) -> Option<u64> {
    let read = milliseconds(text);
    if read.is_none() {
        report.unusable(
            "UnsupportedValue",
            code,
            Fault {
                field,
                value: text,
                message: "this isn't a duration of Gateway API (GEP-2257)",
                remedy: "write for example 500ms, 10s or 1h30m: whole numbers of at most five \
                         digits, with units h, m, s, ms",
            },
        );
    }
    read
}

fn bad(report: &mut Report, field: &str, value: &str, remedy: &str) {
    report.unusable(
        "UnsupportedValue",
        codes::BAD_RETRY,
        Fault {
            field,
            value,
            message: "the retry can't be done so",
            remedy,
        },
    );
}

/// Where the stanza doesn't say (2.6).
const DEFAULT_ATTEMPTS: i64 = 2;
/// More would be a flood, not a retry.
const MOST_ATTEMPTS: i64 = 100;
/// Milliseconds (5.1).
const DEFAULT_BACKOFF: u64 = 25;
