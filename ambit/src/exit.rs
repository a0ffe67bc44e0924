//! Exit codes, and the failures that lead to them.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// How a run ended (`cli-install-observability-contract` 1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// As asked.
    Ok,
    /// Anything that has no code of its own.
    Failure,
    /// Wrong usage or an unknown command.
    Usage,
    /// An input that can't be parsed.
    Unparsable,
    /// The analysis found something at or above the threshold.
    Findings,
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Usage => 64,
            Self::Unparsable => 65,
            Self::Findings => 79,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a command gave up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The call makes no sense.
    #[error("{0}")]
    Usage(&'static str),
    /// A file can't be read.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no client for the cluster.
    #[error("no cluster: {0}")]
    Connect(#[source] ambit_cluster::ConnectError),
    /// The cluster, or a part of it, can't be read.
    #[error(transparent)]
    Cluster(ambit_cluster::Unread),
    /// No tasks can be run.
    #[error("starting a runtime: {0}")]
    Runtime(#[source] io::Error),
    /// A dump isn't one.
    #[error("{from} isn't a ztunnel config dump: {source}")]
    Dump {
        /// Where it came from.
        from: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The demo has no such node.
    #[error("no node {name} in {dir} ({known}); is the demo held (make demo HOLD=1)?", dir = dir.display())]
    UnknownNode {
        /// As asked.
        name: String,
        /// Where nodes are described.
        dir: PathBuf,
        /// Those that are.
        known: String,
    },
    /// A node's description isn't one.
    #[error("{path} doesn't describe a node: {source}", path = path.display())]
    Node {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The proxy doesn't answer.
    #[error("the proxy of {node} at {address}: {source}")]
    Proxy {
        /// Which node.
        node: String,
        /// Its admin server.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Writing YAML failed.
    #[error("writing YAML: {0}")]
    Yaml(#[from] serde_saphyr::SerializeError),
    /// Writing JSON failed.
    #[error("writing JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// Our own output can't be written.
    #[error("writing the output: {0}")]
    Output(#[source] io::Error),
}

impl Failure {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Dump { .. } => Exit::Unparsable,
            Self::File { .. }
            | Self::Connect(_)
            | Self::Cluster(_)
            | Self::Runtime(_)
            | Self::UnknownNode { .. }
            | Self::Node { .. }
            | Self::Proxy { .. }
            | Self::Yaml(_)
            | Self::Json(_)
            | Self::Output(_) => Exit::Failure,
        }
    }

    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
