//! What holds for the waypoint as a whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_observe::{InvalidTelemetry, Telemetry};
use ambit_proto::waypoint as pb;
use ambit_route::{
    InvalidPattern, InvalidRoute, Normalization, Pattern, Retry, RetryOn, decode_retry, decode_text,
};
use http::HeaderValue;

/// A decoded `ambit.waypoint.v1.Gateway`.
pub(crate) struct Gateway {
    /// It has arrived: without it the waypoint isn't ready.
    pub(crate) known: bool,
    pub(crate) message: Arc<pb::Gateway>,
    pub(crate) normalization: Normalization,
    pub(crate) default_retry: Arc<Retry>,
    pub(crate) connect_timeout: Duration,
    pub(crate) detection: Duration,
    pub(crate) server: ServerHeader,
    pub(crate) limits: Limits,
    /// The mesh's trust domain and its aliases.
    pub(crate) trust_domains: Arc<[Arc<str>]>,
    pub(crate) serves_services: bool,
    pub(crate) serves_workloads: bool,
    pub(crate) trusted_proxies: usize,
    pub(crate) providers: HashMap<Box<str>, Arc<Provider>>,
    pub(crate) telemetry: Arc<Telemetry>,
}

/// Header `server` of responses.
#[derive(Debug, Clone)]
pub(crate) enum ServerHeader {
    Overwrite(HeaderValue),
    PassThrough,
}

/// Bounds of 7.2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) header_bytes: u32,
    pub(crate) header_count: usize,
    pub(crate) max_streams: u32,
    pub(crate) header_timeout: Duration,
    pub(crate) connection_idle: Option<Duration>,
    pub(crate) max_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self::decode(&pb::Limits::default())
    }
}

impl Limits {
    fn decode(message: &pb::Limits) -> Self {
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        let millis = |value: u64, default: Duration| match value {
            0 => default,
            millis => Duration::from_millis(millis),
        };
        let count = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        Self {
            header_bytes: or(message.header_bytes, 60 << 10),
            header_count: count(or(message.header_count, 100)),
            max_streams: or(message.max_streams, 100),
            header_timeout: millis(message.header_timeout_ms, Duration::from_secs(60)),
            connection_idle: Some(millis(
                message.connection_idle_ms,
                Duration::from_secs(3600),
            )),
            max_connections: count(or(message.max_connections, 65_536)),
        }
    }
}

/// Who decides for CUSTOM.
pub(crate) struct Provider {
    pub(crate) message: pb::AuthorizationProvider,
    pub(crate) timeout: Duration,
    pub(crate) kind: ProviderKind,
    /// Header lists of a provider over HTTP.
    pub(crate) lists: HeaderLists,
}

/// Which headers go where, by their names.
#[derive(Default)]
pub(crate) struct HeaderLists {
    pub(crate) to_provider: Vec<Pattern>,
    pub(crate) to_upstream: Vec<Pattern>,
    pub(crate) to_client_on_allow: Vec<Pattern>,
    pub(crate) to_client_on_deny: Vec<Pattern>,
}

