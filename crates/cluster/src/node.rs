//! What one node's agent needs of the API server: the pods of its node, the
//! labels of namespaces, an annotation on its pods, and whether its own
//! DaemonSet is still wanted (`control-plane-contract` 1.1).

mod told;
mod write;

use std::fmt::Debug;
use std::sync::Arc;

use ambit_kube::{Change, Object};
use ambit_runtime::Scope;
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use self::told::Told;
pub use self::write::{AnnotateError, Annotated, OwnDaemonSet, annotate_pod, daemon_set};

/// The pods of one node and every namespace, as a source of changes.
#[derive(Clone)]
pub struct NodeSource {
    client: Client,
    node: String,
}

impl NodeSource {
    /// A source for the node of that name.
    pub fn new(client: Client, node: impl Into<String>) -> Self {
        let node = node.into();
        Self { client, node }
    }

    /// Starts a task on `scope` that sends a batch for every change, and
    /// [`Change::Synced`] once both lists have been told. Of namespaces, only
    /// the metadata is asked for.
    ///
    /// A watch that breaks is begun again, at a growing pace; what vanished
    /// meanwhile is told as deleted when the new list is complete. Nothing is
    /// told as deleted for want of a server.
    pub fn run(self, scope: &Scope, tx: mpsc::Sender<Vec<Change>>) {
        scope.spawn("node source", self.serve(tx));
    }

    async fn serve(self, tx: mpsc::Sender<Vec<Change>>) {
        let of_node = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let pods = kube::runtime::watcher(Api::<Pod>::all(self.client.clone()), of_node);
        let namespaces = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        let namespaces = kube::runtime::watcher(namespaces, watcher::Config::default());
        let pods = followed("pods", pods, |mut pod: Pod| {
            pod.metadata.managed_fields = None;
            Object::Pod(Arc::new(pod))
        });
        let namespaces = followed(
            "namespaces",
            namespaces,
            |found: PartialObjectMeta<Namespace>| {
                let mut metadata = found.metadata;
                metadata.managed_fields = None;
                Object::Namespace(Arc::new(Namespace {
                    metadata,
                    ..Namespace::default()
                }))
            },
        );
        let mut all = std::pin::pin!(stream::select(pods, namespaces));
        let mut missing = 2;
        while let Some((changes, complete)) = all.next().await {
            if !changes.is_empty() && tx.send(changes).await.is_err() {
                return;
            }
            missing -= usize::from(complete);
            if complete && missing == 0 && tx.send(vec![Change::Synced]).await.is_err() {
                return;
            }
        }
    }
}

/// Batches of one kind; true with the batch that makes its first list whole.
fn followed<K, S>(
    what: &'static str,
    events: S,
    convert: impl Fn(K) -> Object + Send,
) -> impl Stream<Item = (Vec<Change>, bool)>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    S: Stream<Item = Result<Event<K>, watcher::Error>> + Send,
{
    let mut told = Told::default();
    let mut silent = false;
    events.default_backoff().filter_map(move |event| {
        let news = match event {
            Ok(event) => {
                silent = false;
                told.take(event, &convert)
            }
            Err(error) => {
                // Once loudly, then quietly: a server that is away is away for a while.
                if std::mem::replace(&mut silent, true) {
                    debug!(what, %error, "the watch broke again");
                } else {
                    warn!(what, %error, "the watch broke; it is begun again until it holds");
                }
                None
            }
        };
        std::future::ready(news)
    })
}
