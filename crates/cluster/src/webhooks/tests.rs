use std::sync::atomic::{AtomicBool, Ordering};

use ambit_testkit::apiserver::{ApiServer, Trouble};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;

use super::*;
use crate::scripted;

#[derive(Default)]
struct Counts(Mutex<Vec<String>>);

impl PatchObserver for Counts {
    fn attempted(&self, name: &str) {
        self.0.lock().push(name.to_owned());
    }

    fn patched(&self) {}

    fn failed(&self, name: &str, reason: &'static str) {
        self.0.lock().push(format!("{name} {reason}"));
    }
}

const AT: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const OURS: [&str; 2] = ["istio-validator-istio-system", "istiod-default-validator"];
const THEIRS: &str = "istio-validator-1-24-istio-system";

fn config(name: &str) -> Value {
    let webhook = |of: &str| {
        json!({
            "name": of, "failurePolicy": "Ignore", "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "istiod", "namespace": "istio-system", "path": "/validate"}},
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [webhook("rev.validation.istio.io"), webhook("validation.istio.io")],
    })
}

/// The webhook as the API server finds it.
#[derive(Default)]
struct Webhook {
    is_reached: AtomicBool,
    /// There are no ServiceEntries here.
    lacks_entries: AtomicBool,
}

/// Configurations of ours and of somebody else.
struct World {
    api: ApiServer,
    webhook: Arc<Webhook>,
    bundle: watch::Sender<String>,
    counts: Arc<Counts>,
    scope: ambit_runtime::Scope,
}

impl Drop for World {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

fn cluster() -> ApiServer {
    let api = ApiServer::unbound();
    for name in OURS.into_iter().chain([THEIRS]) {
        api.add(AT, config(name));
    }
    api
}

fn start(api: ApiServer) -> World {
    let webhook = Arc::new(Webhook::default());
    let asked = Arc::clone(&webhook);
    api.trouble(move |verb, path| {
        let lacks = asked.lacks_entries.load(Ordering::Relaxed);
        let reached = asked.is_reached.load(Ordering::Relaxed);
        match verb {
            "POST" if lacks && path.ends_with("/serviceentries") => Some(Trouble::Refuse(404)),
            "POST" if reached => Some(Trouble::Say(400, ALWAYS_REJECTED)),
            _ => None,
        }
    });
    let (bundle, seen) = watch::channel("ROOT".to_owned());
    let counts = Arc::new(Counts::default());
    let observer = Arc::clone(&counts) as Arc<dyn PatchObserver>;
    let configs = WebhookConfigs::of("default", "istio-system");
    let scope = ambit_runtime::Scope::new("test");
    let client = scripted::unbound(&api);
    scope.spawn(
        "kept",
        keep_webhook_configs(client, configs, seen, observer),
    );
    World {
        api,
        webhook,
        bundle,
        counts,
        scope,
    }
}

impl World {
    /// The second configuration is gone, and nobody tries to write it.
    async fn the_first_alone_is_kept(&self) {
        self.counts.0.lock().clear();
        self.until("put right", |it| it.is(OURS[0], "ROOT", "Fail"))
            .await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        self.bundle.send_replace("ROOT2".to_owned());
        self.until("the new bundle", |it| it.is(OURS[0], "ROOT2", "Fail"))
            .await;
        let tried = self.counts.0.lock().clone();
        assert!(
            tried.iter().all(|name| name == OURS[0]),
            "the other one is gone: {tried:?}"
        );
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        scripted::until(what, || holds(self)).await;
    }

    fn get(&self, name: &str) -> Option<Value> {
        self.api.get(&format!("{AT}/{name}"))
    }

    /// Whether every webhook of a configuration has this bundle and policy.
    fn is(&self, name: &str, bundle: &str, policy: &str) -> bool {
        self.get(name).is_some_and(|config| {
            let webhooks = config["webhooks"].as_array().unwrap();
            webhooks.len() == 2
                && webhooks.iter().all(|webhook| {
                    webhook["clientConfig"]["caBundle"] == encoded(bundle)
                        && webhook["failurePolicy"] == policy
                        && webhook["clientConfig"]["service"]["name"] == "istiod"
                })
        })
    }

    fn are(&self, bundle: &str, policy: &str) -> bool {
        OURS.iter().all(|name| self.is(name, bundle, policy))
    }

    /// Bodies of objects that were tried.
    fn trials(&self) -> Vec<Value> {
        let served = self.api.served().into_iter();
        let tried = served.filter(|one| one.verb == "POST");
        tried.map(|one| one.body).collect()
    }

    fn reach(&self) {
        self.webhook.is_reached.store(true, Ordering::Relaxed);
    }
}

fn encoded(text: &str) -> Value {
    STANDARD.encode(text).into()
}

#[tokio::test(start_paused = true)]
async fn the_bundle_goes_in_at_once_and_strictness_only_after_the_proof() {
    let world = start(cluster());
    let theirs = world.get(THEIRS);
    world
        .until("the bundle", |it| it.are("ROOT", "Ignore"))
        .await;
    world.until("trials", |it| it.trials().len() > 3).await;
    assert!(world.are("ROOT", "Ignore"), "not reached yet");
    world.reach();
    world.until("strict", |it| it.are("ROOT", "Fail")).await;
    assert_eq!(world.get(THEIRS), theirs, "another revision's is let alone");
    let trials = world.trials();
    let marks = |trial: &Value| trial["metadata"]["annotations"][ALWAYS_REJECT] == "true";
    assert!(trials.iter().all(marks));
    assert_eq!(world.api.paths().len(), 3, "nothing was made of a trial");
    world.bundle.send_replace("ROOT2".to_owned());
    world
        .until("the new bundle", |it| it.are("ROOT2", "Fail"))
        .await;
    assert_eq!(world.trials().len(), trials.len(), "proved once");
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changes_is_put_right_again() {
    let world = start(cluster());
    world.webhook.lacks_entries.store(true, Ordering::Relaxed);
    world.reach();
    world.until("strict", |it| it.are("ROOT", "Fail")).await;
    let mut changed = world.get(OURS[1]).unwrap();
    changed["webhooks"][0]["clientConfig"]["caBundle"] = encoded("FORGED");
    changed["webhooks"][1]["failurePolicy"] = "Ignore".into();
    world.api.add(AT, changed);
    world.until("put right", |it| it.are("ROOT", "Fail")).await;
}

#[tokio::test(start_paused = true)]
async fn conflicts_are_tried_again_and_counted() {
    let api = cluster();
    for _ in 0..3 {
        api.trouble_once("PATCH", "", Trouble::Refuse(409));
    }
    let world = start(api);
    world
        .until("the bundle", |it| it.are("ROOT", "Ignore"))
        .await;
    let counts = world.counts.0.lock().clone();
    let conflicts = counts
        .iter()
        .filter(|what| what.ends_with(" conflict"))
        .count();
    assert!(conflicts >= 3, "{counts:?}");
}

/// The default validator isn't there in it, and the other one is as it was in the beginning.
#[tokio::test(start_paused = true)]
async fn a_restored_snapshot_is_believed_after_the_outage() {
    let api = ApiServer::unbound();
    api.add(AT, config(OURS[0]));
    let old = api.snapshot();
    api.add(AT, config(OURS[1]));
    let world = start(api);
    world.reach();
    world.until("strict", |it| it.are("ROOT", "Fail")).await;
    let api = &world.api;
    scripted::be_away(api, || {
        api.restore(&old);
        api.skip_to(1000);
    })
    .await;
    world.the_first_alone_is_kept().await;
    api.add(AT, config(OURS[1]));
    world
        .until("there again", |it| it.are("ROOT2", "Fail"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_happened_in_forgotten_history_is_made_up_for() {
    let world = start(cluster());
    world.reach();
    world.until("strict", |it| it.are("ROOT", "Fail")).await;
    let api = &world.api;
    scripted::forget_history(api, &[AT], || {
        api.add(AT, config(OURS[0]));
        api.remove(AT, "", OURS[1]);
    })
    .await;
    world.the_first_alone_is_kept().await;
}

#[test]
fn names_are_the_charts() {
    let of = |revision| WebhookConfigs::of(revision, "mesh").names;
    assert_eq!(
        of("default"),
        ["istio-validator-mesh", "istiod-default-validator"]
    );
    assert_eq!(of("canary"), ["istio-validator-canary-mesh"]);
}
