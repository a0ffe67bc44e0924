//! What can be written on the command line.

use std::path::PathBuf;
use std::time::Duration;

use ambit_kube::Severity;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Analyse, explain and inspect an Ambit mesh.
#[derive(Debug, Parser)]
#[command(name = "ambit", version, arg_required_else_help = false)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a cluster's objects, or manifests
    Analyze(AnalyzeArguments),
    /// Show what a node proxy has been told and what it holds
    #[command(name = "ztunnel-config", visible_alias = "zc")]
    ZtunnelConfig(ZtunnelConfigArguments),
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct AnalyzeArguments {
    /// Files or directories of manifests; `-` reads standard input; none: the cluster
    #[arg(value_name = "DIR|FILE|-")]
    paths: Vec<PathBuf>,
    /// The same
    #[arg(short = 'f', long = "filename", value_name = "DIR|FILE|-")]
    filenames: Vec<PathBuf>,
    /// Read the cluster, too, and the files over it; the default without files
    #[arg(short = 'k', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) use_kube: Option<bool>,
    /// Of the cluster; else those of KUBECONFIG, else ~/.kube/config
    #[arg(short = 'c', long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Of the kubeconfig; else the current one
    #[arg(long)]
    pub(crate) context: Option<String>,
    /// How long the cluster may take to be read
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Log)]
    pub(crate) output: Format,
    /// Exit with 79 when something at or above this level is found
    #[arg(long, value_enum, default_value_t = Level::Error, ignore_case = true, value_name = "LEVEL")]
    pub(crate) failure_threshold: Level,
    /// Don't show what is below this level
    #[arg(long, value_enum, default_value_t = Level::Info, ignore_case = true, value_name = "LEVEL")]
    pub(crate) output_threshold: Level,
    /// Documents that can't be parsed don't fail the run
    #[arg(long)]
    pub(crate) ignore_unknown: bool,
    /// Show only what concerns this namespace; of a cluster's, by default that of the context
    #[arg(short, long, conflicts_with = "all_namespaces")]
    pub(crate) namespace: Option<String>,
    /// Show all namespaces; of files, those of the cluster itself too
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Colour the levels; by default when the output is a terminal
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) color: Option<bool>,
    /// Objects of other revisions are left out
    #[arg(short, long, default_value = "default")]
    pub(crate) revision: String,
    /// Namespace of the control plane
    #[arg(
        short = 'i',
        long = "istioNamespace",
        default_value = "istio-system",
        value_name = "NAMESPACE"
    )]
    pub(crate) istio_namespace: String,
    /// No effect: directories are always read with everything below them
    #[arg(short = 'R', long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) recursive: Option<bool>,
}

impl AnalyzeArguments {
    /// Those of both notations.
    pub(crate) fn all_paths(&self) -> Vec<PathBuf> {
        self.paths.iter().chain(&self.filenames).cloned().collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One line per finding
    Log,
    /// An array of objects
    Json,
    /// A list of objects
    Yaml,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Worth knowing
    Info,
    /// Likely not what was meant
    Warning,
    /// Not in force as written
    Error,
}

impl From<Level> for Severity {
    fn from(level: Level) -> Self {
        match level {
            Level::Info => Self::Info,
            Level::Warning => Self::Warning,
            Level::Error => Self::Error,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ZtunnelConfigArguments {
    #[command(subcommand)]
    pub(crate) what: What,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Form of the output
    #[arg(short, long, value_enum, global = true, default_value_t = Shape::Short)]
    pub(crate) output: Shape,
}

/// Whose dump; at most one of them.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// A saved config dump; `-` reads standard input
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "node",
        value_name = "FILE|-"
    )]
    pub(crate) file: Option<PathBuf>,
    /// The proxy of this node (of the demo, see AMBIT_DEMO_DIR)
    #[arg(long, global = true)]
    pub(crate) node: Option<String>,
    /// Port of the proxy's admin server
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..), value_name = "PORT")]
    pub(crate) proxy_admin_port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// A table
    Short,
    /// The dump's own objects
    Json,
    /// The dump's own objects
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum What {
    /// Workloads that the proxy knows
    #[command(visible_aliases = ["w", "workloads"])]
    Workload {
        /// Only those with this address
        #[arg(long)]
        address: Option<String>,
        /// Only those of this namespace
        #[arg(long, value_name = "NAMESPACE")]
        workload_namespace: Option<String>,
        /// Only those on this node
        #[arg(long, value_name = "NODE")]
        workload_node: Option<String>,
    },
    /// Services that the proxy knows
    #[command(visible_aliases = ["services", "s", "svc"])]
    Service {
        /// Only those of this namespace
        #[arg(long, value_name = "NAMESPACE")]
        service_namespace: Option<String>,
    },
    /// Policies that the proxy enforces
    #[command(visible_aliases = ["policies", "p", "pol"])]
    Policy {
        /// Only those of this namespace
        #[arg(long, value_name = "NAMESPACE")]
        policy_namespace: Option<String>,
    },
    /// Certificates that the proxy holds
    #[command(visible_aliases = ["certificates", "certs", "cert"])]
    Certificate,
    /// Connections that the proxy carries
    #[command(visible_alias = "cons")]
    Connections {
        /// Only this direction
        #[arg(long, value_enum)]
        direction: Option<Direction>,
        /// Addresses instead of names
        #[arg(long)]
        raw: bool,
        /// Only those of workloads of this namespace
        #[arg(long, value_name = "NAMESPACE")]
        workload_namespace: Option<String>,
    },
    /// Everything above, one after the other
    All {
        /// A line above each part
        #[arg(long)]
        with_headers: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Direction {
    /// To the workload
    Inbound,
    /// From the workload
    Outbound,
}
