use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde_json::Value;

use super::*;
use crate::scripted::{self, Asked, failure};

#[derive(Default)]
struct Counts {
    written: AtomicUsize,
    failed: AtomicUsize,
}

impl RootMapObserver for Counts {
    fn written(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Namespaces and ConfigMaps of a cluster, with lists, watches and applies.
#[derive(Default)]
struct Cluster {
    version: u64,
    namespaces: BTreeMap<String, Value>,
    maps: BTreeMap<(String, String), Value>,
    /// What watches are to be told: version, path's end, event.
    events: Vec<(u64, String, Value)>,
    /// Answers to the next applies.
    refuse: Vec<(u16, Value)>,
    applied: usize,
}

type Shared = Arc<Mutex<Cluster>>;

impl Cluster {
    fn namespace(&mut self, name: &str, labels: Value) {
        self.version += 1;
        let kind = if self.namespaces.contains_key(name) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        let object = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": name, "labels": labels, "resourceVersion": self.version.to_string()},
        });
        self.namespaces.insert(name.to_owned(), object.clone());
        let event = json!({"type": kind, "object": object});
        self.events
            .push((self.version, "namespaces".to_owned(), event));
    }

    fn map(&mut self, namespace: &str, name: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["namespace"] = namespace.into();
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let place = (namespace.to_owned(), name.to_owned());
        let kind = if self.maps.contains_key(&place) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        self.maps.insert(place, object.clone());
        let event = json!({"type": kind, "object": object});
        self.events.push((self.version, name.to_owned(), event));
    }

    fn delete_map(&mut self, namespace: &str, name: &str) {
        self.version += 1;
        let place = (namespace.to_owned(), name.to_owned());
        let mut object = self.maps.remove(&place).unwrap();
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let event = json!({"type": "DELETED", "object": object});
        self.events.push((self.version, name.to_owned(), event));
    }

    fn value(&self, namespace: &str, name: &str) -> Option<String> {
        let map = self.maps.get(&(namespace.to_owned(), name.to_owned()))?;
        assert_eq!(map["metadata"]["labels"]["istio.io/config"], "true");
        let data = map["data"].as_object().unwrap();
        let key = key(if name == ROOTS { ROOTS } else { REVOKED });
        data.get(key)
            .map(|value| value.as_str().unwrap().to_owned())
    }

    fn rooted(&self) -> Vec<&str> {
        let maps = self.maps.keys().filter(|(_, name)| name == ROOTS);
        maps.map(|(namespace, _)| namespace.as_str()).collect()
    }
}

