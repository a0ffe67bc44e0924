use std::sync::atomic::{AtomicUsize, Ordering};

use ambit_testkit::apiserver::{ApiServer, Trouble};
use serde_json::Value;

use super::*;
use crate::scripted;

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

const OF_NAMESPACES: &str = "/api/v1/namespaces";
const OF_MAPS: &str = "/api/v1/configmaps";

fn namespace(api: &ApiServer, name: &str, labels: Value) {
    let object = json!({"metadata": {"name": name, "labels": labels}});
    api.add(OF_NAMESPACES, object);
}

/// A cluster with namespaces without labels.
fn cluster(namespaces: &[&str]) -> ApiServer {
    let api = ApiServer::unbound();
    for name in namespaces {
        namespace(&api, name, json!({}));
    }
    api
}

fn map(api: &ApiServer, namespace: &str, name: &str, labels: Value, text: &str) {
    let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
    api.add(
        OF_MAPS,
        json!({"metadata": metadata, "data": {key(name): text}}),
    );
}

struct World {
    api: ApiServer,
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

fn start(api: ApiServer) -> World {
    let (published, seen) = watch::channel(published("ROOT"));
    let counts = Arc::new(Counts::default());
    let observer = Arc::clone(&counts) as Arc<dyn RootMapObserver>;
    let scope = ambit_runtime::Scope::new("test");
    let client = scripted::unbound(&api);
    scope.spawn("kept", keep_root_maps(client, seen, observer));
    World {
        api,
        published,
        counts,
        scope,
    }
}

impl World {
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        scripted::until(what, || holds(self)).await;
    }

    fn value(&self, namespace: &str, name: &str) -> Option<String> {
        let path = format!("{OF_NAMESPACES}/{namespace}/configmaps/{name}");
        let map = self.api.get(&path)?;
        let labelled = map["metadata"]["labels"]["istio.io/config"] == "true";
        let value = map["data"][key(name)].as_str().filter(|_| labelled);
        value.map(str::to_owned)
    }

    /// The ConfigMaps that there are.
    fn maps(&self) -> usize {
        let paths = self.api.paths().into_iter();
        paths.filter(|path| path.contains("/configmaps/")).count()
    }

    /// Whether these namespaces have this root, and no others have any.
    fn rooted(&self, namespaces: &[&str], root: &str) -> bool {
        let all = || namespaces.iter();
        self.maps() == 2 * namespaces.len()
            && all().all(|of| self.value(of, ROOTS).as_deref() == Some(root))
            && all().all(|of| self.value(of, REVOKED).as_deref() == Some(""))
    }

    fn applied(&self) -> usize {
        let served = self.api.served().into_iter();
        served.filter(|one| one.verb == "APPLY").count()
    }
}

