//! The operators of Envoy's command language that make sense here.

use std::net::SocketAddr;
use std::time::SystemTime;

use http::HeaderMap;

use crate::record::Record;

/// Why an operator can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOperator {
    /// No `%` after it.
    #[error("the operator {0:?} has no end")]
    Unclosed(String),
    /// Not known.
    #[error("%{0}% is not an operator that this proxy has")]
    Unknown(String),
    /// A time format with something that isn't known.
    #[error("START_TIME({0}): only %Y %m %d %H %M %S %3f %6f %9f %s %z %F %T are known")]
    Time(String),
}

/// What an operator says of a request.
pub(super) enum Said {
    Text(String),
    Number(u64),
}

impl Said {
    pub(super) fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }

    pub(super) fn json(self) -> serde_json::Value {
        match self {
            Self::Text(text) => text.into(),
            Self::Number(number) => number.into(),
        }
    }
}

/// Whose header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Request,
    Response,
    Trailers,
}

#[derive(Debug, Clone)]
pub(super) enum Operator {
    StartTime(Option<String>),
    Header {
        of: Of,
        name: String,
        or: Option<String>,
        limit: Option<usize>,
    },
    Plain(Plain),
}

macro_rules! plain {
    ($($name:ident = $text:literal,)+) => {
        #[derive(Debug, Clone, Copy)]
        pub(super) enum Plain { $($name,)+ }

        impl Plain {
            fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

plain! {
    Protocol = "PROTOCOL",
    ResponseCode = "RESPONSE_CODE",
    ResponseFlags = "RESPONSE_FLAGS",
    Details = "RESPONSE_CODE_DETAILS",
    Termination = "CONNECTION_TERMINATION_DETAILS",
    TransportFailure = "UPSTREAM_TRANSPORT_FAILURE_REASON",
    BytesReceived = "BYTES_RECEIVED",
    BytesSent = "BYTES_SENT",
    Duration = "DURATION",
    ResponseDuration = "RESPONSE_DURATION",
    UpstreamHost = "UPSTREAM_HOST",
    UpstreamRemote = "UPSTREAM_REMOTE_ADDRESS",
    UpstreamRemoteIp = "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    UpstreamCluster = "UPSTREAM_CLUSTER",
    UpstreamLocal = "UPSTREAM_LOCAL_ADDRESS",
    DownstreamLocal = "DOWNSTREAM_LOCAL_ADDRESS",
    DownstreamLocalIp = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    DownstreamLocalPort = "DOWNSTREAM_LOCAL_PORT",
    DownstreamRemote = "DOWNSTREAM_REMOTE_ADDRESS",
    DownstreamRemoteIp = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    DownstreamDirect = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    DownstreamPeer = "DOWNSTREAM_PEER_URI_SAN",
    ServerName = "REQUESTED_SERVER_NAME",
    RouteName = "ROUTE_NAME",
    GrpcStatus = "GRPC_STATUS",
    GrpcStatusNumber = "GRPC_STATUS_NUMBER",
    TraceId = "TRACE_ID",
}

/// Where an operator ends: the next `%` outside of parentheses.
pub(super) fn end(text: &str) -> Option<usize> {
    let mut depth = 0_u32;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '%' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

impl Operator {
    pub(super) fn parse(written: &str) -> Result<Self, InvalidOperator> {
        let unknown = || InvalidOperator::Unknown(written.to_owned());
        let Some((name, rest)) = written.split_once('(') else {
            return match written {
                "START_TIME" => Ok(Self::StartTime(None)),
                plain => Plain::parse(plain).map(Self::Plain).ok_or_else(unknown),
            };
        };
        let (argument, limit) = rest.rsplit_once(')').ok_or_else(unknown)?;
        let limit = match limit.strip_prefix(':') {
            Some(limit) => Some(limit.parse().map_err(|_| unknown())?),
            None if limit.is_empty() => None,
            None => return Err(unknown()),
        };
        let of = match name {
            "REQ" => Of::Request,
            "RESP" => Of::Response,
            "TRAILER" => Of::Trailers,
            "START_TIME" => {
                check_time(argument)?;
                return Ok(Self::StartTime(Some(argument.to_owned())));
            }
            "GRPC_STATUS" => return Ok(Self::Plain(Plain::GrpcStatus)),
            _ => return Err(unknown()),
        };
        let (name, or) = match argument.split_once('?') {
            Some((name, or)) => (name, Some(or.to_ascii_lowercase())),
            None => (argument, None),
        };
        if name.is_empty() {
            return Err(unknown());
        }
        Ok(Self::Header {
            of,
            name: name.to_ascii_lowercase(),
            or,
            limit,
        })
    }

    pub(super) fn of(&self, record: &Record<'_>) -> Option<Said> {
        match self {
            Self::StartTime(format) => Some(Said::Text(time(record.start, format.as_deref()))),
            Self::Header {
                of,
                name,
                or,
                limit,
            } => {
                let or = || header(*of, or.as_deref()?, record);
                let mut text = header(*of, name, record).or_else(or)?;
                if let Some(limit) = limit {
                    let end = text.char_indices().nth(*limit).map(|(at, _)| at);
                    text.truncate(end.unwrap_or(text.len()));
                }
                Some(Said::Text(text))
            }
            Self::Plain(plain) => plain.of(record),
        }
    }
}

fn header(of: Of, name: &str, record: &Record<'_>) -> Option<String> {
    let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let in_map = |headers: &HeaderMap| {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        (!values.is_empty()).then(|| values.join(","))
    };
    match (of, name) {
        (Of::Request, ":method") => filled(record.method),
        (Of::Request, ":path") => filled(record.path),
        (Of::Request, ":authority" | "host") => filled(record.authority),
        (Of::Request, _) => in_map(record.request_headers),
        (Of::Response, ":status") => (record.status != 0).then(|| record.status.to_string()),
        (Of::Response, "x-envoy-upstream-service-time") => record
            .upstream_service_time
            .map(|time| time.as_millis().to_string())
            .or_else(|| in_map(record.response_headers?)),
        (Of::Response, _) => in_map(record.response_headers?),
        (Of::Trailers, _) => in_map(record.response_trailers?),
    }
}

impl Plain {
    fn of(self, record: &Record<'_>) -> Option<Said> {
        let filled = |text: &str| (!text.is_empty()).then(|| Said::Text(text.to_owned()));
        let socket = |socket: Option<SocketAddr>| Some(Said::Text(socket?.to_string()));
        let ip = |socket: Option<SocketAddr>| Some(Said::Text(socket?.ip().to_string()));
        let millis = |time: std::time::Duration| {
            Said::Number(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        };
        match self {
            Self::Protocol => filled(record.version),
            Self::ResponseCode => Some(Said::Number(record.status.into())),
            Self::ResponseFlags => Some(Said::Text(record.flags.to_string())),
            Self::Details => filled(record.details),
            Self::Termination => filled(record.termination),
            Self::TransportFailure => filled(record.transport_failure),
            Self::BytesReceived => Some(Said::Number(record.bytes_received)),
            Self::BytesSent => Some(Said::Number(record.bytes_sent)),
            Self::Duration => Some(millis(record.duration)),
            Self::ResponseDuration => record.upstream_service_time.map(millis),
            Self::UpstreamHost | Self::UpstreamRemote => socket(record.upstream_host),
            Self::UpstreamRemoteIp => ip(record.upstream_host),
            Self::UpstreamCluster => filled(record.upstream_cluster),
            Self::UpstreamLocal => socket(record.upstream_local),
            Self::DownstreamLocal => socket(record.downstream_local),
            Self::DownstreamLocalIp => ip(record.downstream_local),
            Self::DownstreamLocalPort => Some(Said::Number(record.downstream_local?.port().into())),
            Self::DownstreamRemote | Self::DownstreamDirect => socket(record.downstream_remote),
            Self::DownstreamRemoteIp => ip(record.downstream_remote),
            Self::DownstreamPeer => Some(Said::Text(record.peer?.to_string())),
            Self::ServerName => record.sni.and_then(filled),
            Self::RouteName => filled(record.route),
            Self::GrpcStatus => Some(Said::Text(grpc_name(record.grpc_status?).to_owned())),
            Self::GrpcStatusNumber => Some(Said::Number(record.grpc_status?.into())),
            Self::TraceId => Some(Said::Text(record.trace_id?.to_string())),
        }
    }
}

fn grpc_name(status: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES
        .get(usize::from(status))
        .copied()
        .unwrap_or("InvalidCode")
}

/// `2026-11-21T12:00:00.000Z`, or by a format of a few fields.
fn time(at: SystemTime, format: Option<&str>) -> String {
    let written = humantime::format_rfc3339_nanos(at).to_string();
    let Some(format) = format else {
        return humantime::format_rfc3339_millis(at).to_string();
    };
    let part = |from: usize, to: usize| written.get(from..to).unwrap_or_default();
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let width = field_width(after);
        let (field, left) = after.split_at(width);
        match field {
            "Y" => text.push_str(part(0, 4)),
            "m" => text.push_str(part(5, 7)),
            "d" => text.push_str(part(8, 10)),
            "H" => text.push_str(part(11, 13)),
            "M" => text.push_str(part(14, 16)),
            "S" => text.push_str(part(17, 19)),
            "F" => text.push_str(part(0, 10)),
            "T" => text.push_str(part(11, 19)),
            "z" => text.push_str("+0000"),
            "3f" => text.push_str(part(20, 23)),
            "6f" => text.push_str(part(20, 26)),
            "9f" => text.push_str(part(20, 29)),
            "s" => {
                let since = at
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                text.push_str(&since.as_secs().to_string());
            }
            _ => {}
        }
        rest = left;
    }
    text.push_str(rest);
    text
}

/// Length of the field after a percent sign.
fn field_width(after: &str) -> usize {
    match after.as_bytes() {
        [b'3' | b'6' | b'9', b'f', ..] => 2,
        [first, ..] if first.is_ascii() => 1,
        _ => 0,
    }
}

fn check_time(format: &str) -> Result<(), InvalidOperator> {
    let mut fields = format.split('%').skip(1);
    let known = |after: &str| {
        let field = after.get(..field_width(after)).unwrap_or_default();
        let all = [
            "Y", "m", "d", "H", "M", "S", "F", "T", "z", "3f", "6f", "9f", "s",
        ];
        all.contains(&field)
    };
    if fields.all(known) {
        return Ok(());
    }
    Err(InvalidOperator::Time(format.to_owned()))
}
