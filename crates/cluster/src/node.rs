//! What one node's agent needs of the API server: the pods of its node, the
//! labels of namespaces, an annotation on its pods, and whether its own
//! DaemonSet is still wanted (`control-plane-contract` 1.1).

mod write;

use std::sync::Arc;

use ambit_kube::{Change, Kind, Loaded, NotAnObject, Object, ObjectKey, read_object};
use ambit_runtime::Scope;
use kube::Client;
use tokio::sync::mpsc;

pub use self::write::{AnnotateError, Annotated, OwnDaemonSet, annotate_pod, daemon_set};
use crate::follow::{Event, Following, Resource, Told};
use crate::metadata::Metadata;

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
    /// What vanished while nobody watched is told as deleted when a new list is
    /// complete. Nothing is told as deleted for want of a server.
    pub fn run(self, scope: &Scope, tx: mpsc::Sender<Vec<Change>>) {
        scope.spawn("node source", self.serve(tx));
    }

    async fn serve(self, tx: mpsc::Sender<Vec<Change>>) {
        let pods = Resource::all("", "v1", "pods");
        let pods = pods.selecting(&format!("spec.nodeName={}", self.node));
        let namespaces = Resource::all("", "v1", "namespaces").metadata();
        let all = [(Kind::Pod, pods), (Kind::Namespace, namespaces)];
        let mut unlisted: Vec<_> = all.iter().map(|(kind, _)| *kind).collect();
        let mut following = Following::new(&self.client);
        for (kind, resource) in all {
            following.follow(kind, resource, move |text| read(kind, text));
        }
        loop {
            let (kind, told) = tokio::select! {
                told = following.next() => told,
                () = tx.closed() => return,
            };
            let changes = match told {
                Told::Events(events) => events.into_iter().flat_map(|e| changes(kind, e)).collect(),
                Told::Listed if unlisted.contains(&kind) => {
                    unlisted.retain(|waiting| *waiting != kind);
                    match &*unlisted {
                        [] => vec![Change::Synced],
                        _ => continue,
                    }
                }
                Told::Listed | Told::Gone => continue,
            };
            if !changes.is_empty() && tx.send(changes).await.is_err() {
                return;
            }
        }
    }
}

/// As the compiler reads it, but with the version of a pod: by it the agent
/// knows its own writes.
fn read(kind: Kind, text: &[u8]) -> Result<Loaded, NotAnObject> {
    let mut loaded = read_object(kind, text)?;
    for located in &mut loaded.objects {
        if let Object::Pod(pod) = &mut located.object {
            let metadata = Metadata::read(text).map_err(|cause| NotAnObject { kind, cause })?;
            Arc::make_mut(pod).metadata.resource_version = Some(metadata.resource_version);
        }
    }
    Ok(loaded)
}

fn changes(kind: Kind, event: Event<Loaded>) -> Vec<Change> {
    match event {
        Event::Applied(_, read) => read.objects.into_iter().map(Change::Apply).collect(),
        Event::Deleted(name) => {
            let key = ObjectKey::new(kind, Arc::clone(&name.namespace), Arc::clone(&name.name));
            vec![Change::Delete(key)]
        }
    }
}

#[cfg(test)]
mod tests;
