//! What the waypoint answers by itself: the table of `waypoint-contract` 1.10,
//! and its translation for gRPC callers.

use std::borrow::Cow;
use std::fmt::Write;

use ambit_observe::ResponseFlag;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::body::DownBody;

/// Why a response came about, in the words of 6.3. None: nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Flag {
    NoRoute,
    NoCluster,
    NoHealthy,
    ConnectFailure,
    UpstreamClosed,
    UpstreamReset,
    UpstreamProtocol,
    Timeout,
    Overflow,
    RetriesExhausted,
    DownstreamProtocol,
    DownstreamClosed,
    ExtAuthz,
    DelayInjected,
    FaultInjected,
    RateLimited,
    Overload,
}

impl From<Flag> for ResponseFlag {
    fn from(flag: Flag) -> Self {
        match flag {
            Flag::NoRoute => Self::NoRoute,
            Flag::NoCluster => Self::NoCluster,
            Flag::NoHealthy => Self::NoHealthyUpstream,
            Flag::ConnectFailure => Self::UpstreamConnect,
            Flag::UpstreamClosed => Self::UpstreamClosed,
            Flag::UpstreamReset => Self::UpstreamReset,
            Flag::UpstreamProtocol => Self::UpstreamProtocol,
            Flag::Timeout => Self::UpstreamTimeout,
            Flag::Overflow => Self::UpstreamOverflow,
            Flag::RetriesExhausted => Self::RetryLimit,
            Flag::DownstreamProtocol => Self::DownstreamProtocol,
            Flag::DownstreamClosed => Self::DownstreamClosed,
            Flag::ExtAuthz => Self::ExtAuthz,
            Flag::DelayInjected => Self::DelayInjected,
            Flag::FaultInjected => Self::FaultInjected,
            Flag::RateLimited => Self::RateLimited,
            Flag::Overload => Self::Overload,
        }
    }
}

/// An answer of our own.
#[derive(Debug, Clone)]
pub(crate) struct LocalReply {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    pub(crate) flag: Option<Flag>,
    /// `response_code_details`: for logs, never for clients.
    pub(crate) details: Cow<'static, str>,
    pub(crate) headers: Box<HeaderMap>,
    /// Instead of the mapped one.
    pub(crate) grpc_status: Option<u32>,
    /// The connection isn't used again.
    pub(crate) close: bool,
    /// Somebody else's answer, passed on: not translated for gRPC.
    pub(crate) verbatim: bool,
}

