//! What a VirtualService rule does with requests that it forwards: rewrite,
//! timeout, retries (3.2, 3.3).

use ambit_kube::{VsRetry, VsRewrite};
use ambit_proto::waypoint::path_change::Kind as Change;
use ambit_proto::waypoint::path_match::Kind as PathKind;
use ambit_proto::waypoint::{PathChange, RegexChange, Retry, Rewrite, Rule};

use super::content::refuse;
use crate::istio::say::{Fault, Say};
use crate::istio::values::is_regex;
use crate::istio::{codes, retry};

/// A rewrite; an error is why the rule can't be used.
pub(super) fn rewrite(
    say: &mut Say,
    written: &VsRewrite,
    path: &str,
    rule: &Rule,
) -> Result<Rewrite, String> {
    let field = format!("{path}.rewrite");
    if let Some(authority) = &written.authority
        && authority.chars().any(|c| c.is_control() || c == ' ')
    {
        let message = "it can't be a host";
        refuse(
            say,
            &format!("{field}.authority"),
            authority,
            message,
            "write host or host:port",
        );
        return Err(message.to_owned());
    }
    let change = match (&written.uri, &written.uri_regex_rewrite) {
        (Some(_), Some(_)) => {
            let message = "uri and uriRegexRewrite exclude each other";
            refuse(say, &field, "", message, "keep one of them");
            return Err(message.to_owned());
        }
        (Some(uri), None) => {
            let by_regex = rule.matches.iter().any(|entry| {
                let kind = entry.path.as_ref().and_then(|path| path.kind.as_ref());
                matches!(kind, Some(PathKind::Regex(_)))
            });
            if by_regex {
                say.warning(
                    codes::BAD_VALUE,
                    Fault {
                        field: &format!("{field}.uri"),
                        value: uri,
                        message: "a path that a regular expression matched is replaced as a whole",
                        remedy: "use uriRegexRewrite to keep parts of it",
                    },
                );
            }
            Some(Change::TextPrefix(uri.clone()))
        }
        (None, Some(regex)) => {
            if !is_regex(&regex.pattern) || regex.pattern.is_empty() {
                let message = "it isn't a regular expression of RE2";
                refuse(
                    say,
                    &format!("{field}.uriRegexRewrite.match"),
                    &regex.pattern,
                    message,
                    "write it without look-around and back references",
                );
                return Err(message.to_owned());
            }
            Some(Change::Regex(RegexChange {
                pattern: regex.pattern.clone(),
                substitution: regex.rewrite.clone(),
            }))
        }
        (None, None) => None,
    };
    Ok(Rewrite {
        hostname: written.authority.clone().unwrap_or_default(),
        path: change.map(|kind| PathChange { kind: Some(kind) }),
    })
}

/// A retry policy, of a rule or of the mesh; `hashed` where a destination is chosen by a hash,
/// so that another host isn't asked for unless the rule does.
pub(in crate::istio) fn retries(
    say: &mut Say,
    written: &VsRetry,
    field: &str,
    hashed: bool,
) -> Retry {
    let Ok(attempts) = u32::try_from(written.attempts) else {
        refuse(
            say,
            &format!("{field}.attempts"),
            &written.attempts.to_string(),
            "there can't be fewer than no retries, so nothing is retried",
            "write 0 or more",
        );
        return Retry::default();
    };
    if attempts == 0 {
        if written.per_try_timeout.is_some() || written.retry_on.is_some() {
            say.warning(
                codes::BAD_VALUE,
                Fault {
                    field: &format!("{field}.attempts"),
                    value: "0",
                    message: "without attempts there are no retries, and the rest of the policy means nothing",
                    remedy: "set attempts, or remove the rest",
                },
            );
        }
        return Retry::default();
    }
    let wanted = written.retry_on.as_deref().unwrap_or_default();
    let wanted = if wanted.trim().is_empty() {
        retry::DEFAULT_ON
    } else {
        wanted
    };
    let tokens = retry::tokens(wanted);
    for unknown in &tokens.unknown {
        say.error(
            codes::BAD_RETRY_ON,
            Fault {
                field: &format!("{field}.retryOn"),
                value: unknown,
                message: "nobody knows this condition, and it isn't looked at",
                remedy: "use words such as 5xx, connect-failure, unavailable, or a status",
            },
        );
    }
    if tokens.headers {
        say.warning(
            codes::BAD_RETRY_ON,
            Fault {
                field: &format!("{field}.retryOn"),
                value: "retriable-headers",
                message: "a VirtualService can't name the headers, so this never holds",
                remedy: "use statuses instead",
            },
        );
    }
    let base = written
        .backoff
        .map_or(0, ambit_kube::ProtoDuration::as_millis);
    let base = if base == 0 {
        retry::BACKOFF_BASE_MS
    } else {
        base
    };
    Retry {
        attempts,
        per_try_timeout_ms: written
            .per_try_timeout
            .map_or(0, ambit_kube::ProtoDuration::as_millis),
        on: Some(tokens.on),
        status_codes: tokens.codes,
        backoff_base_ms: base,
        backoff_max_ms: base.saturating_mul(retry::BACKOFF_FACTOR),
        avoid_previous_hosts: written.retry_ignore_previous_hosts.unwrap_or(!hashed),
        remote_localities: written.retry_remote_localities.unwrap_or_default(),
        ..Retry::default()
    }
}
