//! What is known of one request when it has ended. Everything is borrowed: it is
//! looked at by metrics, access log, spans and recorder, and then gone.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use ambit_types::SpiffeId;
use http::HeaderMap;

use crate::flags::ResponseFlags;
use crate::metrics::Ends;

/// What a request or connection spoke, as the label `request_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestProtocol {
    /// HTTP of any version.
    Http,
    /// gRPC.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

impl RequestProtocol {
    /// The label's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// One request (or one TCP connection) that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// When its headers were there.
    pub start: SystemTime,
    /// From then to the last byte of the answer.
    pub duration: Duration,
    /// What it spoke.
    pub protocol: RequestProtocol,
    /// `HTTP/1.1` or `HTTP/2`; empty for TCP.
    pub version: &'a str,
    /// Empty for TCP.
    pub method: &'a str,
    /// As the client sent it, with its query.
    pub path: &'a str,
    /// `Host` or `:authority`.
    pub authority: &'a str,
    /// Of the client's request.
    pub request_headers: &'a HeaderMap,
    /// Of the answer, if there was one.
    pub response_headers: Option<&'a HeaderMap>,
    /// Of the answer, if there were any.
    pub response_trailers: Option<&'a HeaderMap>,
    /// 0 if there was no answer.
    pub status: u16,
    /// `grpc-status` of the answer.
    pub grpc_status: Option<u16>,
    /// Flags.
    pub flags: ResponseFlags,
    /// `response_code_details`; empty: unknown.
    pub details: &'a str,
    /// `connection_termination_details`; empty: none.
    pub termination: &'a str,
    /// `upstream_transport_failure_reason`; empty: none.
    pub transport_failure: &'a str,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// gRPC messages from the client.
    pub request_messages: u64,
    /// gRPC messages to the client.
    pub response_messages: u64,
    /// From the whole request to the upstream's headers.
    pub upstream_service_time: Option<Duration>,
    /// The endpoint.
    pub upstream_host: Option<SocketAddr>,
    /// The backend's name.
    pub upstream_cluster: &'a str,
    /// Our end towards it.
    pub upstream_local: Option<SocketAddr>,
    /// What the client dialled.
    pub downstream_local: Option<SocketAddr>,
    /// The client.
    pub downstream_remote: Option<SocketAddr>,
    /// The client's verified identity.
    pub peer: Option<&'a SpiffeId>,
    /// Server name of TLS.
    pub sni: Option<&'a str>,
    /// Route and rule; empty: none.
    pub route: &'a str,
    /// Who talks to whom, for metrics.
    pub ends: &'a Ends,
    /// The trace, where there is one.
    pub trace_id: Option<crate::TraceId>,
}

impl Record<'_> {
    /// A request header as text.
    pub fn request_header(&self, name: &str) -> Option<&str> {
        self.request_headers.get(name)?.to_str().ok()
    }

    /// The path that the client sent, before rewrites.
    pub fn original_path(&self) -> &str {
        self.request_header("x-envoy-original-path")
            .unwrap_or(self.path)
    }
}