impl LocalReply {
    pub(crate) fn new(
        status: StatusCode,
        body: impl Into<Bytes>,
        flag: impl Into<Option<Flag>>,
        details: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            body: body.into(),
            flag: flag.into(),
            details: details.into(),
            headers: Box::default(),
            grpc_status: None,
            close: false,
            verbatim: false,
        }
    }

    /// Routes exist and none matches.
    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "", Flag::NoRoute, "route_not_found")
    }

    /// A destination that there isn't: 500 for Gateway API, 503 for
    /// VirtualService.
    pub(crate) fn no_cluster(status: StatusCode) -> Self {
        Self::new(status, "", Flag::NoCluster, "cluster_not_found")
    }

    /// Nobody to send it to.
    pub(crate) fn no_healthy_upstream() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(
            status,
            "no healthy upstream",
            Flag::NoHealthy,
            "no_healthy_upstream",
        )
    }

    /// The answer of the family `upstream connect error or disconnect/reset`.
    pub(crate) fn upstream(flag: Flag, reason: &str, transport: Option<&str>) -> Self {
        let mut body = String::from("upstream connect error or disconnect/reset before headers. ");
        // Writing to a string doesn't fail.
        let _ = write!(body, "reset reason: {reason}");
        if let Some(transport) = transport {
            let _ = write!(body, ", transport failure reason: {transport}");
        }
        let mut details = String::from("upstream_reset_before_response_started{");
        details.extend(reason.chars().map(|c| if c == ' ' { '_' } else { c }));
        details.push('}');
        let mut reply = Self::new(StatusCode::SERVICE_UNAVAILABLE, body, flag, details);
        if flag == Flag::Overflow {
            let yes = HeaderValue::from_static("true");
            reply.headers.insert(OVERLOADED, yes);
        }
        reply
    }

    /// A limit of a circuit breaker.
    pub(crate) fn overflow() -> Self {
        Self::upstream(Flag::Overflow, "overflow", None)
    }

    /// The process holds too much memory.
    pub(crate) fn overloaded() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let mut reply = Self::new(status, "envoy overloaded", Flag::Overload, "overload");
        reply.close = true;
        reply
    }

    /// A timeout of the route or of a try.
    pub(crate) fn timeout() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream request timeout",
            Flag::Timeout,
            "response_timeout",
        )
    }

    /// The policy said no. The details name it; the body never does.
    pub(crate) fn denied(details: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "RBAC: access denied", None, details)
    }

    /// A request that breaks the protocol.
    pub(crate) fn bad_request(details: &'static str) -> Self {
        let mut reply = Self::new(
            StatusCode::BAD_REQUEST,
            "Bad Request",
            Flag::DownstreamProtocol,
            details,
        );
        reply.close = true;
        reply
    }

    /// More header bytes or fields than are taken.
    pub(crate) fn headers_too_large() -> Self {
        let mut reply = Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "",
            Flag::DownstreamProtocol,
            "request_headers_too_large",
        );
        reply.close = true;
        reply
    }

    /// More body than may be held.
    pub(crate) fn payload_too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Payload Too Large",
            None,
            "request_payload_too_large",
        )
    }

    /// HTTP/1.0.
    pub(crate) fn version_not_supported() -> Self {
        let mut reply = Self::new(
            StatusCode::UPGRADE_REQUIRED,
            "Upgrade Required",
            Flag::DownstreamProtocol,
            "low_version",
        );
        reply.close = true;
        reply
    }

    /// The response, as the caller understands it.
    pub(crate) fn into_response(self, grpc: bool) -> Response<DownBody> {
        if grpc && !self.verbatim {
            return self.into_grpc();
        }
        let mut response = Response::new(DownBody::full(self.body.clone()));
        *response.status_mut() = self.status;
        *response.headers_mut() = *self.headers;
        let headers = response.headers_mut();
        if !self.body.is_empty() && !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        if !headers.contains_key(CONTENT_LENGTH) {
            headers.insert(CONTENT_LENGTH, self.body.len().into());
        }
        response
    }

    /// Trailers only: HTTP 200 with the status in the head.
    fn into_grpc(self) -> Response<DownBody> {
        let status = self
            .grpc_status
            .unwrap_or_else(|| grpc_status(self.status.as_u16()));
        let mut response = Response::new(DownBody::Empty);
        *response.headers_mut() = *self.headers;
        let headers = response.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(status));
        if !self.body.is_empty()
            && let Ok(message) = HeaderValue::from_str(&percent_encode(&self.body))
        {
            headers.insert(GRPC_MESSAGE, message);
        }
        response
    }
}

/// Whether local answers to this request are gRPC's.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// The map of 1.10.
pub(crate) fn grpc_status(http: u16) -> u32 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// gRPC's message encoding: printable ASCII but for `%`.
fn percent_encode(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// Set when a limit was met.
pub(crate) const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
/// gRPC's status.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// gRPC's message.
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_callers_get_trailers_only() {
        let response = LocalReply::denied("x".into()).into_response(true);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[GRPC_STATUS], "7");
        assert_eq!(response.headers()[GRPC_MESSAGE], "RBAC: access denied");
        assert!(response.headers().get(CONTENT_LENGTH).is_none());
    }

    #[test]
    fn others_get_text_with_its_length() {
        let response = LocalReply::overflow().into_response(false);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[OVERLOADED], "true");
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain");
        let empty = LocalReply::no_route().into_response(false);
        assert_eq!(empty.headers()[CONTENT_LENGTH], "0");
        assert!(empty.headers().get(CONTENT_TYPE).is_none());
    }

    #[test]
    fn content_types_of_grpc() {
        for (value, want) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=1", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(is_grpc(&headers), want, "{value}");
        }
    }
}
