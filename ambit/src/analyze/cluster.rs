//! The cluster that a kubeconfig names, read once by the control plane's own reader.

use std::collections::BTreeSet;
use std::time::Duration;

use ambit_cluster::{ApiSettings, ConnectError, Connection, Look, Timing, connect_as_user};
use ambit_kube::{Change, Kind, Object, ObjectKey};
use tokio::runtime::{Builder, Runtime};

use crate::args::AnalyzeArguments;
use crate::exit::Failure;
use crate::streams::Streams;

/// A cluster that is being looked at.
pub(super) struct Cluster {
    /// That of the arguments, else of the kubeconfig's context.
    pub(super) namespace: String,
    patience: Duration,
    // Before the runtime: its tasks end with it.
    look: Look,
    runtime: Runtime,
}

impl Cluster {
    /// Begins to read the cluster that the arguments name.
    pub(super) fn connect(arguments: &AnalyzeArguments) -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Failure::Runtime)?;
        let settings = ApiSettings {
            system_namespace: arguments.istio_namespace.as_str().into(),
            revision: arguments.revision.as_str().into(),
            shared_mesh_config: None,
            timing: Timing {
                wanted: REFERRED,
                ..Timing::default()
            },
        };
        let (file, context) = (&arguments.kubeconfig, &arguments.context);
        let connecting = async {
            let Connection { client, namespace } =
                connect_as_user(file.as_deref(), context.as_deref()).await?;
            Ok::<_, ConnectError>((Look::start(client, settings), namespace))
        };
        let (look, of_context) = runtime.block_on(connecting).map_err(Failure::Connect)?;
        Ok(Self {
            namespace: arguments.namespace.clone().unwrap_or(of_context),
            patience: arguments.timeout,
            look,
            runtime,
        })
    }

    /// Everything that is read of it, Secrets and ConfigMaps excepted.
    pub(super) fn read(&mut self) -> Result<Vec<Change>, Failure> {
        let read = self.runtime.block_on(self.look.all(self.patience));
        read.map_err(Failure::Cluster)
    }

    /// The Secrets and ConfigMaps that what was read refers to; a note for each that can't be had.
    pub(super) fn referred(
        &mut self,
        wanted: &BTreeSet<ObjectKey>,
        streams: &mut Streams<'_>,
    ) -> Vec<Change> {
        let (told, unread) = self.runtime.block_on(self.look.single(wanted));
        for unread in unread {
            streams.note(&format!(
                "{unread}; what refers to it may be said to miss it"
            ));
        }
        told
    }
}

/// Whether there is a namespace among what was read.
pub(super) fn has_namespace(changes: &[Change], name: &str) -> bool {
    let is_it = |key: ObjectKey| key.kind == Kind::Namespace && *key.name == *name;
    let objects = changes.iter().filter_map(|change| match change {
        Change::Apply(located) => Some(&located.object),
        _ => None,
    });
    objects.map(Object::key).any(is_it)
}

/// How long a Secret or ConfigMap is waited for.
const REFERRED: Duration = Duration::from_secs(2);