async fn answer(cluster: Shared, asked: Asked) -> (u16, Value) {
    let query = |key: &str| {
        let mut pairs = asked
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(k, _)| *k == key)
            .map(|(_, value)| value.to_owned())
    };
    let what = match query("fieldSelector") {
        Some(selector) => {
            let encoded = selector.replace("%3D", "=");
            encoded.rsplit('=').next().unwrap().to_owned()
        }
        None => "namespaces".to_owned(),
    };
    if asked.method == "PATCH" {
        let mut cluster = cluster.lock();
        if let Some(refusal) = cluster.refuse.pop() {
            return refusal;
        }
        let parts: Vec<&str> = asked.path.split('/').collect();
        let (namespace, name) = (parts[4], parts[6]);
        cluster.applied += 1;
        cluster.map(namespace, name, asked.body.clone());
        return (
            200,
            cluster.maps[&(namespace.to_owned(), name.to_owned())].clone(),
        );
    }
    if query("watch").is_none() {
        let cluster = cluster.lock();
        let items: Vec<Value> = match what.as_str() {
            "namespaces" => cluster.namespaces.values().cloned().collect(),
            name => {
                let of = cluster.maps.iter().filter(|((_, of), _)| of == name);
                of.map(|(_, map)| map.clone()).collect()
            }
        };
        let kind = if what == "namespaces" {
            "PartialObjectMetadataList"
        } else {
            "ConfigMapList"
        };
        let version = cluster.version.to_string();
        return (
            200,
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"resourceVersion": version}, "items": items}),
        );
    }
    let from: u64 = query("resourceVersion").unwrap().parse().unwrap();
    loop {
        {
            let cluster = cluster.lock();
            let told = cluster
                .events
                .iter()
                .find(|(version, of, _)| *version > from && *of == what);
            if let Some((_, _, event)) = told {
                return (200, event.clone());
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct World {
    cluster: Shared,
    published: watch::Sender<Published>,
    counts: Arc<Counts>,
    scope: ambit_runtime::Scope,
}

impl Drop for World {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

fn published(roots: &str) -> Published {
    Published {
        roots: roots.to_owned(),
        revoked: Some(String::new()),
        discovers: None,
    }
}

fn start(cluster: Cluster) -> World {
    let cluster = Arc::new(Mutex::new(cluster));
    let shared = Arc::clone(&cluster);
    let (client, _) = scripted::client(move |asked| answer(Arc::clone(&shared), asked));
    let (published, seen) = watch::channel(published("ROOT"));
    let counts = Arc::new(Counts::default());
    let observer = Arc::clone(&counts) as Arc<dyn RootMapObserver>;
    let scope = ambit_runtime::Scope::new("test");
    scope.spawn("kept", keep_root_maps(client, seen, observer));
    World {
        cluster,
        published,
        counts,
        scope,
    }
}

impl World {
    async fn until(&self, what: &str, holds: impl Fn(&Cluster) -> bool) {
        for _ in 0..3000 {
            if holds(&self.cluster.lock()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: {:?}", self.cluster.lock().maps);
    }
}

#[tokio::test(start_paused = true)]
async fn every_namespace_but_the_excluded_ones_gets_both() {
    let mut cluster = Cluster::default();
    for name in [
        "default",
        "kube-system",
        "kube-public",
        "kube-node-lease",
        "local-path-storage",
    ] {
        cluster.namespace(name, json!({}));
    }
    let world = start(cluster);
    world.until("both", |c| c.maps.len() == 4).await;
    assert_eq!(world.cluster.lock().rooted(), ["default", "kube-system"]);
    assert_eq!(
        world.cluster.lock().value("default", ROOTS).unwrap(),
        "ROOT"
    );
    assert_eq!(world.cluster.lock().value("default", REVOKED).unwrap(), "");
    world.cluster.lock().namespace("late", json!({}));
    world
        .until("a new namespace", |c| c.rooted().contains(&"late"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_comes_back_and_what_is_edited_is_corrected() {
    let mut cluster = Cluster::default();
    cluster.namespace("shop", json!({}));
    let world = start(cluster);
    let good = |c: &Cluster| c.maps.len() == 2 && c.value("shop", ROOTS).as_deref() == Some("ROOT");
    world.until("made", good).await;
    world.cluster.lock().delete_map("shop", ROOTS);
    world.until("made again", good).await;
    let edited = json!({"metadata": {"name": ROOTS, "labels": {LABEL: "true"}}, "data": {"root-cert.pem": "FORGED"}});
    world.cluster.lock().map("shop", ROOTS, edited);
    world.until("corrected", good).await;
    let before = world.cluster.lock().applied;
    let unlabelled = json!({"metadata": {"name": ROOTS}, "data": {"root-cert.pem": "ROOT"}});
    world.cluster.lock().map("shop", ROOTS, unlabelled);
    world.until("labelled", |c| c.applied > before).await;
    world.until("labelled", good).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_bundle_goes_everywhere_and_what_is_right_is_not_written() {
    let mut cluster = Cluster::default();
    cluster.namespace("a", json!({}));
    cluster.namespace("b", json!({}));
    for name in [ROOTS, REVOKED] {
        let text = if name == ROOTS { "ROOT" } else { "" };
        let map = json!({"metadata": {"name": name, "labels": {LABEL: "true"}}, "data": {key(name): text}});
        cluster.map("a", name, map);
    }
    let world = start(cluster);
    world.until("b's", |c| c.maps.len() == 4).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.cluster.lock().applied, 2, "a's were right");
    world.published.send_replace(published("ROOT2"));
    let all = |c: &Cluster| {
        ["a", "b"]
            .iter()
            .all(|ns| c.value(ns, ROOTS).as_deref() == Some("ROOT2"))
    };
    world.until("the new bundle", all).await;
    assert_eq!(
        world.cluster.lock().applied,
        4,
        "the other map isn't touched"
    );
    assert_eq!(world.counts.written.load(Ordering::Relaxed), 4);
}

#[tokio::test(start_paused = true)]
async fn discovery_is_followed_and_nothing_is_written_without_roots() {
    let mut cluster = Cluster::default();
    cluster.namespace("in", json!({"mesh": "yes"}));
    cluster.namespace("out", json!({}));
    let world = start(cluster);
    let discovers: Discovers = Arc::new(|labels| labels.contains_key("mesh"));
    world.published.send_replace(Published {
        discovers: Some(Arc::clone(&discovers)),
        ..published("")
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(world.cluster.lock().maps.is_empty());
    world.published.send_replace(Published {
        discovers: Some(discovers),
        ..published("ROOT")
    });
    world
        .until("the discovered one", |c| c.rooted() == ["in"])
        .await;
    world
        .cluster
        .lock()
        .namespace("out", json!({"mesh": "now"}));
    world
        .until("the other one", |c| c.rooted() == ["in", "out"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn conflicts_and_outages_are_tried_again_and_an_ending_namespace_waits() {
    let mut cluster = Cluster::default();
    cluster.namespace("shop", json!({}));
    let mut ending = failure(403, "Forbidden");
    ending.1["message"] =
        "unable to create new content in namespace shop because it is being terminated".into();
    cluster.refuse = vec![
        ending,
        failure(409, "Conflict"),
        failure(500, "InternalError"),
        (0, json!({})),
    ];
    let world = start(cluster);
    world
        .until("written in the end", |c| c.maps.len() == 2)
        .await;
    assert_eq!(world.counts.failed.load(Ordering::Relaxed), 3);
}
