//! The command line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ambit_ca::Lifetimes;
use ambit_runtime::parse_duration;
use ambit_types::{DEFAULT_TRUST_DOMAIN, NamespacedName};
use clap::Parser;

use crate::writer_args::WriterArgs;

/// The control plane of an ambient mesh: configuration and certificates from
/// a Kubernetes cluster, or from a directory of manifests.
#[derive(Debug, Clone, Parser)]
#[command(name = "istiod-lite", version)]
pub struct Args {
    /// Directory of manifests instead of a cluster; changes are picked up while
    /// it runs.
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with = "kubeconfig",
        requires = "jwks"
    )]
    pub from: Option<PathBuf>,
    /// The cluster to read [default: the one that this runs in].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where the root key and the nodes' redirection reports are kept.
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Address of xDS, certificates and enrolment (TLS).
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15012")]
    pub listen: SocketAddr,
    /// Address of /ready, /metrics and /debug (plain HTTP).
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15014")]
    pub http: SocketAddr,
    /// Public keys of the issuer of service-account tokens, to check them here;
    /// without it, the cluster is asked about each.
    #[arg(long, value_name = "FILE", requires = "token_issuer")]
    pub jwks: Option<PathBuf>,
    /// Issuer that tokens must name.
    #[arg(long, value_name = "ISS", requires = "jwks")]
    pub token_issuer: Option<String>,
    /// Audience that tokens must be for; may be repeated.
    #[arg(
        long,
        value_name = "AUD",
        env = "TOKEN_AUDIENCES",
        value_delimiter = ',',
        default_value = "istio-ca"
    )]
    pub token_audience: Vec<String>,
    /// A plugged-in CA: ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem
    /// [default, on a cluster: /etc/cacerts, if there is one]. Without it, a
    /// root of our own is kept, on a cluster in the Secret istio-ca-secret,
    /// otherwise in the state directory.
    #[arg(long, value_name = "DIR")]
    pub ca_dir: Option<PathBuf>,
    /// Lifetime of workload certificates where none is asked for.
    #[arg(long, value_name = "DURATION", env = "DEFAULT_WORKLOAD_CERT_TTL", default_value = "24h", value_parser = parse_duration)]
    pub default_cert_ttl: Duration,
    /// The longest lifetime of workload certificates; more is refused.
    #[arg(long, value_name = "DURATION", env = "MAX_WORKLOAD_CERT_TTL", default_value = "2160h", value_parser = parse_duration)]
    pub max_cert_ttl: Duration,
    /// Address of the validation webhook (TLS) [default, on a cluster:
    /// 0.0.0.0:15017; otherwise none].
    #[arg(long, value_name = "ADDR")]
    pub webhook: Option<SocketAddr>,
    /// Name of this cluster.
    #[arg(
        long,
        value_name = "ID",
        env = "CLUSTER_ID",
        default_value = "Kubernetes"
    )]
    pub cluster_id: String,
    /// Our revision: objects that name another (`istio.io/rev`) aren't read.
    /// Empty takes all.
    #[arg(long, value_name = "NAME", env = "REVISION", default_value = "default")]
    pub revision: String,
    /// Namespace of the control plane: of the mesh's settings, and the root
    /// namespace unless they name another.
    #[arg(
        long,
        value_name = "NS",
        env = "POD_NAMESPACE",
        default_value = "istio-system"
    )]
    pub system_namespace: String,
    /// A further ConfigMap of settings in the system namespace; those of
    /// `istio` win.
    #[arg(long, value_name = "NAME", env = "SHARED_MESH_CONFIG")]
    pub shared_mesh_config: Option<String>,
    /// Trust domain of all identities.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_TRUST_DOMAIN)]
    pub trust_domain: String,
    /// Account of node proxies (NAMESPACE/NAME): may read the configuration and
    /// ask for certificates of the pods of its node; may be repeated.
    #[arg(
        long,
        value_name = "NS/SA",
        env = "CA_TRUSTED_NODE_ACCOUNTS",
        value_delimiter = ',',
        default_value = "istio-system/ztunnel"
    )]
    pub trusted_node_account: Vec<NamespacedName>,
    /// Account of node agents (NAMESPACE/NAME): may report redirection of the
    /// pods of its node; may be repeated.
    #[arg(long, value_name = "NS/SA", default_value = "istio-system/node-agent")]
    pub trusted_agent_account: Vec<NamespacedName>,
    /// Let every service account with a valid token read the configuration, as
    /// upstream does.
    #[arg(long)]
    pub open_discovery: bool,
    /// Where to write the root bundle [default: STATE_DIR/root-cert.pem].
    #[arg(long, value_name = "FILE")]
    pub publish_root: Option<PathBuf>,
    /// Further server names of the certificate; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub server_name: Vec<String>,
    /// What is written to a cluster.
    #[command(flatten)]
    pub writing: WriterArgs,
}

