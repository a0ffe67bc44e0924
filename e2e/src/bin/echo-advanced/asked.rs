//! What was asked of a server, in the lines that the suite reads: `Key=value`.

use std::fmt::Write as _;
use std::net::SocketAddr;

use hyper::Version;
use hyper::header::HOST;
use hyper::http::request::Parts;

/// Where a request arrived.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The pod's name: the suite compares its beginning with a Deployment's.
    pub(crate) hostname: String,
    /// `VERSION` of the environment, mostly empty.
    pub(crate) version: String,
    pub(crate) port: u16,
    pub(crate) peer: SocketAddr,
    /// What TLS agreed on, if it is TLS.
    pub(crate) alpn: Option<&'static str>,
}

impl Place {
    /// A line for each thing that is known of a request.
    pub(crate) fn lines(&self, request: &Parts) -> String {
        let host = request.headers.get(HOST).and_then(|h| h.to_str().ok());
        let authority = request.uri.authority().map(|a| a.as_str());
        let url = request.uri.path_and_query().map(|path| path.as_str());
        let proto = match request.version {
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        };
        let mut text = String::new();
        let mut line = |key: &str, value: &str| {
            // Writing to a String never fails.
            let _ = writeln!(text, "{key}={value}");
        };
        line("ServiceVersion", &self.version);
        line("ServicePort", &self.port.to_string());
        line("Host", authority.or(host).unwrap_or_default());
        line("URL", url.unwrap_or_default());
        line("Method", request.method.as_str());
        line("Proto", proto);
        line("IP", &self.peer.ip().to_string());
        if let Some(alpn) = self.alpn {
            line("Alpn", alpn);
        }
        for (name, value) in &request.headers {
            if name != HOST {
                let value = String::from_utf8_lossy(value.as_bytes());
                let name = canonical(name.as_str());
                line("RequestHeader", &format!("{name}:{value}"));
            }
        }
        line("Hostname", &self.hostname);
        text
    }
}

/// A header's name as the suite writes it: `X-Header-Set`.
pub(crate) fn canonical(name: &str) -> String {
    let mut first = true;
    name.chars()
        .map(|c| {
            let upper = std::mem::replace(&mut first, c == '-');
            if upper { c.to_ascii_uppercase() } else { c }
        })
        .collect()
}
