//! The request as backends get it: header changes, rewrites, trace, and the
//! form that each version of HTTP wants.

use ambit_route::{MatchedPath, Rule};
use http::header::{CONNECTION, HOST, TE, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::body::UpBody;
use super::choose::Chosen;
use super::head::Checked;
use crate::dial::Version as Spoken;

/// A request without its body.
#[derive(Clone)]
pub(crate) struct Outbound {
    pub(crate) method: Method,
    pub(crate) target: PathAndQuery,
    pub(crate) authority: HeaderValue,
    pub(crate) headers: HeaderMap,
    /// A request took the headers with it.
    spent: bool,
}

impl Outbound {
    pub(crate) fn make(
        head: &Parts,
        checked: &Checked,
        rule: Option<&Rule>,
        chosen: &Chosen<'_>,
        matched: MatchedPath,
    ) -> Self {
        let mut headers = head.headers.clone();
        headers.remove(HOST);
        let mut authority = checked.authority.clone();
        let mut target = checked.target.clone();
        if checked.te_trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        if let Some(rule) = rule {
            for ops in rule.ops_in_order(chosen.backend) {
                ops.apply(&mut headers);
                if let Some(other) = &ops.authority {
                    authority = other.clone();
                }
            }
            let own = chosen
                .backend
                .and_then(|backend| backend.rewrite.as_deref());
            if let Some(rewrite) = own.or(rule.rewrite.as_deref()) {
                if let Some(hostname) = &rewrite.hostname {
                    authority = hostname.clone();
                }
                let path = checked.target.path();
                if let Some(other) = rewrite.apply(path, checked.target.query(), matched) {
                    if let Ok(original) = HeaderValue::from_str(checked.target.as_str()) {
                        headers.insert(ORIGINAL_PATH, original);
                    }
                    target = other;
                }
            }
        }
        Self {
            method: head.method.clone(),
            target,
            authority,
            headers,
            spent: false,
        }
    }

    /// Whether the headers went with a request: another one needs them anew.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent
    }

    /// The request for one attempt, which takes the headers with it; `None`
    /// where it makes no URI.
    pub(crate) fn request(
        &mut self,
        version: Spoken,
        tls: bool,
        body: UpBody,
    ) -> Option<Request<UpBody>> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = std::mem::take(&mut self.headers);
        self.spent = true;
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some(self.target.clone());
        match version {
            Spoken::Http1 => {
                let headers = request.headers_mut();
                headers.insert(HOST, self.authority.clone());
                if headers.contains_key(UPGRADE) {
                    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                }
            }
            Spoken::Http2 => {
                let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
                parts.scheme = Some(scheme);
                parts.authority = Some(Authority::try_from(self.authority.as_bytes()).ok()?);
                *request.version_mut() = Version::HTTP_2;
                request.headers_mut().remove(UPGRADE);
            }
        }
        *request.uri_mut() = Uri::from_parts(parts).ok()?;
        Some(request)
    }
}

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
