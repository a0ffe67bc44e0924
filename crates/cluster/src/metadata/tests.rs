use std::sync::Arc;

use ambit_runtime::Scope;
use ambit_testkit::apiserver::{ApiServer, Snapshot};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::scripted;

const AT: &str = "/apis/apps/v1/deployments";
const DEPLOYMENTS: Watched = Watched {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    selector: "managed=by-us",
};

/// A deployment, ours or not, of so many replicas.
fn deployment(name: &str, ours: bool, replicas: u8) -> Value {
    let managed = if ours { "by-us" } else { "by-them" };
    let metadata = json!({"name": name, "namespace": "shop", "labels": {"managed": managed}});
    json!({"metadata": metadata, "spec": {"replicas": replicas}})
}

/// What was seen of a server so far: `+name generation`, `-name`, and `all`.
struct World {
    api: ApiServer,
    seen: Arc<Mutex<Vec<String>>>,
    scope: Scope,
}

impl Drop for World {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

impl World {
    fn start(api: ApiServer) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (told, scope) = (Arc::clone(&seen), Scope::new("test"));
        let client = scripted::unbound(&api);
        let watching = watch_metadata(&client, DEPLOYMENTS, move |seen| {
            told.lock().push(match seen {
                Seen::Here(name, meta) => format!("+{} {}", name.name, meta.generation.unwrap()),
                Seen::Gone(name) => format!("-{}", name.name),
                Seen::All => "all".to_owned(),
            });
        });
        scope.spawn("watching", watching);
        Self { api, seen, scope }
    }

    /// Waits until this was seen since the last time, up to a whole list.
    async fn sees(&self, what: &[&str]) {
        let whole = || self.seen.lock().iter().any(|seen| seen == "all");
        scripted::until("a list", whole).await;
        let mut seen = std::mem::take(&mut *self.seen.lock());
        seen.sort();
        assert_eq!(seen, what);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_selected_is_seen_as_it_changes_and_goes() {
    let api = ApiServer::unbound();
    api.add(AT, deployment("a", true, 1));
    api.add(AT, deployment("b", false, 1));
    let world = World::start(api);
    world.sees(&["+a 1", "all"]).await;
    world.api.add(AT, deployment("a", true, 2));
    world.api.add(AT, deployment("b", true, 1));
    // Not ours any more.
    world.api.add(AT, deployment("a", false, 2));
    let three = || world.seen.lock().len() == 3;
    scripted::until("what changes", three).await;
    assert_eq!(*world.seen.lock(), ["+a 2", "+b 1", "-a"]);
}

/// A world that has seen more than a snapshot has.
async fn with_snapshot() -> (World, Snapshot) {
    let api = ApiServer::unbound();
    api.add(AT, deployment("changed", true, 1));
    api.add(AT, deployment("again", true, 1));
    let old = api.snapshot();
    api.add(AT, deployment("changed", true, 2));
    api.remove(AT, "shop", "again");
    api.add(AT, deployment("lost", true, 1));
    let world = World::start(api);
    world.sees(&["+changed 2", "+lost 1", "all"]).await;
    (world, old)
}

const RESTORED: [&str; 4] = ["+again 1", "+changed 1", "-lost", "all"];

#[tokio::test(start_paused = true)]
async fn a_restored_snapshot_is_believed_after_the_outage() {
    let (world, old) = with_snapshot().await;
    scripted::be_away(&world.api, || {
        world.api.restore(&old);
        world.api.skip_to(1000);
    })
    .await;
    world.sees(&RESTORED).await;
}

/// The outage is over before anybody asks again: a watch that broke is all that shows of it.
#[tokio::test(start_paused = true)]
async fn a_restored_snapshot_is_believed_after_a_broken_watch() {
    let refused = json!({"type": "ERROR", "object": {"code": 500, "message": "stopping"}});
    for line in [refused.to_string(), "half a li".to_owned()] {
        let (world, old) = with_snapshot().await;
        world.api.inject(AT, &line);
        world.api.restore(&old);
        world.api.skip_to(1000);
        world.sees(&RESTORED).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_happened_in_forgotten_history_is_made_up_for() {
    let api = ApiServer::unbound();
    for name in ["changed", "gone", "same"] {
        api.add(AT, deployment(name, true, 1));
    }
    let world = World::start(api);
    world
        .sees(&["+changed 1", "+gone 1", "+same 1", "all"])
        .await;
    scripted::forget_history(&world.api, &[AT], || {
        world.api.add(AT, deployment("changed", true, 2));
        world.api.remove(AT, "shop", "gone");
        world.api.add(AT, deployment("new", true, 1));
    })
    .await;
    world.sees(&["+changed 2", "+new 1", "-gone", "all"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_served_is_waited_for() {
    let world = World::start(ApiServer::unbound());
    let served = || world.api.served().len();
    world
        .api
        .trouble(|_, _| Some(ambit_testkit::apiserver::Trouble::Refuse(404)));
    scripted::until("asked again", || served() > 4).await;
    world.api.calm();
    world.api.add(AT, deployment("a", true, 1));
    world.sees(&["+a 1", "all"]).await;
}
