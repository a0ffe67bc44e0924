//! What a source says when it opens a tunnel.

use ambit_types::wire;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::error::StreamError;

/// A CONNECT (`ztunnel-contract` 2.3).
#[derive(Debug, Clone, Default)]
pub struct ConnectRequest {
    /// `:authority`.
    pub authority: String,
    /// `baggage` of the source; empty leaves the header out.
    pub baggage: String,
    /// `forwarded`; empty leaves the header out.
    pub forwarded: String,
    /// `traceparent`; empty leaves the header out.
    pub traceparent: String,
}

impl ConnectRequest {
    /// # Errors
    /// A part that can't travel in a header.
    pub(crate) fn to_http(&self) -> Result<Request<()>, StreamError> {
        let uri = Uri::builder()
            .authority(self.authority.as_str())
            .build()
            .map_err(|_| StreamError::Header)?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri;
        *request.version_mut() = http::Version::HTTP_2;
        let headers = request.headers_mut();
        put(headers, wire::BAGGAGE, &self.baggage)?;
        put(headers, wire::FORWARDED, &self.forwarded)?;
        put(headers, wire::TRACEPARENT, &self.traceparent)?;
        Ok(request)
    }
}

/// Sets a header unless its value is empty.
pub(crate) fn put(
    headers: &mut HeaderMap,
    name: &'static str,
    value: &str,
) -> Result<(), StreamError> {
    if !value.is_empty() {
        let value = HeaderValue::from_str(value).map_err(|_| StreamError::Header)?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_method_and_authority_are_pseudo_headers() {
        let request = ConnectRequest {
            authority: "[fd00::7]:80".into(),
            traceparent: "t".into(),
            ..ConnectRequest::default()
        };
        let request = request.to_http().unwrap();
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(request.uri().authority().unwrap().as_str(), "[fd00::7]:80");
        assert!(request.uri().scheme().is_none() && request.uri().path().is_empty());
        let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["traceparent"], "empty headers stay out");
    }

    #[test]
    fn what_cannot_be_a_header_is_refused() {
        for (authority, baggage) in [("a b:1", ""), ("a:1", "x\ny")] {
            let request = ConnectRequest {
                authority: authority.into(),
                baggage: baggage.into(),
                ..ConnectRequest::default()
            };
            assert!(request.to_http().is_err());
        }
    }
}
