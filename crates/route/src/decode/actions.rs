//! What a rule does.

use std::time::Duration;

use ambit_proto::waypoint as proto;
use http::{HeaderName, HeaderValue, StatusCode};
use proto::path_change;

use super::matches::{decode_text, header_name, headers};
use super::{Decoded, In, Wrong, duration, invalid, list, port, status, under};
use crate::backend::{BackendRef, Mirror};
use crate::cors::{Cors, Listed, OriginPattern};
use crate::fault::{Abort, Fault};
use crate::headers::HeaderOps;
use crate::redirect::{Redirect, RedirectPort};
use crate::retry::{Retry, RetryOn};
use crate::rewrite::{PathChange, RegexChange, Rewrite};
use crate::session::{Carrier, SessionPersistence};
use crate::text::anywhere;

pub(super) fn header_ops(field: &str, message: Option<&proto::HeaderOps>) -> Decoded<HeaderOps> {
    let Some(message) = message else {
        return Ok(HeaderOps::default());
    };
    let mut out = HeaderOps::default();
    let pairs = |inner: &str, headers: &[proto::Header]| {
        list(inner, headers, |header| {
            Ok((
                header.name.to_ascii_lowercase(),
                header_value(header).within("value")?,
            ))
        })
    };
    for (name, value) in under(field, pairs("set", &message.set))? {
        match name.as_str() {
            "host" | ":authority" => out.authority = Some(value),
            name => out.set.push((header_name(name).within(field)?, value)),
        }
    }
    for (name, value) in under(field, pairs("add", &message.add))? {
        match name.as_str() {
            // `set` beats `add` (3.2).
            "host" | ":authority" => out.authority = out.authority.or(Some(value)),
            name => out.add.push((header_name(name).within(field)?, value)),
        }
    }
    for name in &message.remove {
        // Host can't be removed; the other pseudo-headers aren't headers.
        if !name.starts_with(':') && !name.eq_ignore_ascii_case("host") {
            out.remove.push(header_name(name).within(field)?);
        }
    }
    out.set.shrink_to_fit();
    out.add.shrink_to_fit();
    out.remove.shrink_to_fit();
    Ok(out)
}

fn header_value(header: &proto::Header) -> Result<HeaderValue, Wrong> {
    HeaderValue::try_from(&header.value).map_err(|_| Wrong::HeaderValue {
        name: header.name.as_str().into(),
    })
}

pub(super) fn backend(message: &proto::BackendRef) -> Decoded<BackendRef> {
    let nested = |field: &str, message: &Option<proto::Rewrite>| {
        message
            .as_ref()
            .map(|m| under(field, rewrite(m)).map(Box::new))
            .transpose()
    };
    Ok(BackendRef {
        service: message.service.as_str().into(),
        port: port(message.port).within("port")?,
        subset: message.subset.as_str().into(),
        weight: message.weight,
        request_headers: header_ops("request_headers", message.request_headers.as_ref())?,
        response_headers: header_ops("response_headers", message.response_headers.as_ref())?,
        rewrite: nested("rewrite", &message.rewrite)?,
        redirect: message
            .redirect
            .as_ref()
            .map(|m| under("redirect", redirect(m)).map(Box::new))
            .transpose()?,
        invalid: message
            .invalid
            .as_ref()
            .map(|m| under("invalid", invalid(m)))
            .transpose()?,
    })
}

pub(super) fn mirror(message: &proto::Mirror) -> Decoded<Mirror> {
    let Some(target) = &message.backend else {
        return Err(Wrong::Nothing).within("backend");
    };
    Ok(Mirror {
        backend: under("backend", backend(target))?,
        share: message.share,
    })
}

pub(super) fn redirect(message: &proto::Redirect) -> Decoded<Redirect> {
    use proto::RedirectPort as Wire;
    let text = |text: &str| (!text.is_empty()).then(|| text.into());
    Ok(Redirect {
        status: match message.status {
            0 => StatusCode::FOUND,
            code => status(code).within("status")?,
        },
        scheme: text(&message.scheme),
        hostname: text(&message.hostname),
        port: match Wire::try_from(message.port) {
            Ok(Wire::GatewayApi) => RedirectPort::GatewayApi,
            Ok(Wire::Explicit) => {
                RedirectPort::Explicit(port(message.port_number).within("port_number")?)
            }
            Ok(Wire::None) => RedirectPort::Keep,
            Ok(Wire::FromProtocol) => RedirectPort::FromProtocol,
            Ok(Wire::FromRequest) => RedirectPort::FromRequest,
            Err(_) => {
                return Err(Wrong::Unknown {
                    number: message.port,
                })
                .within("port");
            }
        },
        path: message
            .path
            .as_ref()
            .map(|m| under("path", path_change(m)))
            .transpose()?,
    })
}

pub(super) fn rewrite(message: &proto::Rewrite) -> Decoded<Rewrite> {
    Ok(Rewrite {
        hostname: match message.hostname.as_str() {
            "" => None,
            hostname => Some(
                HeaderValue::try_from(hostname)
                    .map_err(|_| Wrong::HeaderValue {
                        name: "host".into(),
                    })
                    .within("hostname")?,
            ),
        },
        path: message
            .path
            .as_ref()
            .map(|m| under("path", path_change(m)))
            .transpose()?,
    })
}

fn path_change(message: &proto::PathChange) -> Decoded<PathChange> {
    Ok(match message.kind.as_ref() {
        Some(path_change::Kind::Full(full)) => PathChange::Full(full.as_str().into()),
        Some(path_change::Kind::ElementPrefix(prefix)) => {
            PathChange::Element(prefix.as_str().into())
        }
        Some(path_change::Kind::TextPrefix(prefix)) => PathChange::Text(prefix.as_str().into()),
        Some(path_change::Kind::Regex(change)) => PathChange::Regex(RegexChange {
            pattern: anywhere(&change.pattern).within("regex.pattern")?,
            substitution: RegexChange::substitution(&change.substitution),
        }),
        None => return Err(Wrong::Nothing).within("kind"),
    })
}