impl HeaderLists {
    fn decode(message: &pb::HttpProvider) -> Result<Self, InvalidPattern> {
        let all = |list: &[pb::StringMatch]| {
            // Names have no case.
            let patterns = list.iter().map(|one| pb::StringMatch {
                ignore_case: true,
                ..one.clone()
            });
            patterns
                .map(|one| decode_text(&one))
                .collect::<Result<_, _>>()
        };
        Ok(Self {
            to_provider: all(&message.request_headers)?,
            to_upstream: all(&message.headers_to_upstream)?,
            to_client_on_allow: all(&message.headers_to_downstream_on_allow)?,
            to_client_on_deny: all(&message.headers_to_downstream_on_deny)?,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProviderKind {
    Http,
    Grpc,
    Invalid,
}

impl Provider {
    fn decode(message: &pb::AuthorizationProvider) -> Result<Self, InvalidGateway> {
        use pb::authorization_provider::Kind;
        let lists = match &message.kind {
            Some(Kind::Http(http)) => HeaderLists::decode(http),
            _ => Ok(HeaderLists::default()),
        };
        let lists = lists.map_err(|source| InvalidGateway::Provider {
            name: message.name.clone(),
            source,
        })?;
        Ok(Self {
            // Upstream's 600 s amounts to no bound: ten seconds, and say so.
            timeout: Duration::from_millis(match message.timeout_ms {
                0 => 10_000,
                millis => millis,
            }),
            kind: match &message.kind {
                Some(Kind::Http(_)) => ProviderKind::Http,
                Some(Kind::Grpc(_)) => ProviderKind::Grpc,
                Some(Kind::Invalid(_)) | None => ProviderKind::Invalid,
            },
            lists,
            message: message.clone(),
        })
    }
}

/// Why a gateway can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidGateway {
    #[error("default_retry: {0}")]
    Retry(#[from] InvalidRoute),
    #[error("telemetry: {0}")]
    Telemetry(#[from] InvalidTelemetry),
    #[error("authorization_providers {name:?}: header list: {source}")]
    Provider {
        name: String,
        source: InvalidPattern,
    },
    #[error("server_header {0:?} is no header value")]
    Server(String),
}

impl Gateway {
    pub(crate) fn decode(message: pb::Gateway) -> Result<Self, InvalidGateway> {
        use pb::TrafficType::{All, Service, Workload};
        let default_retry = match &message.default_retry {
            Some(retry) => decode_retry(retry)?,
            None => default_retry(),
        };
        let server = match message.server_header.as_str() {
            "" => ServerHeader::Overwrite(HeaderValue::from_static("istio-envoy")),
            "-" => ServerHeader::PassThrough,
            text => ServerHeader::Overwrite(
                HeaderValue::from_str(text).map_err(|_| InvalidGateway::Server(text.to_owned()))?,
            ),
        };
        let telemetry = match &message.telemetry {
            Some(telemetry) => Telemetry::decode(telemetry)?,
            None => Telemetry::default(),
        };
        let traffic = message.traffic();
        let providers = message.authorization_providers.iter();
        let providers = providers
            .map(|one| Ok((one.name.as_str().into(), Arc::new(Provider::decode(one)?))))
            .collect::<Result<_, InvalidGateway>>()?;
        let connect = match message.connect_timeout_ms {
            0 => 10_000,
            millis => millis,
        };
        Ok(Self {
            known: true,
            normalization: normalization(message.path_normalization()),
            default_retry: Arc::new(default_retry),
            connect_timeout: Duration::from_millis(connect),
            detection: Duration::from_millis(message.protocol_detection_ms.unwrap_or(200)),
            server,
            limits: Limits::decode(&message.limits.unwrap_or_default()),
            trust_domains: trust_domains(&message),
            serves_services: matches!(traffic, Service | All),
            serves_workloads: matches!(traffic, Workload | All),
            trusted_proxies: usize::try_from(message.trusted_proxies).unwrap_or(0),
            providers,
            telemetry: Arc::new(telemetry),
            message: Arc::new(message),
        })
    }
}

fn trust_domains(message: &pb::Gateway) -> Arc<[Arc<str>]> {
    let own = std::iter::once(&message.trust_domain);
    let all = own.chain(&message.trust_domain_aliases);
    let said = all.filter(|domain| !domain.is_empty());
    said.map(|domain| Arc::from(domain.as_str())).collect()
}

fn normalization(mode: pb::PathNormalization) -> Normalization {
    match mode {
        pb::PathNormalization::Base => Normalization::Base,
        pb::PathNormalization::None => Normalization::None,
        pb::PathNormalization::MergeSlashes => Normalization::MergeSlashes,
        pb::PathNormalization::DecodeAndMergeSlashes => Normalization::DecodeAndMergeSlashes,
    }
}

/// 3.3, where the mesh says nothing else.
fn default_retry() -> Retry {
    Retry {
        attempts: 2,
        on: RetryOn {
            connect_failure: true,
            refused_stream: true,
            grpc: vec![14, 1],
            ..RetryOn::default()
        },
        backoff_base: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
        avoid_previous_hosts: true,
        body_limit: 1 << 20,
        ..Retry::default()
    }
}

impl Default for Gateway {
    /// Before the control plane has spoken: nothing is served.
    fn default() -> Self {
        Self {
            known: false,
            message: Arc::default(),
            normalization: Normalization::Base,
            default_retry: Arc::new(default_retry()),
            connect_timeout: Duration::from_secs(10),
            detection: Duration::from_millis(200),
            server: ServerHeader::PassThrough,
            limits: Limits::default(),
            trust_domains: Arc::default(),
            serves_services: false,
            serves_workloads: false,
            trusted_proxies: 0,
            providers: HashMap::new(),
            telemetry: Arc::default(),
        }
    }
}
