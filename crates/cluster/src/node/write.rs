//! A node agent's writes, and its one question about itself.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::json;

/// What became of an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Annotated {
    /// It is as asked.
    Written,
    /// The pod is gone, or another pod has its name.
    NoSuchPod,
}

/// An annotation couldn't be written.
#[derive(Debug, thiserror::Error)]
#[error("annotate pod {namespace}/{name}")]
pub struct AnnotateError {
    namespace: String,
    name: String,
    /// True if the agent's role doesn't let it.
    pub forbidden: bool,
    #[source]
    cause: Error,
}

/// Sets one annotation of a pod through its `status` subresource, or takes it
/// away, unless a pod with another uid has that name by now.
///
/// # Errors
/// If the API server can't be reached or refuses.
pub async fn annotate_pod(
    client: &Client,
    (namespace, name, uid): (&str, &str, &str),
    annotation: &str,
    value: Option<&str>,
) -> Result<Annotated, AnnotateError> {
    // The uid in the patch makes it one for this incarnation: another one is a conflict.
    let patch = json!({"metadata": {"uid": uid, "annotations": {annotation: value}}});
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    match pods.patch_status(name, &params, &patch).await {
        Ok(_) => Ok(Annotated::Written),
        Err(Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Annotated::NoSuchPod),
        Err(cause) => Err(AnnotateError {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            forbidden: matches!(&cause, Error::Api(status) if status.code == 403),
            cause,
        }),
    }
}

/// What the API server says of the DaemonSet that an agent belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnDaemonSet {
    /// It's wanted.
    There,
    /// It's deleted, or about to be.
    Gone,
    /// The agent may not ask: its account or its role is gone.
    NotAllowed,
    /// The API server can't be reached, or doesn't know.
    Unknown,
}

/// Asks for a DaemonSet.
pub async fn daemon_set(client: &Client, namespace: &str, name: &str) -> OwnDaemonSet {
    let found = Api::<DaemonSet>::namespaced(client.clone(), namespace)
        .get_metadata(name)
        .await;
    match found {
        Ok(found) if found.metadata.deletion_timestamp.is_none() => OwnDaemonSet::There,
        Ok(_) => OwnDaemonSet::Gone,
        Err(Error::Api(status)) => match status.code {
            404 => OwnDaemonSet::Gone,
            401 | 403 => OwnDaemonSet::NotAllowed,
            _ => OwnDaemonSet::Unknown,
        },
        Err(_) => OwnDaemonSet::Unknown,
    }
}
