//! The parts of the configuration: types that can hold no wrong value.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// `PROXY_MODE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One proxy for the pods of a node.
    Shared,
    /// One proxy for one workload: not built yet.
    Dedicated,
}

/// Who and where this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `NODE_NAME`; unset makes every workload local.
    pub name: Option<String>,
    /// `NETWORK`.
    pub network: String,
    /// `ISTIO_META_CLUSTER_ID`, else `CLUSTER_ID`.
    pub cluster_id: String,
    /// `CLUSTER_DOMAIN`.
    pub cluster_domain: String,
    /// `TRUST_DOMAIN`.
    pub trust_domain: String,
    /// `INSTANCE_IP`.
    pub instance_ip: IpAddr,
    /// `POD_NAME`.
    pub pod_name: Option<String>,
    /// `POD_NAMESPACE`.
    pub pod_namespace: Option<String>,
    /// `SERVICE_ACCOUNT`.
    pub service_account: Option<String>,
    /// `ISTIO_META_ISTIO_VERSION`: the tag of the build metric.
    pub istio_version: Option<String>,
}

/// How to reach a part of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// URL with scheme.
    pub address: String,
    /// What its certificate must chain to.
    pub root: Root,
    /// Another name that its certificate may carry.
    pub alt_hostname: Option<String>,
    /// Metadata of every call.
    pub headers: Vec<(String, String)>,
}

/// `XDS_ROOT_CA`, `CA_ROOT_CA`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// A PEM file.
    File(PathBuf),
    /// The roots of the operating system.
    System,
    /// PEM in the variable itself.
    Inline(String),
}

/// `AUTH_TOKEN`.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// A file, read again for every call.
    File(PathBuf),
    /// The token itself; never shown.
    Literal(String),
    /// No `authorization` header.
    None,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Literal(_) => f.write_str("Literal(..)"),
            Self::None => f.write_str("None"),
        }
    }
}

/// `LOCAL_XDS_PATH` or `LOCAL_XDS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalXds {
    /// A YAML file.
    File(PathBuf),
    /// YAML in the variable itself.
    Inline(String),
}

/// A listening address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Both loopback addresses; the flag says whether IPv6 is on.
    Localhost(bool, u16),
    /// This address alone.
    Address(SocketAddr),
}

/// Sockets in the pods (`ztunnel-contract` 1.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodConfig {
    /// `INPOD_UDS`.
    pub zds_socket: PathBuf,
    /// `INPOD_PORT_REUSE`.
    pub port_reuse: bool,
    /// `PACKET_MARK`.
    pub mark: u32,
    /// `IPV6_ENABLED`.
    pub ipv6: bool,
    /// `ENABLE_ORIG_SRC`: unset is best effort.
    pub original_source: Option<bool>,
    /// `KEEPALIVE_*` and `USER_TIMEOUT_ENABLED`.
    pub keepalive: Keepalive,
    /// `LOCALHOST_APP_TUNNEL`.
    pub localhost_app_tunnel: bool,
    /// `ENABLE_RESPONSE_BAGGAGE`.
    pub response_baggage: bool,
}

/// TCP keepalive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// `KEEPALIVE_ENABLED`.
    pub enabled: bool,
    /// `KEEPALIVE_TIME`.
    pub time: Duration,
    /// `KEEPALIVE_INTERVAL`.
    pub interval: Duration,
    /// `KEEPALIVE_RETRIES`.
    pub retries: u32,
    /// `USER_TIMEOUT_ENABLED`.
    pub user_timeout: bool,
}

/// HTTP/2 and the pool (`ztunnel-contract` 2.6, 2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Config {
    /// `HTTP2_STREAM_WINDOW_SIZE`.
    pub stream_window: u32,
    /// `HTTP2_CONNECTION_WINDOW_SIZE`.
    pub connection_window: u32,
    /// `HTTP2_FRAME_SIZE`.
    pub frame_size: u32,
    /// `POOL_MAX_STREAMS_PER_CONNECTION`.
    pub pool_max_streams: u16,
    /// `POOL_UNUSED_RELEASE_TIMEOUT`.
    pub pool_unused_release: Duration,
}

/// Bounds of our own; `docs/configuration-ztunnel.md` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `AMBIT_MAX_HALF_OPEN`: TLS handshakes at once, per data thread.
    pub half_open: usize,
    /// `AMBIT_HANDSHAKE_TIMEOUT`: TLS and HTTP/2 handshake, either side.
    pub handshake: Duration,
    /// `AMBIT_WORKLOAD_WAIT`: until the control plane tells of a local pod.
    pub workload: Duration,
    /// `AMBIT_ADD_CERTIFICATE_WAIT`: an enrolment waits so long at most for
    /// the pod's first certificate.
    pub add_certificate: Duration,
}

/// `AMBIT_UNKNOWN_POLICY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownPolicy {
    /// Closed by default (design D4).
    Deny,
    /// As upstream: a warning, and it doesn't count.
    Skip,
}
