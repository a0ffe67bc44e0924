//! What the process was told at its start: the environment of a waypoint pod
//! (`control-plane-contract` 5.4), typed and immutable.
//!
//! Owns names, defaults and rules of every variable; every bad value is
//! reported at once. What the mesh wants of this waypoint comes over xDS
//! (`config`), not from here.

mod reader;
mod shown;
mod threads;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ambit_channel::{ChannelConfig, RootSource, TokenSource};
use ambit_runtime::Env;
use ambit_types::{SpiffeId, wire};
use serde::Serialize;

pub use reader::{SettingProblem, SettingsError};
pub(crate) use shown::shown;

use reader::{Reader, duration, number, port};

/// Everything that the process was told.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// Who and where this process is.
    pub pod: Pod,
    /// `XDS_ADDRESS`.
    pub xds: Endpoint,
    /// `CA_ADDRESS`, or `CA_ADDR`.
    pub ca: Endpoint,
    /// `AUTH_TOKEN`, or the projected token's usual place.
    #[serde(skip)]
    pub token: TokenSource,
    /// `SECRET_TTL`, default 24 h.
    pub secret_ttl: Duration,
    /// `AMBIT_WAYPOINT_THREADS`.
    pub threads: usize,
    /// Time that open work has at a graceful end.
    pub drain: Duration,
    /// Where it listens.
    pub ports: Ports,
    /// `AMBIT_TAP_TOKEN_FILE`: where the token for `/tap` is left. By default
    /// `./var/run/ambit/tap-token`, if that directory exists; else nobody can
    /// tap.
    pub tap_token: Option<PathBuf>,
    /// `AMBIT_UPGRADES`: protocols of `Upgrade` that are passed on, separated
    /// by commas; default `websocket`, and `*` is all (`waypoint-contract`
    /// 1.5).
    pub upgrades: Vec<String>,
    /// Bounds of what isn't in the mesh's configuration.
    pub limits: ProcessLimits,
    /// `RUST_LOG`.
    pub log_filter: String,
    /// `LOG_FORMAT=json`.
    pub log_json: bool,
}

/// The pod that we are.
#[derive(Debug, Clone, Serialize)]
pub struct Pod {
    /// `POD_NAME`.
    pub name: String,
    /// `POD_NAMESPACE`.
    pub namespace: String,
    /// `SERVICE_ACCOUNT`.
    pub service_account: String,
    /// `INSTANCE_IP`.
    pub ip: IpAddr,
    /// `TRUST_DOMAIN`, default `cluster.local`.
    pub trust_domain: String,
    /// `NODE_NAME`.
    pub node: String,
    /// `NETWORK`.
    pub network: String,
    /// `CLUSTER_ID`, or `ISTIO_META_CLUSTER_ID`; default `Kubernetes`.
    pub cluster_id: String,
    /// `CLUSTER_DOMAIN`, default `cluster.local`.
    pub cluster_domain: String,
    /// `AMBIT_LOCALITY`: `region/zone/subzone`, where it is known at start.
    pub locality: [String; 3],
}

/// One of the control plane's services.
#[derive(Debug, Clone, Serialize)]
pub struct Endpoint {
    /// `https://host:port`.
    pub address: String,
    /// Whom to believe.
    #[serde(skip)]
    pub root: RootSource,
    /// A second server name that is as good.
    pub alt_hostname: Option<String>,
}

/// Listeners. The defaults are the contract's; others are for tests and for
/// hosts where several waypoints share a network namespace.
#[derive(Debug, Clone, Serialize)]
pub struct Ports {
    /// `AMBIT_LISTEN_IP`: one address instead of all.
    pub listen_ip: Option<IpAddr>,
    /// `AMBIT_HBONE_PORT`, 15008.
    pub hbone: u16,
    /// `AMBIT_ADMIN_PORT`, 15000, loopback only.
    pub admin: u16,
    /// `AMBIT_STATS_PORT`, 15020.
    pub stats: u16,
    /// `AMBIT_READINESS_PORT`, 15021.
    pub readiness: u16,
}