impl Args {
    /// Where the validation webhook listens.
    pub(crate) fn webhook_address(&self) -> Option<SocketAddr> {
        let usual = SocketAddr::from((Ipv4Addr::UNSPECIFIED, WEBHOOK_PORT));
        self.webhook.or(self.from.is_none().then_some(usual))
    }

    /// Bounds of workload certificates.
    pub(crate) fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            default: self.default_cert_ttl,
            max: self.max_cert_ttl,
        }
    }

    /// Where the root bundle goes.
    pub fn root_bundle(&self) -> PathBuf {
        let beside = || self.state_dir.join("root-cert.pem");
        self.publish_root.clone().unwrap_or_else(beside)
    }
}

/// The target of the Service's port 443 (contract 11).
const WEBHOOK_PORT: u16 = 15017;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_source_and_a_directory_comes_with_keys() {
        let cluster = ["istiod-lite", "--state-dir", "s"];
        let args = Args::try_parse_from(cluster).unwrap();
        assert_eq!((args.from, args.jwks), (None, None));
        assert_eq!(args.revision, "default");
        assert_eq!(args.system_namespace, "istio-system");
        for wrong in [
            &["--from", "m"][..],
            &["--jwks", "j"],
            &["--token-issuer", "i"],
            &[
                "--from",
                "m",
                "--kubeconfig",
                "k",
                "--jwks",
                "j",
                "--token-issuer",
                "i",
            ],
        ] {
            let all = cluster.iter().chain(wrong);
            assert!(Args::try_parse_from(all).is_err(), "{wrong:?}");
        }
    }

    const REQUIRED: [&str; 9] = [
        "istiod-lite",
        "--from",
        "m",
        "--state-dir",
        "s",
        "--jwks",
        "j",
        "--token-issuer",
        "i",
    ];

    #[test]
    fn defaults_are_upstreams() {
        let args = Args::try_parse_from(REQUIRED).unwrap();
        assert_eq!(args.listen.port(), 15012);
        assert_eq!(args.http.port(), 15014);
        assert_eq!(args.token_audience, ["istio-ca"]);
        assert_eq!(
            args.trusted_node_account[0].to_string(),
            "istio-system/ztunnel"
        );
        assert_eq!(args.cluster_id, "Kubernetes");
        assert_eq!(args.root_bundle(), PathBuf::from("s/root-cert.pem"));
        assert!(!args.open_discovery);
        assert_eq!(args.lifetimes(), Lifetimes::default());
    }

    #[test]
    fn lifetimes_are_written_as_go_does() {
        let with = |text| {
            let more = ["--max-cert-ttl", text];
            Args::try_parse_from(REQUIRED.into_iter().chain(more))
        };
        assert_eq!(with("1h30m").unwrap().max_cert_ttl.as_secs(), 5400);
        for bad in ["90", "ninety days", ""] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_account_is_a_namespace_and_a_name() {
        let with = |account| {
            let more = ["--trusted-node-account", account];
            Args::try_parse_from(REQUIRED.into_iter().chain(more))
        };
        assert_eq!(with("a/b").unwrap().trusted_node_account.len(), 1);
        for bad in ["ztunnel", "a/b/c", ""] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }
}