#[tokio::test(start_paused = true)]
async fn every_namespace_but_the_excluded_ones_gets_both() {
    let world = start(cluster(&[
        "default",
        "kube-system",
        "kube-public",
        "kube-node-lease",
        "local-path-storage",
    ]));
    world
        .until("both", |it| it.rooted(&["default", "kube-system"], "ROOT"))
        .await;
    namespace(&world.api, "late", json!({}));
    let with_late = ["default", "kube-system", "late"];
    world
        .until("a new namespace", |it| it.rooted(&with_late, "ROOT"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_comes_back_and_what_is_edited_is_corrected() {
    let world = start(cluster(&["shop"]));
    let good = |it: &World| it.rooted(&["shop"], "ROOT");
    world.until("made", good).await;
    world.api.remove(OF_MAPS, "shop", ROOTS);
    world.until("made again", good).await;
    let labelled = || json!({LABEL: "true"});
    map(&world.api, "shop", ROOTS, labelled(), "FORGED");
    world.until("corrected", good).await;
    map(&world.api, "shop", ROOTS, json!({}), "ROOT");
    world.until("labelled", good).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_stops_nothing() {
    let api = cluster(&["shop"]);
    let strange = json!({"metadata": {"name": "strange", "labels": ["a"]}});
    api.add(OF_NAMESPACES, strange);
    let world = start(api);
    world.until("made", |it| it.rooted(&["shop"], "ROOT")).await;
    let strange = json!({"metadata": {"name": ROOTS, "namespace": "strange"}, "data": "text"});
    world.api.add(OF_MAPS, strange);
    world.api.remove(OF_MAPS, "shop", ROOTS);
    let again = |it: &World| it.value("shop", ROOTS).is_some();
    world.until("made again", again).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_bundle_goes_everywhere_and_what_is_right_is_not_written() {
    let api = cluster(&["a", "b"]);
    for (name, text) in [(ROOTS, "ROOT"), (REVOKED, "")] {
        map(&api, "a", name, json!({LABEL: "true"}), text);
    }
    let world = start(api);
    world
        .until("b's", |it| it.rooted(&["a", "b"], "ROOT"))
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.applied(), 2, "a's were right");
    world.published.send_replace(published("ROOT2"));
    world
        .until("the new bundle", |it| it.rooted(&["a", "b"], "ROOT2"))
        .await;
    assert_eq!(world.applied(), 4, "the other map isn't touched");
    assert_eq!(world.counts.written.load(Ordering::Relaxed), 4);
}

#[tokio::test(start_paused = true)]
async fn discovery_is_followed_and_nothing_is_written_without_roots() {
    let api = cluster(&["out"]);
    namespace(&api, "in", json!({"mesh": "yes"}));
    let world = start(api);
    let discovers: Discovers = Arc::new(|labels| labels.contains_key("mesh"));
    let with = |roots: &str| Published {
        discovers: Some(Arc::clone(&discovers)),
        ..published(roots)
    };
    world.published.send_replace(with(""));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.maps(), 0);
    world.published.send_replace(with("ROOT"));
    world
        .until("the discovered one", |it| it.rooted(&["in"], "ROOT"))
        .await;
    namespace(&world.api, "out", json!({"mesh": "now"}));
    world
        .until("the other one", |it| it.rooted(&["in", "out"], "ROOT"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn conflicts_and_outages_are_tried_again_and_an_ending_namespace_waits() {
    let api = cluster(&["shop"]);
    let ending = "unable to create new content in namespace shop because it is being terminated";
    for trouble in [
        Trouble::LoseAnswer(500),
        Trouble::Refuse(500),
        Trouble::Refuse(409),
        Trouble::Say(403, ending),
    ] {
        api.trouble_once("APPLY", "", trouble);
    }
    let world = start(api);
    world
        .until("written in the end", |it| it.rooted(&["shop"], "ROOT"))
        .await;
    assert_eq!(world.counts.failed.load(Ordering::Relaxed), 3);
}

/// As servers do that have no such namespace.
fn refuse_writes_to(api: &ApiServer, namespace: &str) {
    let of = format!("{OF_NAMESPACES}/{namespace}/");
    api.trouble(move |verb, path| {
        (verb == "APPLY" && path.starts_with(&of)).then_some(Trouble::Refuse(404))
    });
}

/// What is there afterwards has both, and what isn't is let alone.
#[tokio::test(start_paused = true)]
async fn a_restored_snapshot_is_believed_after_the_outage() {
    let world = start(cluster(&["shop"]));
    world.until("made", |it| it.rooted(&["shop"], "ROOT")).await;
    let old = world.api.snapshot();
    namespace(&world.api, "lost", json!({}));
    world.published.send_replace(published("ROOT2"));
    let before = |it: &World| it.rooted(&["shop", "lost"], "ROOT2");
    world.until("the new bundle", before).await;
    let api = &world.api;
    scripted::be_away(api, || {
        refuse_writes_to(api, "lost");
        api.restore(&old);
        api.skip_to(1000);
        namespace(api, "found", json!({}));
    })
    .await;
    let after = |it: &World| it.rooted(&["shop", "found"], "ROOT2");
    world.until("what is there", after).await;
    namespace(api, "later", json!({}));
    let later = |it: &World| it.rooted(&["shop", "found", "later"], "ROOT2");
    world.until("what comes later", later).await;
}

#[tokio::test(start_paused = true)]
async fn what_happened_in_forgotten_history_is_made_up_for() {
    let world = start(cluster(&["shop", "gone"]));
    let api = &world.api;
    let before = |it: &World| it.rooted(&["shop", "gone"], "ROOT");
    world.until("made", before).await;
    scripted::forget_history(api, &[OF_NAMESPACES, OF_MAPS], || {
        refuse_writes_to(api, "gone");
        api.remove(OF_NAMESPACES, "", "gone");
        for name in [ROOTS, REVOKED] {
            api.remove(OF_MAPS, "gone", name);
        }
        api.remove(OF_MAPS, "shop", ROOTS);
        namespace(api, "new", json!({}));
    })
    .await;
    let after = |it: &World| it.rooted(&["shop", "new"], "ROOT");
    world.until("what is there", after).await;
}
