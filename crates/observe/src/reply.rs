//! Answers that the waypoint gives itself (`waypoint-contract` 1.10): status,
//! body, flag and details, and their gRPC form. One exhaustive table.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::flags::ResponseFlag;

/// Why the waypoint answers itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalReply {
    /// Routes exist, none matches.
    NoRoute,
    /// The route's backend doesn't exist: 500 (Gateway API) or 503 (VirtualService).
    NoCluster(u16),
    /// No endpoint is healthy.
    NoHealthyUpstream,
    /// No connection to the endpoint. The text is the transport's.
    ConnectFailure(String),
    /// The endpoint closed before its headers.
    UpstreamClosed,
    /// The endpoint reset the stream before its headers.
    UpstreamReset,
    /// The endpoint broke the protocol.
    UpstreamProtocol,
    /// A timeout of the route or of one try.
    Timeout,
    /// A circuit breaker.
    Overflow,
    /// The stream was idle for too long before headers.
    StreamIdle,
    /// An authorization policy; the text is its verdict, for logs only.
    Denied(String),
    /// A bad token: 401 or 403, its body, and details for logs.
    BadToken {
        /// 401 or 403.
        status: u16,
        /// The body.
        text: &'static str,
        /// For logs.
        details: String,
    },
    /// An authorization provider couldn't be asked: `statusOnError`.
    ExtAuthzError(u16),
    /// An injected abort.
    FaultAbort(u16),
    /// A rate limit.
    RateLimited,
    /// Headers beyond the limits.
    HeadersTooLarge,
    /// Syntax, host or path.
    BadRequest,
    /// A body that must be kept whole is too large.
    BodyTooLarge,
    /// An upgrade that isn't offered.
    UpgradeRefused,
    /// HTTP/1.0.
    UpgradeRequired,
    /// Load is shed.
    Overloaded,
    /// A configured direct response without route failure.
    Direct {
        /// Its status.
        status: u16,
        /// Its body.
        body: Cow<'static, str>,
    },
}

/// Starts the body of every failure of the upstream.
const UPSTREAM: &str = "upstream connect error or disconnect/reset before headers. reset reason: ";

impl LocalReply {
    /// The status of a request that isn't gRPC.
    pub fn status(&self) -> StatusCode {
        let number = match self {
            Self::NoRoute => 404,
            Self::NoCluster(status)
            | Self::ExtAuthzError(status)
            | Self::FaultAbort(status)
            | Self::BadToken { status, .. }
            | Self::Direct { status, .. } => *status,
            Self::NoHealthyUpstream
            | Self::ConnectFailure(_)
            | Self::UpstreamClosed
            | Self::UpstreamReset
            | Self::Overflow
            | Self::Overloaded => 503,
            Self::UpstreamProtocol => 502,
            Self::Timeout => 504,
            Self::StreamIdle => 408,
            Self::Denied(_) | Self::UpgradeRefused => 403,
            Self::RateLimited => 429,
            Self::HeadersTooLarge => 431,
            Self::BadRequest => 400,
            Self::BodyTooLarge => 413,
            Self::UpgradeRequired => 426,
        };
        StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The body, or the `grpc-message`. Verdicts and configuration stay out of it.
    pub fn body(&self) -> Cow<'_, str> {
        match self {
            Self::NoRoute
            | Self::NoCluster(_)
            | Self::HeadersTooLarge
            | Self::UpgradeRefused
            | Self::UpgradeRequired
            | Self::ExtAuthzError(_) => "".into(),
            Self::NoHealthyUpstream => "no healthy upstream".into(),
            Self::ConnectFailure(why) if why.is_empty() => {
                format!("{UPSTREAM}connection failure").into()
            }
            Self::ConnectFailure(why) => {
                format!("{UPSTREAM}connection failure, transport failure reason: {why}").into()
            }
            Self::UpstreamClosed => format!("{UPSTREAM}connection termination").into(),
            Self::UpstreamReset => format!("{UPSTREAM}remote reset").into(),
            Self::UpstreamProtocol => format!("{UPSTREAM}protocol error").into(),
            Self::Timeout => "upstream request timeout".into(),
            Self::Overflow => format!("{UPSTREAM}overflow").into(),
            Self::StreamIdle => "stream timeout".into(),
            Self::Denied(_) => "RBAC: access denied".into(),
            Self::BadToken { text, .. } => (*text).into(),
            Self::FaultAbort(_) => "fault filter abort".into(),
            Self::RateLimited => "local_rate_limited".into(),
            Self::BadRequest => "Bad Request".into(),
            Self::BodyTooLarge => "Payload Too Large".into(),
            Self::Overloaded => "envoy overloaded".into(),
            Self::Direct { body, .. } => Cow::Borrowed(body),
        }
    }

