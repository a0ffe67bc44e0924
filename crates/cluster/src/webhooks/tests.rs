use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;

use super::*;
use crate::scripted::{self, Asked, failure};

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

/// Two configurations of ours, one of somebody else, and whether the webhook is reached.
struct Cluster {
    version: u64,
    configs: BTreeMap<String, Value>,
    events: Vec<(u64, Value)>,
    reached: bool,
    has_entries: bool,
    conflicts: usize,
    trials: usize,
}

const OURS: [&str; 2] = ["istio-validator-istio-system", "istiod-default-validator"];

fn cluster() -> Cluster {
    let config = |name: &str| {
        let webhook = |of: &str| {
            json!({
                "name": of, "failurePolicy": "Ignore", "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"service": {"name": "istiod", "namespace": "istio-system", "path": "/validate"}},
            })
        };
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name, "resourceVersion": "1"},
            "webhooks": [webhook("rev.validation.istio.io"), webhook("validation.istio.io")],
        })
    };
    let names = OURS
        .into_iter()
        .chain(["istio-validator-1-24-istio-system"]);
    Cluster {
        version: 1,
        configs: names.map(|name| (name.to_owned(), config(name))).collect(),
        events: Vec::new(),
        reached: false,
        has_entries: true,
        conflicts: 0,
        trials: 0,
    }
}

type Shared = Arc<Mutex<Cluster>>;

impl Cluster {
    fn all(&self, pointer: &str, want: &Value) -> bool {
        OURS.iter().all(|name| {
            (0..2).all(|at| {
                self.configs[*name].pointer(&format!("/webhooks/{at}{pointer}")) == Some(want)
            })
        })
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Value)) -> Value {
        self.version += 1;
        let config = self.configs.get_mut(name).unwrap();
        change(config);
        config["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.events.push((
            self.version,
            json!({"type": "MODIFIED", "object": config.clone()}),
        ));
        config.clone()
    }
}

async fn answer(cluster: Shared, asked: Asked) -> (u16, Value) {
    if asked.method == "POST" {
        let mut cluster = cluster.lock();
        assert!(asked.query.contains("dryRun=All"), "{}", asked.query);
        assert_eq!(asked.body["metadata"]["annotations"][ALWAYS_REJECT], "true");
        cluster.trials += 1;
        if asked.path.contains("serviceentries") && !cluster.has_entries {
            return failure(404, "NotFound");
        }
        if !cluster.reached {
            return (201, asked.body);
        }
        let mut refused = failure(400, "BadRequest");
        refused.1["message"] =
            format!("admission webhook denied the request: {ALWAYS_REJECTED}").into();
        return refused;
    }
    if asked.method == "PATCH" {
        let mut cluster = cluster.lock();
        if cluster.conflicts > 0 {
            cluster.conflicts -= 1;
            return failure(409, "Conflict");
        }
        let name = asked.path.rsplit('/').next().unwrap();
        if asked.body["metadata"]["resourceVersion"]
            != cluster.configs[name]["metadata"]["resourceVersion"]
        {
            return failure(409, "Conflict");
        }
        let changed = cluster.change(name, |config| {
            for patch in asked.body["webhooks"].as_array().unwrap() {
                let webhooks = config["webhooks"].as_array_mut().unwrap();
                let webhook = webhooks
                    .iter_mut()
                    .find(|w| w["name"] == patch["name"])
                    .unwrap();
                if let Some(policy) = patch.get("failurePolicy") {
                    webhook["failurePolicy"] = policy.clone();
                }
                if let Some(bundle) = patch.pointer("/clientConfig/caBundle") {
                    webhook["clientConfig"]["caBundle"] = bundle.clone();
                }
            }
        });
        return (200, changed);
    }
    if !asked.query.contains("watch=") {
        let cluster = cluster.lock();
        let items: Vec<&Value> = cluster.configs.values().collect();
        let version = cluster.version.to_string();
        return (
            200,
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
        );
    }
    let from = asked
        .query
        .split('&')
        .find_map(|pair| pair.strip_prefix("resourceVersion="));
    let from: u64 = from.unwrap().parse().unwrap();
    loop {
        let told = cluster
            .lock()
            .events
            .iter()
            .find(|(version, _)| *version > from)
            .cloned();
        if let Some((_, event)) = told {
            return (200, event);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct World {
    cluster: Shared,
    bundle: watch::Sender<String>,
    counts: Arc<Counts>,
    scope: ambit_runtime::Scope,
}

impl Drop for World {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

fn start(cluster: Cluster) -> World {
    let cluster = Arc::new(Mutex::new(cluster));
    let shared = Arc::clone(&cluster);
    let (client, _) = scripted::client(move |asked| answer(Arc::clone(&shared), asked));
    let (bundle, seen) = watch::channel("ROOT".to_owned());
    let counts = Arc::new(Counts::default());
    let observer = Arc::clone(&counts) as Arc<dyn PatchObserver>;
    let configs = WebhookConfigs::of("default", "istio-system");
    let scope = ambit_runtime::Scope::new("test");
    scope.spawn(
        "kept",
        keep_webhook_configs(client, configs, seen, observer),
    );
    World {
        cluster,
        bundle,
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
        panic!("{what}: {:?}", self.cluster.lock().configs);
    }
}

fn encoded(text: &str) -> Value {
    STANDARD.encode(text).into()
}

#[tokio::test(start_paused = true)]
async fn the_bundle_goes_in_at_once_and_strictness_only_after_the_proof() {
    let world = start(cluster());
    let bundle = "/clientConfig/caBundle";
    world
        .until("the bundle", |c| c.all(bundle, &encoded("ROOT")))
        .await;
    world.until("trials", |c| c.trials > 3).await;
    assert!(
        world.cluster.lock().all("/failurePolicy", &json!("Ignore")),
        "not reached yet"
    );
    world.cluster.lock().reached = true;
    world
        .until("strict", |c| c.all("/failurePolicy", &json!("Fail")))
        .await;
    let theirs = world.cluster.lock().configs["istio-validator-1-24-istio-system"].clone();
    assert_eq!(
        theirs["metadata"]["resourceVersion"], "1",
        "another revision's is let alone"
    );
    let trials = world.cluster.lock().trials;
    world.bundle.send_replace("ROOT2".to_owned());
    world
        .until("the new bundle", |c| c.all(bundle, &encoded("ROOT2")))
        .await;
    assert_eq!(world.cluster.lock().trials, trials, "proved once");
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changes_is_put_right_again() {
    let world = start(Cluster {
        reached: true,
        has_entries: false,
        ..cluster()
    });
    world
        .until("strict", |c| c.all("/failurePolicy", &json!("Fail")))
        .await;
    world.cluster.lock().change(OURS[1], |config| {
        config["webhooks"][0]["clientConfig"]["caBundle"] = encoded("FORGED");
        config["webhooks"][1]["failurePolicy"] = "Ignore".into();
    });
    world
        .until("put right", |c| {
            c.all("/clientConfig/caBundle", &encoded("ROOT"))
                && c.all("/failurePolicy", &json!("Fail"))
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn conflicts_are_tried_again_and_counted() {
    let world = start(Cluster {
        conflicts: 3,
        ..cluster()
    });
    world
        .until("the bundle", |c| {
            c.all("/clientConfig/caBundle", &encoded("ROOT"))
        })
        .await;
    let counts = world.counts.0.lock().clone();
    let conflicts = counts
        .iter()
        .filter(|what| what.ends_with(" conflict"))
        .count();
    assert!(conflicts >= 3, "{counts:?}");
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
