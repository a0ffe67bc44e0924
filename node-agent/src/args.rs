//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Enrols the pods of one node: their redirection and their proxy.
#[derive(Debug, Clone, Parser)]
#[command(name = "node-agent", version)]
pub struct Args {
    /// Directory of manifests to watch.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Name of the node whose pods are enrolled.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// Socket on which the node's proxy is told of pods.
    #[arg(long, value_name = "PATH", default_value = ambit_redirect::zds::DEFAULT_SOCKET)]
    pub zds_socket: PathBuf,
    /// Socket on which the CNI plugin holds a pod that starts.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CNI_SOCKET)]
    pub cni_socket: PathBuf,
    /// Where redirected pods are reported, as https://HOST:PORT.
    #[arg(long, value_name = "URL")]
    pub control_plane: String,
    /// The control plane's root certificates.
    #[arg(long, value_name = "FILE")]
    pub root_ca: PathBuf,
    /// The agent's own token.
    #[arg(long, value_name = "FILE")]
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
    /// proxy: kubelet's. Off if absent.
    #[arg(long, value_name = "UID")]
    pub kubelet_uid: Option<u32>,
    /// Whether IPv6 is redirected too.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub ipv6: bool,
    /// What is logged: a level, or TARGET=LEVEL, comma-separated.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
}

const DEFAULT_CNI_SOCKET: &str = "/var/run/istio-cni/pluginevent.sock";
