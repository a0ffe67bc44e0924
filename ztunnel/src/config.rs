//! The node proxy's settings: `ztunnel-contract` section 8, typed and immutable.
//!
//! Owns names, defaults and rules of every environment variable, the
//! `PROXY_CONFIG` document and the mesh file. Every bad value is reported at
//! once. What a setting *means* belongs to the module that uses it.

mod dump;
mod proxy_config;
mod read;
mod reader;
mod threads;
mod types;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ambit_runtime::Env;
use ambit_types::wire;

pub use proxy_config::{Metadata as ProxyMetadata, ProxyConfig};
pub use reader::{ConfigError, Problem};
pub use types::{
    Endpoint, Http2Config, Keepalive, Limits, Listen, LocalXds, Mode, Node, PodConfig, Root, Token,
    UnknownPolicy,
};

use reader::{Reader, boolean, duration};

/// Everything that the process was told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `PROXY_MODE`.
    pub mode: Mode,
    /// `ENABLE_PROXY`.
    pub proxy: bool,
    /// `ISTIO_META_DNS_CAPTURE`.
    pub dns_proxy: bool,
    /// `ISTIO_META_DNS_PROXY_ADDR`.
    pub dns_proxy_addr: Listen,
    /// `AMBIT_RESOLV_CONF`: says which DNS servers are asked for names that
    /// aren't the mesh's.
    pub resolv_conf: PathBuf,
    /// `UNSTABLE_ENABLE_SOCKS5`: asked for, but not built yet.
    pub socks5: bool,
    /// Who and where this process is.
    pub node: Node,
    /// The discovery service; `None` disables it.
    pub xds: Option<Endpoint>,
    /// The certificate service; `None` if there is none.
    pub ca: Option<Endpoint>,
    /// `AUTH_TOKEN`.
    pub token: Token,
    /// `XDS_ON_DEMAND`: asked for, but not built yet.
    pub xds_on_demand: bool,
    /// `FAKE_CA`: refused, as in a release build of the original.
    pub fake_ca: bool,
    /// `SECRET_TTL`.
    pub secret_ttl: Duration,
    /// `CRL_PATH`: asked for, but not built yet.
    pub crl_path: Option<PathBuf>,
    /// `PREFERED_SERVICE_NAMESPACE`.
    pub preferred_service_namespace: Option<String>,
    /// Static configuration, if any.
    pub local_xds: Option<LocalXds>,
    /// Listeners, sockets and marks in the pods.
    pub pod: PodConfig,
    /// HTTP/2 and pool.
    pub http2: Http2Config,
    /// Limits and deadlines of our own.
    pub limits: Limits,
    /// Time that open connections have at a graceful end.
    pub drain_deadline: Duration,
    /// Data threads.
    pub worker_threads: usize,
    /// Admin server, loopback only.
    pub admin_port: u16,
    /// Metrics server.
    pub stats_port: u16,
    /// `TLS12_ENABLED`.
    pub tls12: bool,
    /// `COMPLIANCE_POLICY=pqc`.
    pub post_quantum: bool,
    /// `RUST_LOG`.
    pub log_filter: String,
    /// `LOG_FORMAT=json`.
    pub log_json: bool,
    /// `AUTHZ_POLICY_INFO_LOGGING`.
    pub authz_info_logging: bool,
    /// What happens to a policy that a workload names and nobody sent.
    pub unknown_policy: UnknownPolicy,
    /// Node metadata for the control plane.
    pub proxy_metadata: ProxyMetadata,
}

impl Config {
    /// Reads the environment and the two documents that it may name.
    ///
    /// # Errors
    /// Every variable whose value doesn't follow its rule.
    pub fn from_env(env: &dyn Env, cores: usize) -> Result<Self, ConfigError> {
        let mesh = std::fs::read_to_string(MESH_FILE).ok();
        Self::build(env, mesh.as_deref(), cores)
    }

