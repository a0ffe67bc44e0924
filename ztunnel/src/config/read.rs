//! How each part of the configuration is read.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use ambit_types::wire;

use super::proxy_config::Metadata;
use super::reader::{Reader, address, boolean, duration, number};
use super::types::{
    Endpoint, Http2Config, Keepalive, Limits, Listen, LocalXds, Mode, Node, PodConfig, Root, Token,
    UnknownPolicy,
};

impl Node {
    pub(super) fn read(r: &mut Reader<'_>, metadata: &Metadata) -> Self {
        let from_metadata = |key: &str| {
            metadata
                .get(key)
                .and_then(|value| value.as_str())
                .filter(|s| !s.is_empty())
        };
        let cluster_id = from_metadata("CLUSTER_ID")
            .map(str::to_owned)
            .or_else(|| r.text("CLUSTER_ID"))
            .unwrap_or_else(|| "Kubernetes".to_owned());
        Self {
            name: r.text("NODE_NAME"),
            network: r.text("NETWORK").unwrap_or_default(),
            cluster_id,
            cluster_domain: r
                .text("CLUSTER_DOMAIN")
                .unwrap_or_else(|| "cluster.local".to_owned()),
            trust_domain: r
                .text("TRUST_DOMAIN")
                .unwrap_or_else(|| ambit_types::DEFAULT_TRUST_DOMAIN.to_owned()),
            instance_ip: r.or(
                "INSTANCE_IP",
                IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)),
                |text| text.parse().map_err(|_| "is not an IP address".to_owned()),
            ),
            pod_name: r.text("POD_NAME"),
            pod_namespace: r.text("POD_NAMESPACE"),
            service_account: r.text("SERVICE_ACCOUNT"),
            istio_version: from_metadata("ISTIO_VERSION").map(str::to_owned),
        }
    }
}

impl Endpoint {
    pub(super) fn xds(r: &mut Reader<'_>, discovery_address: Option<&str>) -> Option<Self> {
        let fallback = match discovery_address {
            Some(address) => address.to_owned(),
            None => control_plane(r),
        };
        Self::read(r, "XDS", fallback)
    }

    pub(super) fn ca(r: &mut Reader<'_>) -> Option<Self> {
        let fallback = control_plane(r);
        Self::read(r, "CA", fallback)
    }

    pub(super) fn read(r: &mut Reader<'_>, prefix: &str, fallback: String) -> Option<Self> {
        let address = r.raw(&format!("{prefix}_ADDRESS")).unwrap_or(fallback);
        let root = root(r, &format!("{prefix}_ROOT_CA"));
        let alt_hostname = r.text(&format!("ALT_{prefix}_HOSTNAME"));
        let headers = r.prefixed(&format!("{prefix}_HEADER_"));
        if address.is_empty() {
            return None;
        }
        let address = if address.contains("://") {
            address
        } else {
            format!("https://{address}")
        };
        Some(Self {
            address,
            root,
            alt_hostname,
            headers,
        })
    }
}

impl PodConfig {
    pub(super) fn read(r: &mut Reader<'_>, ipv6: bool) -> Self {
        Self {
            zds_socket: r
                .text("INPOD_UDS")
                .unwrap_or_else(|| ZDS_SOCKET.to_owned())
                .into(),
            port_reuse: r.or("INPOD_PORT_REUSE", true, boolean),
            mark: r.or("PACKET_MARK", wire::PROXY_MARK, number),
            ipv6,
            original_source: r.optional("ENABLE_ORIG_SRC", boolean),
            keepalive: Keepalive {
                enabled: r.or("KEEPALIVE_ENABLED", true, boolean),
                time: r.or("KEEPALIVE_TIME", Duration::from_secs(180), duration),
                interval: r.or("KEEPALIVE_INTERVAL", Duration::from_secs(180), duration),
                retries: r.or("KEEPALIVE_RETRIES", 9, number),
                user_timeout: r.or("USER_TIMEOUT_ENABLED", false, boolean),
            },
            localhost_app_tunnel: r.or("LOCALHOST_APP_TUNNEL", true, boolean),
            response_baggage: r.or("ENABLE_RESPONSE_BAGGAGE", true, boolean),
        }
    }
}

impl Http2Config {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            stream_window: r.or("HTTP2_STREAM_WINDOW_SIZE", 4 << 20, number),
            connection_window: r.or("HTTP2_CONNECTION_WINDOW_SIZE", 16 << 20, number),
            frame_size: r.or("HTTP2_FRAME_SIZE", 1 << 20, number),
            pool_max_streams: r.or("POOL_MAX_STREAMS_PER_CONNECTION", 100, nonzero),
            pool_unused_release: r.or(
                "POOL_UNUSED_RELEASE_TIMEOUT",
                Duration::from_secs(300),
                duration,
            ),
        }
    }
}

