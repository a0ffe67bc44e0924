use std::collections::BTreeMap;

use ambit_testkit::apiserver::ApiServer;
use serde_json::{Value, json};
use tokio::time::{Duration, timeout};

use super::*;
use crate::scripted;

const PODS: &str = "/api/v1/pods";
const NAMESPACES: &str = "/api/v1/namespaces";

fn pod(name: &str, node: &str, phase: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("u-{name}"),
                     "annotations": {"kubernetes.io/config.hash": "h", "other": "x"}},
        "spec": {"nodeName": node, "serviceAccountName": "cart", "containers": [{"name": "c"}]},
        "status": {"phase": phase},
    })
}

fn namespace(name: &str, mode: &str) -> Value {
    let labels = json!({"istio.io/dataplane-mode": mode});
    json!({"metadata": {"name": name, "labels": labels}, "spec": {"finalizers": ["kubernetes"]}})
}

/// What the agent of the node `n1` has heard of a server.
struct World {
    api: ApiServer,
    changes: mpsc::Receiver<Vec<Change>>,
    scope: Scope,
    /// By `Kind name`: a pod's phase, or a namespace's mode.
    objects: BTreeMap<String, String>,
    synced: usize,
    last: Option<Object>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

impl World {
    async fn start(api: ApiServer) -> Self {
        let (tx, changes) = mpsc::channel(8);
        let scope = Scope::new("test");
        NodeSource::new(scripted::unbound(&api), "n1").run(&scope, tx);
        let mut world = Self {
            api,
            changes,
            scope,
            objects: BTreeMap::new(),
            synced: 0,
            last: None,
        };
        world.until("both lists", |it| it.synced == 1).await;
        world
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Apply(located) => {
                let object = located.object;
                let shown = match &object {
                    Object::Pod(pod) => pod.status.as_ref().and_then(|s| s.phase.clone()),
                    other => {
                        let labels = other.metadata().and_then(|meta| meta.labels.as_ref());
                        labels.and_then(|all| all.get("istio.io/dataplane-mode").cloned())
                    }
                };
                let key = object.key();
                let name = format!("{} {}", key.kind, key.name);
                self.objects.insert(name, shown.unwrap_or_default());
                self.last = Some(object);
            }
            Change::Delete(key) => {
                let known = self.objects.remove(&format!("{} {}", key.kind, key.name));
                assert!(known.is_some(), "{key} was told");
            }
            Change::Synced => self.synced += 1,
            other => panic!("{other:?}"),
        }
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            let batch = timeout(Duration::from_secs(60), self.changes.recv()).await;
            let Ok(Some(batch)) = batch else {
                panic!("never: {what}; {:?}", self.objects);
            };
            batch.into_iter().for_each(|change| self.take(change));
        }
    }

    async fn until_there_are(&mut self, objects: &[(&str, &str)]) {
        let own = |(name, shown): &(&str, &str)| ((*name).to_owned(), (*shown).to_owned());
        let want: BTreeMap<_, _> = objects.iter().map(own).collect();
        self.until(&format!("{want:?}"), |it| it.objects == want)
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn pods_of_the_node_and_all_namespaces_are_told_with_what_matters_of_them() {
    let api = ApiServer::unbound();
    api.add(NAMESPACES, namespace("shop", "ambient"));
    let version = api.add(PODS, pod("here", "n1", "Running"));
    api.add(PODS, pod("there", "n2", "Running"));
    let mut world = World::start(api).await;
    world
        .until_there_are(&[("Namespace shop", "ambient"), ("Pod here", "Running")])
        .await;
    let changed = world.api.add(PODS, pod("here", "n1", "Succeeded"));
    world
        .until_there_are(&[("Namespace shop", "ambient"), ("Pod here", "Succeeded")])
        .await;
    let Some(Object::Pod(told)) = &world.last else {
        panic!("{:?}", world.last);
    };
    assert_ne!(version, changed);
    let metadata = &told.metadata;
    assert_eq!(metadata.resource_version, Some(changed.to_string()));
    let annotations = metadata.annotations.as_ref().unwrap();
    let annotations: Vec<_> = annotations.keys().collect();
    assert_eq!(annotations, ["kubernetes.io/config.hash"]);
    world.api.add(NAMESPACES, namespace("shop", "none"));
    world.api.remove(PODS, "shop", "here");
    world.until_there_are(&[("Namespace shop", "none")]).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_stops_nothing_and_stays_as_it_was() {
    let api = ApiServer::unbound();
    api.add(PODS, pod("a", "n1", "Running"));
    let mut world = World::start(api).await;
    let mut strange = pod("a", "n1", "Failed");
    strange["status"]["phase"] = json!(["Failed"]);
    world.api.add(PODS, strange);
    world.api.add(PODS, pod("b", "n1", "Running"));
    world
        .until_there_are(&[("Pod a", "Running"), ("Pod b", "Running")])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_restored_snapshot_is_believed_after_the_outage() {
    let api = ApiServer::unbound();
    api.add(NAMESPACES, namespace("shop", "none"));
    api.add(PODS, pod("changed", "n1", "Pending"));
    api.add(PODS, pod("again", "n1", "Running"));
    let old = api.snapshot();
    api.add(NAMESPACES, namespace("shop", "ambient"));
    api.add(NAMESPACES, namespace("late", "ambient"));
    api.add(PODS, pod("changed", "n1", "Running"));
    api.add(PODS, pod("lost", "n1", "Running"));
    api.remove(PODS, "shop", "again");
    let mut world = World::start(api).await;
    let api = world.api.clone();
    scripted::be_away(&api, || {
        api.restore(&old);
        api.skip_to(1000);
    })
    .await;
    let restored = [
        ("Namespace shop", "none"),
        ("Pod again", "Running"),
        ("Pod changed", "Pending"),
    ];
    world.until_there_are(&restored).await;
    // And what happens from then on.
    api.add(NAMESPACES, namespace("shop", "ambient"));
    api.remove(PODS, "shop", "changed");
    let after = [("Namespace shop", "ambient"), ("Pod again", "Running")];
    world.until_there_are(&after).await;
    assert_eq!(world.synced, 1);
}

#[tokio::test(start_paused = true)]
async fn what_happened_in_forgotten_history_is_made_up_for() {
    let api = ApiServer::unbound();
    api.add(NAMESPACES, namespace("shop", "none"));
    api.add(PODS, pod("changed", "n1", "Pending"));
    api.add(PODS, pod("gone", "n1", "Running"));
    let mut world = World::start(api).await;
    let api = world.api.clone();
    scripted::forget_history(&api, &[PODS, NAMESPACES], || {
        api.add(NAMESPACES, namespace("shop", "ambient"));
        api.add(PODS, pod("changed", "n1", "Running"));
        api.remove(PODS, "shop", "gone");
    })
    .await;
    let after = [("Namespace shop", "ambient"), ("Pod changed", "Running")];
    world.until_there_are(&after).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_gone_for_want_of_a_server() {
    let api = ApiServer::unbound();
    api.add(PODS, pod("a", "n1", "Running"));
    let mut world = World::start(api).await;
    let api = world.api.clone();
    scripted::be_away(&api, || ()).await;
    api.add(PODS, pod("b", "n1", "Running"));
    world
        .until_there_are(&[("Pod a", "Running"), ("Pod b", "Running")])
        .await;
}