/// Bounds of our own.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ProcessLimits {
    /// `AMBIT_MAX_HALF_OPEN`, 1024: handshakes under way on a data thread.
    pub half_open: usize,
    /// `AMBIT_HANDSHAKE_TIMEOUT`, 10 s.
    pub handshake: Duration,
    /// `AMBIT_MEMORY_LIMIT`: bytes of resident memory from which on requests
    /// are refused; by default seven eighths of the container's limit.
    pub memory: Option<u64>,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// Every variable whose value doesn't follow its rule, and those that are
    /// missing without a default.
    pub fn from_env(env: &dyn Env, cores: usize) -> Result<Self, SettingsError> {
        let mut r = Reader::new(env);
        let settings = Self {
            pod: Pod::read(&mut r),
            xds: Endpoint::read(&mut r, "XDS", &["XDS_ADDRESS"]),
            ca: Endpoint::read(&mut r, "CA", &["CA_ADDRESS", "CA_ADDR"]),
            token: token(&r),
            secret_ttl: r.or("SECRET_TTL", DAY, duration),
            threads: threads::data_threads(&mut r, cores),
            drain: drain(&mut r),
            ports: Ports::read(&mut r),
            tap_token: tap_token(&r),
            upgrades: upgrades(&r),
            limits: ProcessLimits {
                half_open: r.or("AMBIT_MAX_HALF_OPEN", 1024, number),
                handshake: r.or("AMBIT_HANDSHAKE_TIMEOUT", Duration::from_secs(10), duration),
                memory: r.optional("AMBIT_MEMORY_LIMIT", number),
            },
            log_filter: r.text("RUST_LOG").unwrap_or_else(|| "info".to_owned()),
            log_json: r.text("LOG_FORMAT").as_deref() == Some("json"),
        };
        if let Err(error) = settings.pod.identity() {
            r.problem("SERVICE_ACCOUNT", &format!("makes no identity: {error}"));
        }
        r.finish(settings)
    }

    /// Whether an `Upgrade` to this protocol is passed on.
    pub fn upgrades_to(&self, protocol: &[u8]) -> bool {
        let mut allowed = self.upgrades.iter().map(String::as_bytes);
        allowed.any(|one| one == b"*" || one.eq_ignore_ascii_case(protocol))
    }

    /// How one of the control plane's services is reached.
    pub fn channel(&self, endpoint: &Endpoint) -> ChannelConfig {
        ChannelConfig {
            address: endpoint.address.clone(),
            root: endpoint.root.clone(),
            alt_hostname: endpoint.alt_hostname.clone(),
            token: self.token.clone(),
            cluster_id: self.pod.cluster_id.clone(),
            headers: Vec::new(),
        }
    }

    /// The address of a listener that isn't on loopback.
    pub fn wildcard(&self, port: u16, ipv6: bool) -> SocketAddr {
        let any = if ipv6 {
            IpAddr::from([0u16; 8])
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        SocketAddr::new(self.ports.listen_ip.unwrap_or(any), port)
    }
}

impl Pod {
    fn read(r: &mut Reader<'_>) -> Self {
        let cluster_id = r
            .text("CLUSTER_ID")
            .or_else(|| r.text("ISTIO_META_CLUSTER_ID"));
        let cluster_domain = r.text("CLUSTER_DOMAIN");
        let locality = r.text("AMBIT_LOCALITY").unwrap_or_default();
        let mut parts = locality.splitn(3, '/').map(str::to_owned);
        Self {
            name: r.required("POD_NAME"),
            namespace: r.required("POD_NAMESPACE"),
            service_account: r.required("SERVICE_ACCOUNT"),
            ip: r.or("INSTANCE_IP", IpAddr::V4(Ipv4Addr::UNSPECIFIED), |text| {
                text.parse().map_err(|_| "is not an IP address".to_owned())
            }),
            trust_domain: r
                .text("TRUST_DOMAIN")
                .unwrap_or_else(|| ambit_types::DEFAULT_TRUST_DOMAIN.to_owned()),
            node: r.text("NODE_NAME").unwrap_or_default(),
            network: r.text("NETWORK").unwrap_or_default(),
            cluster_id: cluster_id.unwrap_or_else(|| "Kubernetes".to_owned()),
            cluster_domain: cluster_domain.unwrap_or_else(|| "cluster.local".to_owned()),
            locality: std::array::from_fn(|_| parts.next().unwrap_or_default()),
        }
    }

    /// The identity that we dial and answer as.
    ///
    /// # Errors
    /// A part has a slash in it.
    pub fn identity(&self) -> Result<SpiffeId, ambit_types::InvalidSpiffeId> {
        SpiffeId::new(
            self.trust_domain.as_str(),
            self.namespace.as_str(),
            self.service_account.as_str(),
        )
    }
}

