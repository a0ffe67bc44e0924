//! A request's head before anything is decided by it: limits, what smells of
//! smuggling, who it says it is for, and headers that no client may send
//! (`waypoint-contract` 1.5, 1.6, 7.2, 7.3).

use ambit_route::{Normalization, path};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use smallvec::SmallVec;

use super::reply::LocalReply;
use crate::config::Limits;

/// What a checked head says.
#[derive(Debug)]
pub(crate) struct Checked {
    /// Host with its port, as sent.
    pub(crate) authority: HeaderValue,
    /// Normalised path and query: what policy, routes and backend all see.
    pub(crate) target: PathAndQuery,
    /// The protocol of an `Upgrade` that asks for one.
    pub(crate) upgrade: Option<HeaderValue>,
    /// The client takes trailers.
    pub(crate) te_trailers: bool,
}

/// Checks a head and takes out of it what doesn't go further.
///
/// # Errors
/// The answer to a head that can't be used.
pub(crate) fn check(
    head: &mut Parts,
    limits: &Limits,
    mode: Normalization,
) -> Result<Checked, LocalReply> {
    if matches!(head.version, Version::HTTP_10 | Version::HTTP_09) {
        return Err(LocalReply::version_not_supported());
    }
    within_limits(&head.headers, limits)?;
    if head.method == Method::CONNECT {
        // What the client may have sent for the tunnel is no request.
        let mut reply = LocalReply::no_route();
        reply.close = true;
        return Err(reply);
    }
    if head.headers.contains_key(TRANSFER_ENCODING) && head.headers.contains_key(CONTENT_LENGTH) {
        return Err(LocalReply::bad_request(
            "content_length_and_transfer_encoding",
        ));
    }
    let authority = authority(head)?;
    let target = target(head, mode)?;
    let upgrade = upgrade(head);
    let te_trailers = lists(&head.headers, &TE, "trailers");
    sanitise(&mut head.headers, upgrade.is_some());
    if head.version == Version::HTTP_2 {
        join_cookies(&mut head.headers);
    }
    Ok(Checked {
        authority,
        target,
        upgrade,
        te_trailers,
    })
}

fn within_limits(headers: &HeaderMap, limits: &Limits) -> Result<(), LocalReply> {
    if headers.len() > limits.header_count {
        return Err(LocalReply::headers_too_large());
    }
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD)
        .sum();
    if bytes > usize::try_from(limits.header_bytes).unwrap_or(usize::MAX) {
        return Err(LocalReply::headers_too_large());
    }
    Ok(())
}

/// One authority, said once: `Host` and `:authority` that differ are two.
fn authority(head: &Parts) -> Result<HeaderValue, LocalReply> {
    let bad = || LocalReply::bad_request("invalid_authority");
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(LocalReply::bad_request("several_hosts"));
    }
    let from_uri = head.uri.authority();
    if let (Some(authority), Some(host)) = (from_uri, host)
        && head.version == Version::HTTP_2
        && authority.as_str().as_bytes() != host.as_bytes()
    {
        return Err(LocalReply::bad_request("host_is_not_authority"));
    }
    let value = match (from_uri, host) {
        (Some(authority), _) => HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?,
        (None, Some(host)) => host.clone(),
        (None, None) => return Err(LocalReply::bad_request("no_host")),
    };
    let parsed = Authority::try_from(value.as_bytes()).map_err(|_| bad())?;
    if parsed.as_str().contains('@') {
        return Err(bad());
    }
    Ok(value)
}

fn target(head: &Parts, mode: Normalization) -> Result<PathAndQuery, LocalReply> {
    let path = head.uri.path();
    if path == "*" && head.method == Method::OPTIONS {
        return Ok(PathAndQuery::from_static("*"));
    }
    if !path.starts_with('/') {
        return Err(LocalReply::bad_request("invalid_path"));
    }
    let Ok(normal) = path::normalize(path, mode) else {
        return Err(LocalReply::bad_request("path_normalization_failed"));
    };
    match head.uri.path_and_query() {
        Some(whole) if *normal == *path => Ok(whole.clone()),
        _ => {
            let text = match head.uri.query() {
                Some(query) => format!("{normal}?{query}"),
                None => normal.into_owned(),
            };
            PathAndQuery::try_from(text).map_err(|_| LocalReply::bad_request("invalid_path"))
        }
    }
}

