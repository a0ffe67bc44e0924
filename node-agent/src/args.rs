//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;

/// Enrols the pods of one node: their redirection and their proxy.
#[derive(Debug, Clone, Parser)]
#[command(name = "node-agent", version)]
pub struct Args {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Directory of manifests to watch, instead of the Kubernetes API.
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// How the Kubernetes API is reached; in a pod, its service account is used.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the node whose pods are enrolled.
    #[arg(long, value_name = "NAME", env = "NODE_NAME", default_value = "")]
    pub node: String,
    /// Namespaces of which no pod is enrolled.
    #[arg(
        long,
        value_name = "NAMES",
        env = "EXCLUDE_NAMESPACES",
        value_delimiter = ',',
        default_value = "kube-system"
    )]
    pub exclude_namespaces: Vec<String>,
    /// Where the node's processes are seen: pods' network namespaces are found
    /// by them. Off with `--from` if absent, else /proc.
    #[arg(long, value_name = "DIR")]
    pub proc: Option<PathBuf>,
    /// The node's own network namespace, if it isn't this process's.
    #[arg(long, value_name = "PATH")]
    pub node_netns: Option<PathBuf>,
    /// Where the node's directory of named network namespaces is mounted.
    #[arg(long, value_name = "DIR")]
    pub netns_dir: Option<PathBuf>,
    /// Socket on which the node's proxy is told of pods.
    #[arg(long, value_name = "PATH", default_value = ambit_redirect::zds::DEFAULT_SOCKET)]
    pub zds_socket: PathBuf,
    /// Socket on which the CNI plugin holds a pod that starts.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CNI_SOCKET)]
    pub cni_socket: PathBuf,
    /// Where redirected pods are reported, as https://HOST:PORT. Without it,
    /// only the annotations of pods say so.
    #[arg(long, value_name = "URL")]
    pub control_plane: Option<String>,
    /// The control plane's root certificates.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/istio/root-cert.pem"
    )]
    pub root_ca: PathBuf,
    /// The agent's own token.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/tokens/istio-token"
    )]
    pub token_file: PathBuf,
    /// A second name that the control plane's certificate may have.
    #[arg(long, value_name = "NAME")]
    pub alt_hostname: Option<String>,
    /// Value of the clusterid header.
    #[arg(long, value_name = "ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// How long connections of a pod that leaves the mesh are still carried.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ambit_runtime::parse_duration)]
    pub drain_bound: Duration,
    /// Where health and metrics are served.
    #[arg(long, value_name = "ADDR", default_value = "[::]:8000")]
    pub http: SocketAddr,
    /// Translate the probes of this user on the node, so that they bypass the
    /// proxy: kubelet's. `auto` looks for kubelet among the node's processes.
    /// Off if absent.
    #[arg(long, value_name = "UID")]
    pub kubelet_uid: Option<KubeletUid>,
    /// Whether IPv6 is redirected too.
    #[arg(long, value_name = "BOOL", env = "AMBIENT_IPV6", default_value_t = true, action = clap::ArgAction::Set)]
    pub ipv6: bool,
    #[command(flatten)]
    /// Where the plugin goes, and what becomes of it.
    pub cni: CniArgs,
    /// What is logged: a level, or TARGET=LEVEL, comma-separated.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
}

/// How the CNI plugin comes to the node, stays there and leaves it.
#[derive(Debug, Clone, clap::Args)]
pub struct CniArgs {
    /// Where the node's CNI plugins are mounted; ours is put there and into the
    /// node's CNI configuration. Off if absent.
    #[arg(long, value_name = "DIR")]
    pub cni_bin_dir: Option<PathBuf>,
    /// Where the node's CNI configuration is mounted.
    #[arg(long, value_name = "DIR", default_value = "/host/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// The file in it to join, instead of the one that the runtime would choose.
    #[arg(long, value_name = "FILE", env = "CNI_CONF_NAME")]
    pub cni_conf_name: Option<String>,
    /// The plugin to put there.
    #[arg(long, value_name = "FILE", default_value = "/opt/ambit/ambit-cni")]
    pub cni_plugin: PathBuf,
    /// The agent's socket and its directory, as the node sees them.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CNI_SOCKET)]
    pub cni_node_socket: PathBuf,
    /// What becomes of the plugin when the agent is told to end.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub cni_on_exit: OnExit,
    /// The namespace that the agent runs in. Its own pods aren't held.
    #[arg(
        long,
        value_name = "NAME",
        env = "POD_NAMESPACE",
        default_value = "istio-system"
    )]
    pub pod_namespace: String,
    /// The DaemonSet that the agent belongs to.
    #[arg(
        long,
        value_name = "NAME",
        env = "DAEMONSET_NAME",
        default_value = "istio-cni-node"
    )]
    pub daemon_set: String,
}

/// What becomes of the CNI plugin at the agent's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnExit {
    /// It stays: pods are held until the agent is back.
    Keep,
    /// It goes: pods start without the agent.
    Remove,
    /// It goes if the agent's DaemonSet is gone.
    Auto,
}

/// Whose probes are kubelet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KubeletUid {
    /// This user's.
    Uid(u32),
    /// The user's that a process named kubelet runs as.
    Auto,
}

impl FromStr for KubeletUid {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            uid => uid.parse().map(Self::Uid),
        }
    }
}

/// What is done once.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Takes the CNI plugin out of the node's configuration and away.
    UninstallCni,
}

const DEFAULT_CNI_SOCKET: &str = "/var/run/istio-cni/pluginevent.sock";
