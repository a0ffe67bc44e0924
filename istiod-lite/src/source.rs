//! Where objects come from: one directory, or one cluster.

use std::path::PathBuf;

use ambit_cluster::{ApiSettings, ApiSource, Connection, Timing, Wanted, connect};
use ambit_kube::Change;
use ambit_runtime::Scope;
use ambit_source::DirSource;
use ambit_telemetry::Metrics;
use anyhow::Context;
use tokio::sync::mpsc;

use crate::args::Args;
use crate::watching::Watching;

/// The one source of a control plane.
pub(crate) enum Source {
    /// Manifests.
    Directory(PathBuf),
    /// A Kubernetes API.
    Cluster(Box<Cluster>),
}

/// A cluster, and what of it is read.
pub(crate) struct Cluster {
    /// For watches, reviews and writes.
    pub(crate) connection: Connection,
    objects: ApiSource,
}

impl Source {
    /// Finds the source that the arguments name.
    ///
    /// # Errors
    /// No cluster can be found, or its configuration can't be used. Whether it
    /// answers is seen later.
    pub(crate) async fn open(args: &Args) -> anyhow::Result<Self> {
        if let Some(dir) = &args.from {
            return Ok(Self::Directory(dir.clone()));
        }
        let connection = connect(args.kubeconfig.as_deref())
            .await
            .context("no --from, so a cluster is needed")?;
        let watched = ApiSettings {
            system_namespace: args.system_namespace.as_str().into(),
            revision: args.revision.as_str().into(),
            shared_mesh_config: args.shared_mesh_config.as_deref().map(Into::into),
            timing: Timing::default(),
        };
        Ok(Self::Cluster(Box::new(Cluster {
            objects: ApiSource::new(connection.client.clone(), watched),
            connection,
        })))
    }

    /// Starts to send changes.
    pub(crate) fn run(&self, scope: &Scope, changes: mpsc::Sender<Vec<Change>>) {
        match self {
            Self::Directory(dir) => DirSource::new(dir).run(scope, changes),
            Self::Cluster(cluster) => cluster.objects.run(scope, changes),
        }
    }

    /// How its watches fare.
    pub(crate) fn watching(&self, metrics: &mut Metrics) -> Watching {
        match self {
            Self::Directory(_) => Watching::default(),
            Self::Cluster(cluster) => Watching::register(cluster.objects.watches(), metrics),
        }
    }

    /// The cluster, if that is the source.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        match self {
            Self::Directory(_) => None,
            Self::Cluster(cluster) => Some(cluster),
        }
    }
}

impl Cluster {
    /// Asks for single Secrets and ConfigMaps.
    pub(crate) fn wanted(&self) -> Wanted {
        self.objects.wanted()
    }
}