pub(super) fn cors(message: &proto::Cors) -> Decoded<Cors> {
    let listed = |field: &str, names: &[String]| -> Decoded<Listed> {
        if names.is_empty() {
            return Ok(Listed::None);
        }
        if names.iter().any(|name| name == "*") {
            return Ok(Listed::All);
        }
        HeaderValue::try_from(names.join(", "))
            .map(Listed::These)
            .map_err(|_| Wrong::HeaderValue { name: field.into() })
            .within(field)
    };
    Ok(Cors {
        origins: message
            .origins
            .iter()
            .map(|origin| {
                OriginPattern::new(origin)
                    .ok_or_else(|| Wrong::Origin {
                        origin: origin.as_str().into(),
                    })
                    .within("origins")
            })
            .collect::<Decoded<_>>()?,
        origin_matches: message
            .origin_matches
            .iter()
            .map(|m| decode_text(m).within("origin_matches"))
            .collect::<Decoded<_>>()?,
        methods: listed("methods", &message.methods)?,
        headers: listed("headers", &message.headers)?,
        expose: listed("expose", &message.expose)?,
        credentials: message.credentials,
        max_age: message.max_age_ms.map(|ms| HeaderValue::from(ms / 1000)),
        forward_unmatched: message.forward_unmatched_preflights,
    })
}

pub(super) fn fault(message: &proto::Fault) -> Decoded<Fault> {
    let abort = match (message.abort_grpc_status, message.abort_status) {
        (Some(code), _) => Some(Abort::Grpc(grpc(code).within("abort_grpc_status")?)),
        (None, 0) => None,
        (None, code) => Some(Abort::Status(status(code).within("abort_status")?)),
    };
    Ok(Fault {
        delay_share: message.delay_share,
        delay: Duration::from_millis(message.delay_ms),
        abort_share: message.abort_share,
        abort,
    })
}

fn grpc(code: u32) -> Result<u16, Wrong> {
    u16::try_from(code).map_err(|_| Wrong::Status { status: code })
}

/// A retry policy; the gateway's default has the same message.
///
/// # Errors
/// The first field that can't be used.
pub fn decode_retry(message: &proto::Retry) -> Result<Retry, super::InvalidRoute> {
    let on = message.on.as_ref();
    let base = Duration::from_millis(match message.backoff_base_ms {
        // Linkerd waits not at all (8.1).
        0 if message.on_classified_failure => 0,
        0 => BACKOFF_BASE_MS,
        base => base,
    });
    let has = |token: fn(&proto::RetryOn) -> bool| on.is_some_and(token);
    Ok(Retry {
        attempts: message.attempts,
        per_try_timeout: duration(Some(message.per_try_timeout_ms)),
        on: RetryOn {
            status_5xx: has(|on| on.status_5xx),
            gateway_error: has(|on| on.gateway_error),
            reset: has(|on| on.reset),
            reset_before_request: has(|on| on.reset_before_request),
            connect_failure: has(|on| on.connect_failure),
            refused_stream: has(|on| on.refused_stream),
            retriable_4xx: has(|on| on.retriable_4xx),
            rate_limited: has(|on| on.rate_limited),
            response_headers: headers(
                "on.response_headers",
                on.map_or(&[][..], |on| &on.response_headers),
            )?,
            grpc: on
                .map_or(&[][..], |on| &on.grpc)
                .iter()
                .map(|code| grpc(*code).within("on.grpc"))
                .collect::<Decoded<_>>()?,
        },
        status_codes: message
            .status_codes
            .iter()
            .map(|code| status(*code).map(|s| s.as_u16()).within("status_codes"))
            .collect::<Decoded<_>>()?,
        backoff_base: base,
        backoff_max: match message.backoff_max_ms {
            0 => base.saturating_mul(10),
            max => Duration::from_millis(max),
        },
        avoid_previous_hosts: message.avoid_previous_hosts,
        remote_localities: message.remote_localities,
        on_per_try_timeout: message.on_per_try_timeout,
        on_classified_failure: message.on_classified_failure,
        body_limit: match message.body_limit {
            0 => BODY_LIMIT,
            limit => usize::try_from(limit).unwrap_or(BODY_LIMIT),
        },
        last_try_untimed: message.last_try_untimed,
    })
}

/// Session persistence; a backend's policy has the same message.
///
/// # Errors
/// The first field that can't be used.
pub fn session(
    message: &proto::SessionPersistence,
) -> Result<SessionPersistence, super::InvalidRoute> {
    let carrier = match (message.cookie.as_str(), message.header.as_str()) {
        ("", "") => return Err(Wrong::Nothing).within("cookie"),
        ("", header) => Carrier::Header(header_name(header).within("header")?),
        (cookie, _) => {
            HeaderName::try_from(cookie)
                .map_err(|_| Wrong::HeaderName {
                    name: cookie.into(),
                })
                .within("cookie")?;
            Carrier::Cookie {
                name: cookie.into(),
                path: match message.cookie_path.as_str() {
                    "" => "/".into(),
                    path => path.into(),
                },
                permanent: message.permanent,
            }
        }
    };
    Ok(SessionPersistence {
        carrier,
        absolute_timeout: duration(Some(message.absolute_timeout_ms)),
    })
}

/// 25 ms, and ten times that at most (3.3).
const BACKOFF_BASE_MS: u64 = 25;
/// One connection buffer (3.3).
const BODY_LIMIT: usize = 1 << 20;