fn upgrade(head: &Parts) -> Option<HeaderValue> {
    if head.version != Version::HTTP_11 {
        return None;
    }
    let protocol = head.headers.get(UPGRADE)?;
    if protocol.as_bytes().eq_ignore_ascii_case(b"h2c") {
        return None;
    }
    lists(&head.headers, &CONNECTION, "upgrade").then(|| protocol.clone())
}

/// Whether the guard lets go of a connection after this head (`guard`): unless
/// the answer is 101, nothing that follows may be taken for a request.
pub(crate) fn offers_upgrade(head: &Parts) -> bool {
    let lines = head.headers.get_all(UPGRADE);
    head.version == Version::HTTP_11
        && lines
            .iter()
            .any(|line| !line.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

/// Whether a list header has the token, in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|line| {
        line.to_str().is_ok_and(|line| {
            line.split(',')
                .any(|item| item.trim().eq_ignore_ascii_case(token))
        })
    })
}

/// Takes out what is for this hop only, what `Connection` lists, and what a
/// client may not say.
fn sanitise(headers: &mut HeaderMap, upgrading: bool) {
    let mut gone: SmallVec<[HeaderName; 8]> = SmallVec::new();
    for line in headers.get_all(CONNECTION) {
        let Ok(line) = line.to_str() else { continue };
        for item in line.split(',') {
            let item = item.trim();
            // RFC 9110, 7.6.1, but never what others base decisions on
            // (CVE-2022-31813).
            if let Ok(name) = HeaderName::from_bytes(item.as_bytes())
                && !protected(&name)
            {
                gone.push(name);
            }
        }
    }
    for name in headers.keys() {
        if drops(name, upgrading) {
            gone.push(name.clone());
        }
    }
    for name in gone {
        headers.remove(name);
    }
}

fn drops(name: &HeaderName, upgrading: bool) -> bool {
    let text = name.as_str();
    match text.as_bytes().first() {
        Some(b'x') => text.starts_with("x-envoy-") || text == XFCC || text == "x-istio-source",
        Some(b'c') => *name == CONNECTION,
        Some(b'k') => text == "keep-alive",
        Some(b'p') => text == "proxy-connection",
        Some(b't') => *name == TE || *name == TRANSFER_ENCODING,
        // Expectations are met here: the client is told to go on when its body
        // is first wanted.
        Some(b'e') => *name == EXPECT,
        Some(b'u') => *name == UPGRADE && !upgrading,
        Some(b'h') => text == "http2-settings",
        _ => false,
    }
}

fn protected(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("x-")
        || text.starts_with("sec-")
        || matches!(
            text,
            "host"
                | "authorization"
                | "cookie"
                | "forwarded"
                | "content-length"
                | "content-type"
                | "content-encoding"
                | "origin"
                | "upgrade"
                | "traceparent"
                | "tracestate"
                | "b3"
                | "baggage"
                | "grpc-timeout"
        )
}

/// HTTP/2 may send a cookie in crumbs; HTTP/1 backends expect one line
/// (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    let (Some(first), Some(_)) = (lines.next(), lines.next()) else {
        return;
    };
    let mut whole = first.as_bytes().to_vec();
    for line in headers.get_all(COOKIE).iter().skip(1) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(line.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(whole)) {
        headers.insert(COOKIE, value);
    }
}