impl Endpoint {
    fn read(r: &mut Reader<'_>, prefix: &str, names: &[&str]) -> Self {
        let address = names
            .iter()
            .find_map(|name| r.text(name))
            .unwrap_or_else(|| format!("{ISTIOD}:{}", wire::CONTROL_PLANE_PORT));
        let root = match r.text(&format!("{prefix}_ROOT_CA")) {
            None => RootSource::Path(PathBuf::from(ROOT_FILE)),
            Some(text) => RootSource::parse(&text),
        };
        let address = if address.contains("://") {
            address
        } else {
            format!("https://{address}")
        };
        Self {
            address,
            root,
            alt_hostname: r.text(&format!("ALT_{prefix}_HOSTNAME")),
        }
    }
}

impl Ports {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            listen_ip: r.optional("AMBIT_LISTEN_IP", |text| {
                text.parse().map_err(|_| "is not an IP address".to_owned())
            }),
            hbone: r.or("AMBIT_HBONE_PORT", wire::HBONE_PORT, port),
            admin: r.or("AMBIT_ADMIN_PORT", wire::ADMIN_PORT, port),
            stats: r.or("AMBIT_STATS_PORT", wire::STATS_PORT, port),
            readiness: r.or("AMBIT_READINESS_PORT", wire::READINESS_PORT, port),
        }
    }
}

fn token(r: &Reader<'_>) -> TokenSource {
    match r.text("AUTH_TOKEN") {
        Some(path) if Path::new(&path).exists() => TokenSource::File(path.into()),
        Some(literal) => TokenSource::Literal(literal),
        None if Path::new(TOKEN_FILE).exists() => TokenSource::File(TOKEN_FILE.into()),
        None => TokenSource::None,
    }
}

fn upgrades(r: &Reader<'_>) -> Vec<String> {
    let text = r.text("AMBIT_UPGRADES");
    let listed = text.as_deref().unwrap_or("websocket").split(',');
    let listed = listed.map(str::trim).filter(|name| !name.is_empty());
    listed.map(str::to_owned).collect()
}

fn tap_token(r: &Reader<'_>) -> Option<PathBuf> {
    if let Some(path) = r.text("AMBIT_TAP_TOKEN_FILE") {
        return Some(path.into());
    }
    let usual = Path::new(TAP_TOKEN_FILE);
    usual.parent()?.is_dir().then(|| usual.to_path_buf())
}

/// A little less than the time after which the pod is killed.
fn drain(r: &mut Reader<'_>) -> Duration {
    let derived = match r.optional("TERMINATION_GRACE_PERIOD_SECONDS", number::<u64>) {
        Some(seconds) if seconds > 10 => Duration::from_secs(seconds - 5),
        Some(seconds) => Duration::from_secs(seconds.saturating_sub(1).max(1)),
        None => Duration::from_secs(5),
    };
    r.or("CONNECTION_TERMINATION_DEADLINE", derived, duration)
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ISTIOD: &str = "istiod.istio-system.svc";
const ROOT_FILE: &str = "./var/run/secrets/istio/root-cert.pem";
const TAP_TOKEN_FILE: &str = "./var/run/ambit/tap-token";
const TOKEN_FILE: &str = "./var/run/secrets/tokens/istio-token";

#[cfg(test)]
mod tests {
    use ambit_runtime::MapEnv;

    use super::*;

    const POD: [(&str, &str); 3] = [
        ("POD_NAME", "wp-1"),
        ("POD_NAMESPACE", "shop"),
        ("SERVICE_ACCOUNT", "wp"),
    ];

    #[test]
    fn a_pods_environment_is_enough() {
        let env = MapEnv::from_iter(POD);
        let settings = Settings::from_env(&env, 8).unwrap();
        assert_eq!(
            settings.xds.address,
            "https://istiod.istio-system.svc:15012"
        );
        assert_eq!(settings.threads, 2);
        assert_eq!(settings.ports.hbone, 15008);
        let id = settings.pod.identity().unwrap().to_string();
        assert_eq!(id, "spiffe://cluster.local/ns/shop/sa/wp");
    }

    #[test]
    fn every_bad_value_is_named() {
        let bad = [
            ("AMBIT_HBONE_PORT", "0"),
            ("SECRET_TTL", "tomorrow"),
            ("INSTANCE_IP", "here"),
        ];
        let env = MapEnv::from_iter(bad);
        let error = Settings::from_env(&env, 1).unwrap_err().to_string();
        let missing = ["POD_NAME", "POD_NAMESPACE", "SERVICE_ACCOUNT"];
        for key in bad.iter().map(|(key, _)| *key).chain(missing) {
            assert!(error.contains(key), "{key} not in {error}");
        }
    }
}
