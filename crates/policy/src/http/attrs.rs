//! What policies see of a request. Everything is borrowed.

use std::net::IpAddr;

use ambit_types::SpiffeId;
use http::HeaderMap;
use serde_json::{Map, Value};

/// A request, or a connection where [`http`](Self::http) is absent.
#[derive(Debug, Clone, Copy)]
pub struct HttpAttrs<'a> {
    /// Address of the TCP peer of the HBONE port (4.3, `ipBlocks`).
    pub source_ip: IpAddr,
    /// Address by the trusted part of `x-forwarded-for` or the PROXY protocol;
    /// absent: the peer's (4.3, `remoteIpBlocks`).
    pub remote_ip: Option<IpAddr>,
    /// The identity that the outer mutual TLS proved; none on plaintext.
    pub peer: Option<&'a SpiffeId>,
    /// The address that the client meant: the service's VIP or the pod's.
    pub destination_ip: IpAddr,
    /// The **service** port; the pod's for pod-addressed traffic (4.3, `ports`).
    pub destination_port: u16,
    /// Server name of a TLS connection that is passed through.
    pub sni: Option<&'a str>,
    /// The HTTP part; absent for TCP (4.6).
    pub http: Option<HttpRequest<'a>>,
}

/// The HTTP part of a request, before any rewrite.
#[derive(Debug, Clone, Copy)]
pub struct HttpRequest<'a> {
    /// As sent.
    pub method: &'a str,
    /// `Host` or `:authority` as sent, with its port.
    pub host: &'a str,
    /// Normalised; a query and a fragment are ignored here.
    pub path: &'a str,
    /// As sent.
    pub headers: &'a HeaderMap,
    /// Of a verified token. Absent without one, and always while CUSTOM
    /// policies are asked (1.11).
    pub auth: Option<RequestAuth<'a>>,
}

impl HttpRequest<'_> {
    /// What `paths` compare: neither query nor fragment (4.3, CVE-2021-32779).
    pub(crate) fn bare_path(&self) -> &str {
        let end = self.path.find(['?', '#']).unwrap_or(self.path.len());
        self.path.get(..end).unwrap_or(self.path)
    }
}

/// What a verified token says (4.9, `request.auth`).
#[derive(Debug, Clone, Copy)]
pub struct RequestAuth<'a> {
    /// Claim `iss`.
    pub issuer: &'a str,
    /// Claim `sub`; empty where the token has none.
    pub subject: &'a str,
    /// Every element of `aud`.
    pub audiences: &'a [String],
    /// Claim `azp`.
    pub presenter: Option<&'a str>,
    /// All claims; space-delimited ones are lists of strings already.
    pub claims: &'a Map<String, Value>,
}

impl RequestAuth<'_> {
    /// A claim by its path, one element a level.
    pub fn claim<S: AsRef<str>>(&self, path: &[S]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let first = self.claims.get(first.as_ref())?;
        rest.iter()
            .try_fold(first, |value, key| value.as_object()?.get(key.as_ref()))
    }
}