/// Takes out of a response what is for its hop only, and what must not reach
/// clients.
pub(crate) fn sanitise_response(headers: &mut HeaderMap, upgraded: bool) {
    let mut gone: SmallVec<[HeaderName; 8]> = SmallVec::new();
    for line in headers.get_all(CONNECTION) {
        let Ok(line) = line.to_str() else { continue };
        let names = line.split(',').map(str::trim);
        let names = names.filter_map(|item| HeaderName::from_bytes(item.as_bytes()).ok());
        gone.extend(names.filter(|name| !protected(name)));
    }
    for name in headers.keys() {
        let text = name.as_str();
        let hop = match text.as_bytes().first() {
            Some(b'c') => *name == CONNECTION,
            Some(b'k') => text == "keep-alive",
            Some(b'p') => text == "proxy-connection",
            Some(b't') => *name == TRANSFER_ENCODING,
            Some(b'u') => *name == UPGRADE && !upgraded,
            Some(b'x') => text.starts_with("x-envoy-peer-metadata"),
            _ => false,
        };
        if hop {
            gone.push(name.clone());
        }
    }
    for name in gone {
        headers.remove(name);
    }
}

/// As HTTP/2 counts a field (RFC 9113, 6.5.2).
const FIELD_OVERHEAD: usize = 32;
/// The client's certificate, as an earlier proxy saw it.
pub(crate) const XFCC: &str = "x-forwarded-client-cert";

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    fn checked(request: http::request::Builder) -> Result<(Checked, Parts), u16> {
        let mut head = parts(request);
        let limits = Limits::default();
        match check(&mut head, &limits, Normalization::Base) {
            Ok(checked) => Ok((checked, head)),
            Err(reply) => Err(reply.status.as_u16()),
        }
    }

    #[test]
    fn what_smells_is_refused() {
        let get = || Request::builder().uri("/x");
        let cases = [
            ("no host", get(), 400),
            ("two hosts", get().header(HOST, "a").header(HOST, "a"), 400),
            (
                "lengths",
                get()
                    .header(HOST, "a")
                    .header(CONTENT_LENGTH, "3")
                    .header(TRANSFER_ENCODING, "chunked"),
                400,
            ),
            ("user", get().header(HOST, "u@a"), 400),
            (
                "http/1.0",
                get().version(Version::HTTP_10).header(HOST, "a"),
                426,
            ),
            (
                "two names",
                Request::builder()
                    .uri("http://a/x")
                    .version(Version::HTTP_2)
                    .header(HOST, "b"),
                400,
            ),
            ("path", Request::builder().uri("*").header(HOST, "a"), 400),
        ];
        for (name, request, want) in cases {
            assert_eq!(checked(request).map(drop), Err(want), "{name}");
        }
        let many = (0..101).fold(get().header(HOST, "a"), |request, n| {
            request.header("x-n", n.to_string())
        });
        assert_eq!(checked(many).map(drop), Err(431));
        let long = get()
            .header(HOST, "a")
            .header("x-long", "x".repeat(61 << 10));
        assert_eq!(checked(long).map(drop), Err(431));
    }

    #[test]
    fn connection_headers_stay_here_and_security_headers_stay() {
        let request = Request::builder()
            .uri("/x")
            .header(HOST, "a")
            .header(CONNECTION, "close, x-mine, x-forwarded-for, my-own")
            .header("my-own", "1")
            .header("x-forwarded-for", "10.0.0.1")
            .header("x-envoy-retry-on", "5xx")
            .header(XFCC, "By=me")
            .header("te", "trailers")
            .header("keep-alive", "5");
        let (checked, head) = checked(request).unwrap();
        let mut names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "x-forwarded-for"]);
        assert!(checked.te_trailers && checked.upgrade.is_none());
    }

    #[test]
    fn paths_are_normalised_once_for_all() {
        let of = |uri: &str| {
            let request = Request::builder().uri(uri).header(HOST, "a");
            checked(request).unwrap().0.target.to_string()
        };
        assert_eq!(of("/a/../b?x=/../y"), "/b?x=/../y");
        assert_eq!(of("/a"), "/a");
    }

    #[test]
    fn cookie_crumbs_become_one_line() {
        let request = Request::builder()
            .uri("http://a/x")
            .version(Version::HTTP_2)
            .header(COOKIE, "a=1")
            .header(COOKIE, "b=2");
        let (_, head) = checked(request).unwrap();
        assert_eq!(head.headers[COOKIE], "a=1; b=2");
    }
}