    /// [`Self::from_env`] with the mesh file's text passed in.
    pub(crate) fn build(
        env: &dyn Env,
        mesh: Option<&str>,
        cores: usize,
    ) -> Result<Self, ConfigError> {
        let mut r = Reader::new(env);
        let document = ProxyConfig::read(&mut r, mesh);
        let metadata = proxy_config::metadata(&mut r, &document);
        let ipv6 = r.or("IPV6_ENABLED", true, boolean);
        let config = Self {
            mode: r.or("PROXY_MODE", Mode::Shared, read::mode),
            proxy: r.or("ENABLE_PROXY", true, boolean),
            dns_proxy: read::dns_capture(&metadata),
            dns_proxy_addr: read::dns_address(&mut r, &metadata, ipv6),
            resolv_conf: r
                .text("AMBIT_RESOLV_CONF")
                .map_or_else(|| RESOLV_CONF.into(), PathBuf::from),
            socks5: r.or("UNSTABLE_ENABLE_SOCKS5", false, boolean),
            node: Node::read(&mut r, &metadata),
            xds: Endpoint::xds(&mut r, document.discovery_address.as_deref()),
            ca: Endpoint::ca(&mut r),
            token: read::token(&mut r),
            xds_on_demand: r.or("XDS_ON_DEMAND", false, boolean),
            fake_ca: r.or("FAKE_CA", false, boolean),
            secret_ttl: r.or("SECRET_TTL", DAY, duration),
            crl_path: r.text("CRL_PATH").map(PathBuf::from),
            preferred_service_namespace: r.text("PREFERED_SERVICE_NAMESPACE"),
            local_xds: read::local_xds(&mut r),
            pod: PodConfig::read(&mut r, ipv6),
            http2: Http2Config::read(&mut r),
            limits: Limits::read(&mut r),
            drain_deadline: read::drain_deadline(&mut r),
            worker_threads: threads::worker_threads(&mut r, document.concurrency, cores),
            admin_port: document.proxy_admin_port.unwrap_or(wire::ADMIN_PORT),
            stats_port: document.stats_port.unwrap_or(wire::STATS_PORT),
            tls12: r.or("TLS12_ENABLED", false, boolean),
            post_quantum: r.text("COMPLIANCE_POLICY").as_deref() == Some("pqc"),
            log_filter: r.text("RUST_LOG").unwrap_or_else(|| "info".to_owned()),
            log_json: r.text("LOG_FORMAT").as_deref() == Some("json"),
            authz_info_logging: r.or("AUTHZ_POLICY_INFO_LOGGING", false, boolean),
            unknown_policy: r.or(
                "AMBIT_UNKNOWN_POLICY",
                UnknownPolicy::Deny,
                read::unknown_policy,
            ),
            proxy_metadata: metadata,
        };
        config.check(&mut r);
        r.finish(config)
    }

    /// Rules that concern more than one variable, and what this build refuses.
    fn check(&self, r: &mut Reader<'_>) {
        if self.mode == Mode::Dedicated {
            r.problem("PROXY_MODE", "dedicated mode is not built yet; use shared");
        }
        if self.fake_ca {
            r.problem("FAKE_CA", "this build has no in-process CA; set CA_ADDRESS");
        }
        if self.xds_on_demand {
            r.problem(
                "XDS_ON_DEMAND",
                "on-demand discovery is not built yet; use false",
            );
        }
        if !self.proxy && !self.dns_proxy {
            r.problem(
                "ENABLE_PROXY",
                "the proxy and DNS capture can't both be off",
            );
        }
        if !self.proxy {
            r.problem(
                "ENABLE_PROXY",
                "a DNS-only process is not built yet; use true",
            );
        }
        if self.crl_path.is_some() {
            r.problem(
                "CRL_PATH",
                "revocation lists are not checked yet, so it may not be set",
            );
        }
        if self.http2.connection_window <= self.http2.stream_window {
            r.problem(
                "HTTP2_CONNECTION_WINDOW_SIZE",
                "must exceed HTTP2_STREAM_WINDOW_SIZE, or one idle stream could stall the others",
            );
        }
        if self.xds.is_none() && self.local_xds.is_none() {
            r.problem(
                "XDS_ADDRESS",
                "empty, and neither LOCAL_XDS_PATH nor LOCAL_XDS is set: nothing would be known",
            );
        }
    }

    /// What was asked for and is left out for now; said at start.
    pub fn left_out(&self) -> Vec<&'static str> {
        let mut said = Vec::new();
        if self.socks5 {
            said.push("SOCKS5 (UNSTABLE_ENABLE_SOCKS5) is not built yet: port 15080 stays closed");
        }
        said
    }

    /// Ports that a redirected connection must never name.
    pub fn illegal_ports(&self) -> Vec<u16> {
        let mut ports = vec![
            wire::OUTBOUND_PORT,
            wire::INBOUND_PASSTHROUGH_PORT,
            wire::HBONE_PORT,
        ];
        if self.socks5 {
            ports.push(wire::SOCKS5_PORT);
        }
        ports
    }

    /// Wildcard address of this host's family.
    pub fn wildcard(&self, port: u16) -> SocketAddr {
        let ip = if self.pod.ipv6 {
            IpAddr::from([0u16; 8])
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        SocketAddr::new(ip, port)
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const RESOLV_CONF: &str = "/etc/resolv.conf";
const MESH_FILE: &str = "./etc/istio/config/mesh";

#[cfg(test)]
mod tests;