impl Limits {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            half_open: r.or("AMBIT_MAX_HALF_OPEN", 1024, nonzero),
            handshake: r.or("AMBIT_HANDSHAKE_TIMEOUT", Duration::from_secs(10), duration),
            workload: r.or("AMBIT_WORKLOAD_WAIT", Duration::from_secs(5), duration),
            add_certificate: r.or(
                "AMBIT_ADD_CERTIFICATE_WAIT",
                Duration::from_secs(2),
                duration,
            ),
        }
    }
}

pub(super) fn mode(text: &str) -> Result<Mode, String> {
    match text.to_ascii_lowercase().as_str() {
        "shared" => Ok(Mode::Shared),
        "dedicated" => Ok(Mode::Dedicated),
        _ => Err("is neither shared nor dedicated".to_owned()),
    }
}

pub(super) fn unknown_policy(text: &str) -> Result<UnknownPolicy, String> {
    match text {
        "deny" => Ok(UnknownPolicy::Deny),
        "skip" => Ok(UnknownPolicy::Skip),
        _ => Err("is neither deny nor skip".to_owned()),
    }
}

pub(super) fn nonzero<T: std::str::FromStr + Default + PartialEq>(text: &str) -> Result<T, String> {
    let value: T = number(text)?;
    if value == T::default() {
        Err("must not be 0".to_owned())
    } else {
        Ok(value)
    }
}

pub(super) fn control_plane(r: &mut Reader<'_>) -> String {
    let in_kubernetes = r.raw("KUBERNETES_SERVICE_HOST").is_some();
    let host = if in_kubernetes {
        "istiod.istio-system.svc"
    } else {
        "localhost"
    };
    format!("{host}:{}", wire::CONTROL_PLANE_PORT)
}

pub(super) fn root(r: &mut Reader<'_>, key: &str) -> Root {
    match r.text(key) {
        None => Root::File(ROOT_FILE.into()),
        Some(system) if system == "SYSTEM" => Root::System,
        Some(pem) if pem.contains("-----BEGIN") => Root::Inline(pem),
        Some(path) => {
            if !Path::new(&path).exists() {
                r.problem(key, "is neither an existing file, nor SYSTEM, nor PEM text");
            }
            Root::File(path.into())
        }
    }
}

pub(super) fn token(r: &mut Reader<'_>) -> Token {
    match r.text("AUTH_TOKEN") {
        Some(path) if Path::new(&path).exists() => Token::File(path.into()),
        Some(literal) => Token::Literal(literal),
        None if Path::new(TOKEN_FILE).exists() => Token::File(TOKEN_FILE.into()),
        None => Token::None,
    }
}

pub(super) fn local_xds(r: &mut Reader<'_>) -> Option<LocalXds> {
    match (r.text("LOCAL_XDS_PATH"), r.text("LOCAL_XDS")) {
        (Some(_), Some(_)) => {
            r.problem("LOCAL_XDS", "is set beside LOCAL_XDS_PATH; use one of them");
            None
        }
        (Some(path), None) => Some(LocalXds::File(path.into())),
        (None, Some(text)) => Some(LocalXds::Inline(text)),
        (None, None) => None,
    }
}

pub(super) fn drain_deadline(r: &mut Reader<'_>) -> Duration {
    let derived = match r.optional("TERMINATION_GRACE_PERIOD_SECONDS", number::<u64>) {
        Some(seconds) if seconds > 10 => Duration::from_secs(seconds - 5),
        Some(seconds) => Duration::from_secs(seconds.saturating_sub(1).max(1)),
        None => Duration::from_secs(5),
    };
    r.or("CONNECTION_TERMINATION_DEADLINE", derived, duration)
}

pub(super) fn dns_capture(metadata: &Metadata) -> bool {
    metadata
        .get("DNS_CAPTURE")
        .and_then(|value| value.as_str())
        .is_none_or(|value| value.eq_ignore_ascii_case("true"))
}

pub(super) fn dns_address(r: &mut Reader<'_>, metadata: &Metadata, ipv6: bool) -> Listen {
    let fallback = Listen::Localhost(ipv6, wire::DNS_PORT);
    match metadata
        .get("DNS_PROXY_ADDR")
        .and_then(|value| value.as_str())
    {
        None => fallback,
        Some(text) => match address(text, ipv6) {
            Ok(listen) => listen,
            Err(why) => {
                r.problem("ISTIO_META_DNS_PROXY_ADDR", &why);
                fallback
            }
        },
    }
}

const ZDS_SOCKET: &str = "/var/run/ztunnel/ztunnel.sock";
const ROOT_FILE: &str = "./var/run/secrets/istio/root-cert.pem";
const TOKEN_FILE: &str = "./var/run/secrets/tokens/istio-token";
