//! The attributes that expressions can ask for.

use http::HeaderMap;

use super::Value;
use crate::record::Record;

/// What an expression can ask of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// One without argument, by its place in the table.
    Plain(Plain),
    /// `request.headers['name']`.
    RequestHeader(String),
    /// `response.headers['name']`.
    ResponseHeader(String),
    /// `response.trailers['name']`.
    ResponseTrailer(String),
}

macro_rules! plain {
    ($($name:ident = $text:literal,)+) => {
        /// Attributes without argument.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Plain { $(#[doc = $text] $name,)+ }

        impl Plain {
            fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

plain! {
    RequestPath = "request.path",
    RequestUrlPath = "request.url_path",
    RequestQuery = "request.query",
    RequestHost = "request.host",
    RequestMethod = "request.method",
    RequestProtocol = "request.protocol",
    RequestId = "request.id",
    RequestUserAgent = "request.useragent",
    RequestReferer = "request.referer",
    RequestSize = "request.size",
    RequestDuration = "request.duration",
    ResponseCode = "response.code",
    ResponseCodeDetails = "response.code_details",
    ResponseFlags = "response.flags",
    ResponseGrpcStatus = "response.grpc_status",
    ResponseSize = "response.size",
    ConnectionMtls = "connection.mtls",
    ConnectionSni = "connection.requested_server_name",
    ConnectionPeer = "connection.uri_san_peer_certificate",
    ConnectionTermination = "connection.termination_details",
    SourceAddress = "source.address",
    SourcePort = "source.port",
    DestinationAddress = "destination.address",
    DestinationPort = "destination.port",
    UpstreamAddress = "upstream.address",
    UpstreamPort = "upstream.port",
    UpstreamTransportFailure = "upstream.transport_failure_reason",
    RouteName = "xds.route_name",
    ClusterName = "xds.cluster_name",
}

impl Attribute {
    /// Reads an attribute: its dotted name, and what stands in brackets.
    pub(super) fn parse(name: &str, index: Option<&str>) -> Option<Self> {
        let Some(index) = index else {
            return Plain::parse(name).map(Self::Plain);
        };
        let index = index.to_ascii_lowercase();
        match name {
            "request.headers" => Some(Self::RequestHeader(index)),
            "response.headers" => Some(Self::ResponseHeader(index)),
            "response.trailers" => Some(Self::ResponseTrailer(index)),
            _ => None,
        }
    }

    pub(super) fn of(&self, record: &Record<'_>) -> Value {
        let header = |headers: Option<&HeaderMap>, name: &str| {
            let values: Vec<_> = headers
                .into_iter()
                .flat_map(|headers| headers.get_all(name))
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect();
            if values.is_empty() {
                Value::Null
            } else {
                Value::Text(values.join(","))
            }
        };
        match self {
            Self::Plain(plain) => plain.of(record),
            Self::RequestHeader(name) => match name.as_str() {
                ":path" => text(record.path),
                ":method" => text(record.method),
                ":authority" => text(record.authority),
                name => header(Some(record.request_headers), name),
            },
            Self::ResponseHeader(name) => header(record.response_headers, name),
            Self::ResponseTrailer(name) => header(record.response_trailers, name),
        }
    }
}

impl Plain {
    fn of(self, record: &Record<'_>) -> Value {
        let (path, query) = record.path.split_once('?').unwrap_or((record.path, ""));
        let named = |name: &str| record.request_header(name).map_or(Value::Null, text);
        let ip = |socket: Option<std::net::SocketAddr>| {
            socket.map_or(Value::Null, |socket| Value::Text(socket.to_string()))
        };
        let port = |socket: Option<std::net::SocketAddr>| {
            socket.map_or(Value::Null, |socket| Value::Int(socket.port().into()))
        };
        match self {
            Self::RequestPath => text(record.path),
            Self::RequestUrlPath => text(path),
            Self::RequestQuery => text(query),
            Self::RequestHost => text(record.authority),
            Self::RequestMethod => text(record.method),
            Self::RequestProtocol => text(record.version),
            Self::RequestId => named("x-request-id"),
            Self::RequestUserAgent => named("user-agent"),
            Self::RequestReferer => named("referer"),
            Self::RequestSize => count(record.bytes_received),
            Self::RequestDuration => Value::Double(record.duration.as_secs_f64()),
            Self::ResponseCode => Value::Int(record.status.into()),
            Self::ResponseCodeDetails => text(record.details),
            Self::ResponseFlags => Value::Int(record.flags.bits().into()),
            Self::ResponseGrpcStatus => record
                .grpc_status
                .map_or(Value::Null, |status| Value::Int(status.into())),
            Self::ResponseSize => count(record.bytes_sent),
            Self::ConnectionMtls => Value::Bool(record.peer.is_some()),
            Self::ConnectionSni => record.sni.map_or(Value::Null, text),
            Self::ConnectionPeer => record
                .peer
                .map_or(Value::Null, |id| Value::Text(id.to_string())),
            Self::ConnectionTermination => text(record.termination),
            Self::SourceAddress => ip(record.downstream_remote),
            Self::SourcePort => port(record.downstream_remote),
            Self::DestinationAddress => ip(record.downstream_local),
            Self::DestinationPort => port(record.downstream_local),
            Self::UpstreamAddress => ip(record.upstream_host),
            Self::UpstreamPort => port(record.upstream_host),
            Self::UpstreamTransportFailure => text(record.transport_failure),
            Self::RouteName => text(record.route),
            Self::ClusterName => text(record.upstream_cluster),
        }
    }
}

fn text(text: &str) -> Value {
    if text.is_empty() {
        Value::Null
    } else {
        Value::Text(text.to_owned())
    }
}

fn count(count: u64) -> Value {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}
