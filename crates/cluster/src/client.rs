//! One client for one API server: from a kubeconfig, a person's too, or from
//! inside a pod.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A client, and what is known of where it leads.
#[derive(Clone)]
pub struct Connection {
    /// The client; clones share its connections.
    pub client: Client,
    /// The namespace of the pod that this runs in, or of the kubeconfig's context.
    pub namespace: String,
}

/// No client can be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig can't be used.
    #[error("kubeconfig {path}: {cause}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: kube::config::KubeconfigError,
    },
    /// This isn't a pod, or its service account isn't mounted.
    #[error("no kubeconfig was given, and this is no pod with a service account: {0}")]
    NotInCluster(#[source] kube::config::InClusterError),
    /// Neither `KUBECONFIG` nor the home directory has a kubeconfig that can be used.
    #[error("no usable kubeconfig: {0}")]
    NoKubeconfig(#[source] kube::config::KubeconfigError),
    /// The certificates or the proxy that the configuration names don't work.
    #[error("client for the API server")]
    Client(#[source] kube::Error),
}

/// Makes a client; it connects when it is first used.
///
/// How long an answer may take is its asker's to say.
///
/// # Errors
/// No configuration, or one that can't be used.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Connection, ConnectError> {
    client_of(match kubeconfig {
        None => Config::incluster().map_err(ConnectError::NotInCluster)?,
        Some(path) => from_file(path, None).await?,
    })
}

/// Makes a client as a person's tools do: from the kubeconfig that is given, else from those of `KUBECONFIG`, else from
/// the one in the home directory; for the context that is given, else the current one.
///
/// # Errors
/// No configuration, or one that can't be used.
pub async fn connect_as_user(
    kubeconfig: Option<&Path>,
    context: Option<&str>,
) -> Result<Connection, ConnectError> {
    client_of(match kubeconfig {
        Some(path) => from_file(path, context).await?,
        None => {
            let file = Kubeconfig::read().map_err(ConnectError::NoKubeconfig)?;
            let config = Config::from_custom_kubeconfig(file, &of_context(context)).await;
            config.map_err(ConnectError::NoKubeconfig)?
        }
    })
}

fn client_of(mut config: Config) -> Result<Connection, ConnectError> {
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(WRITE);
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(ConnectError::Client)?;
    Ok(Connection { client, namespace })
}

async fn from_file(path: &Path, context: Option<&str>) -> Result<Config, ConnectError> {
    let refused = |cause| ConnectError::Kubeconfig {
        path: path.to_owned(),
        cause,
    };
    let file = Kubeconfig::read_from(path).map_err(refused)?;
    Config::from_custom_kubeconfig(file, &of_context(context))
        .await
        .map_err(refused)
}

fn of_context(context: Option<&str>) -> KubeConfigOptions {
    KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    }
}

const CONNECT: Duration = Duration::from_secs(10);
const WRITE: Duration = Duration::from_secs(30);