    /// The response flag.
    pub fn flag(&self) -> Option<ResponseFlag> {
        Some(match self {
            Self::NoRoute => ResponseFlag::NoRoute,
            Self::NoCluster(_) => ResponseFlag::NoCluster,
            Self::NoHealthyUpstream => ResponseFlag::NoHealthyUpstream,
            Self::ConnectFailure(_) => ResponseFlag::UpstreamConnect,
            Self::UpstreamClosed => ResponseFlag::UpstreamClosed,
            Self::UpstreamReset => ResponseFlag::UpstreamReset,
            Self::UpstreamProtocol => ResponseFlag::UpstreamProtocol,
            Self::Timeout => ResponseFlag::UpstreamTimeout,
            Self::Overflow => ResponseFlag::UpstreamOverflow,
            Self::StreamIdle => ResponseFlag::StreamIdle,
            Self::ExtAuthzError(_) => ResponseFlag::ExtAuthz,
            Self::FaultAbort(_) => ResponseFlag::FaultInjected,
            Self::RateLimited => ResponseFlag::RateLimited,
            Self::HeadersTooLarge | Self::BadRequest => ResponseFlag::DownstreamProtocol,
            Self::Overloaded => ResponseFlag::Overload,
            Self::Denied(_)
            | Self::BadToken { .. }
            | Self::BodyTooLarge
            | Self::UpgradeRefused
            | Self::UpgradeRequired
            | Self::Direct { .. } => return None,
        })
    }

    /// `response_code_details` of the access log.
    pub fn details(&self) -> Cow<'_, str> {
        match self {
            Self::NoRoute => "route_not_found".into(),
            Self::NoCluster(_) => "cluster_not_found".into(),
            Self::NoHealthyUpstream => "no_healthy_upstream".into(),
            Self::ConnectFailure(why) if why.is_empty() => {
                "upstream_reset_before_response_started{connection_failure}".into()
            }
            Self::ConnectFailure(why) => {
                let why = why.replace(char::is_whitespace, "_");
                format!("upstream_reset_before_response_started{{connection_failure|{why}}}").into()
            }
            Self::UpstreamClosed => {
                "upstream_reset_before_response_started{connection_termination}".into()
            }
            Self::UpstreamReset => "upstream_reset_before_response_started{remote_reset}".into(),
            Self::UpstreamProtocol => {
                "upstream_reset_before_response_started{protocol_error}".into()
            }
            Self::Timeout => "response_timeout".into(),
            Self::Overflow => "upstream_reset_before_response_started{overflow}".into(),
            Self::StreamIdle => "stream_idle_timeout".into(),
            Self::Denied(verdict) => Cow::Borrowed(verdict),
            Self::BadToken { details, .. } => Cow::Borrowed(details),
            Self::ExtAuthzError(_) => "ext_authz_error".into(),
            Self::FaultAbort(_) => "fault_filter_abort".into(),
            Self::RateLimited => "local_rate_limited".into(),
            Self::HeadersTooLarge => "request_headers_too_large".into(),
            Self::BadRequest => "http1.codec_error".into(),
            Self::BodyTooLarge => "request_payload_too_large".into(),
            Self::UpgradeRefused => "upgrade_failed".into(),
            Self::UpgradeRequired => "low_version".into(),
            Self::Overloaded => "overload".into(),
            Self::Direct { .. } => "direct_response".into(),
        }
    }

    /// Headers besides those of the body.
    pub fn headers(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Overflow => &[("x-envoy-overloaded", "true")],
            Self::RateLimited => &[("x-envoy-ratelimited", "true")],
            _ => &[],
        }
    }

    /// The whole answer. A gRPC request gets 200 with trailers in the headers;
    /// `rate_limited_as` is its grpc-status for a rate limit (14, or 8).
    pub fn respond(&self, grpc: bool, rate_limited_as: u8) -> http::Response<String> {
        let status = self.status();
        let body = self.body();
        let mut headers = HeaderMap::with_capacity(4);
        for (name, value) in self.headers() {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let mut response = http::Response::new(String::new());
        if grpc {
            let code = match self {
                Self::RateLimited => rate_limited_as,
                _ => grpc_status(status.as_u16()),
            };
            headers.insert(
                http::header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
            if !body.is_empty()
                && let Ok(message) = HeaderValue::from_str(&grpc_message(&body))
            {
                headers.insert("grpc-message", message);
            }
        } else {
            *response.status_mut() = status;
            headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            if !body.is_empty() {
                headers.insert(
                    http::header::CONTENT_TYPE,
                    HeaderValue::from_static("text/plain"),
                );
            }
            *response.body_mut() = body.into_owned();
        }
        *response.headers_mut() = headers;
        response
    }
}

/// The gRPC status for an HTTP status (1.10).
pub fn grpc_status(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Whether a request is gRPC: `application/grpc`, alone or with `+suffix`.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(http::header::CONTENT_TYPE);
    let Some(rest) = value.and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
    else {
        return false;
    };
    matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// Percent-encodes a `grpc-message`.
pub fn grpc_message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => out.push_str("%25"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
