use std::sync::atomic::{AtomicUsize, Ordering};

use ambit_runtime::Scope;
use ambit_testkit::apiserver::{ApiServer, Served, Trouble, is_write};
use serde_json::json;

use super::*;
use crate::scripted;

#[derive(Default)]
struct Counts {
    written: AtomicUsize,
    failed: AtomicUsize,
    queued: AtomicUsize,
}

impl WriteObserver for Counts {
    fn queued(&self, depth: usize) {
        self.queued.store(depth, Ordering::SeqCst);
    }

    fn written(&self, _: Kind) {
        self.written.fetch_add(1, Ordering::SeqCst);
    }

    fn failed(&self, _: &'static str) {
        self.failed.fetch_add(1, Ordering::SeqCst);
    }
}

struct Scene {
    api: ApiServer,
    writer: StatusWriter,
    counts: Arc<Counts>,
    scope: Scope,
}

impl Scene {
    async fn new() -> Self {
        let api = ApiServer::start().await.unwrap();
        let counts = Arc::new(Counts::default());
        let writer = StatusWriter::new(scripted::connect(&api), Arc::clone(&counts) as _);
        let scope = Scope::new("statuses");
        Self {
            api,
            writer,
            counts,
            scope,
        }
    }

    fn start(&self) {
        let writer = self.writer.clone();
        self.scope
            .spawn("writer", async move { writer.run().await });
    }

    fn writes(&self) -> Vec<Served> {
        let served = self.api.served().into_iter();
        let written = |one: &Served| is_write(&one.verb) && one.code < 300;
        served.filter(written).collect()
    }

    async fn until(&self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        scripted::until(what, || is(self)).await;
    }
}

const POLICY: &str = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/p";
const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r";

fn policy_key() -> ObjectKey {
    ObjectKey::new(Kind::AuthorizationPolicy, "shop", "p")
}

fn policy(status: &str, message: &str, generation: &str) -> Wanted {
    Wanted {
        object: policy_key(),
        manager: "istio-ambient-ztunnel-policy",
        form: Form::Own(json!({"conditions": [{
            "type": "ZtunnelAccepted", "status": status, "reason": "Accepted",
            "message": message, "observedGeneration": generation,
        }]})),
    }
}

fn object(kind: &str, version: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}})
}

fn conditions(scene: &Scene) -> Value {
    scene.api.get(POLICY).unwrap()["status"]["conditions"].clone()
}

#[tokio::test]
async fn a_status_is_written_once_and_its_time_is_no_reason() {
    let scene = Scene::new().await;
    let made = object("AuthorizationPolicy", "security.istio.io/v1", "p");
    scene.api.put(POLICY, made);
    scene.start();
    scene
        .writer
        .want(policy("True", "attached to ztunnel", "1"));
    scene.until("it is said", |it| it.writes().len() == 1).await;
    let first = conditions(&scene);
    assert_eq!(first[0]["observedGeneration"], "1");
    let since = first[0]["lastTransitionTime"].as_str().unwrap().to_owned();
    assert_eq!(
        since.len(),
        "2026-01-01T00:00:00.123456789Z".len(),
        "{since}"
    );
    // The same again is no write; another message is, and keeps the time.
    scene
        .writer
        .want(policy("True", "attached to ztunnel", "1"));
    let looks = |it: &Scene| {
        it.api
            .served()
            .iter()
            .filter(|one| one.verb == "GET")
            .count()
    };
    scene.until("it is looked at", |it| looks(it) == 2).await;
    scene.writer.want(policy("True", "other words", "2"));
    scene
        .until("it is said anew", |it| it.writes().len() == 2)
        .await;
    assert_eq!(conditions(&scene)[0]["lastTransitionTime"], json!(since));
    scene.writer.want(policy("False", "no", "2"));
    scene
        .until("it has changed", |it| it.writes().len() == 3)
        .await;
    assert_ne!(conditions(&scene)[0]["lastTransitionTime"], json!(since));
    // What is known of an older generation isn't said over what is known of a newer one.
    scene.writer.want(policy("True", "late", "1"));
    scene.until("it is looked at", |it| looks(it) == 5).await;
    assert_eq!(conditions(&scene)[0]["status"], "False");
}

#[tokio::test]
async fn what_is_not_wanted_any_more_is_given_up_and_others_conditions_stay() {
    let scene = Scene::new().await;
    scene.api.put(
        POLICY,
        object("AuthorizationPolicy", "security.istio.io/v1", "p"),
    );
    scene.start();
    let theirs = json!({"conditions": [{"type": "Theirs", "status": "True"}]});
    scene.writer.want(Wanted {
        manager: "somebody-else",
        form: Form::Own(theirs),
        ..policy("", "", "")
    });
    scene
        .until("theirs is said", |it| it.writes().len() == 1)
        .await;
    scene.writer.want(policy("True", "attached", "1"));
    scene
        .until("it is said", |it| {
            conditions(it).as_array().unwrap().len() == 2
        })
        .await;
    scene.writer.want(Wanted {
        form: Form::Own(json!({"conditions": []})),
        ..policy("", "", "")
    });
    scene
        .until("it is gone", |it| {
            conditions(it).as_array().unwrap().len() == 1
        })
        .await;
    assert_eq!(conditions(&scene)[0]["type"], "Theirs");
    let before = scene.writes().len();
    scene.writer.want(Wanted {
        form: Form::Own(json!({"conditions": []})),
        ..policy("", "", "")
    });
    let looks = |it: &Scene| {
        it.api
            .served()
            .iter()
            .filter(|one| one.verb == "GET")
            .count()
    };
    scene.until("it is looked at", |it| looks(it) == 4).await;
    assert_eq!(scene.writes().len(), before);
}

fn route(generation: i64) -> Wanted {
    Wanted {
        object: ObjectKey::new(Kind::HttpRoute, "shop", "r"),
        manager: "istio.io/gateway-controller",
        form: Form::Share {
            list: "parents",
            controller: "istio.io/gateway-controller",
            entries: vec![json!({
                "parentRef": {"kind": "Service", "name": "cart"},
                "controllerName": "istio.io/gateway-controller",
                "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted",
                    "message": "", "observedGeneration": generation}],
            })],
        },
    }
}

#[tokio::test]
async fn other_controllers_entries_stay_through_a_conflict_storm() {
    let scene = Scene::new().await;
    let mut made = object("HTTPRoute", "gateway.networking.k8s.io/v1", "r");
    made["status"] = json!({"parents": [{"controllerName": "other", "parentRef": {"name": "gw"}}]});
    scene.api.put(ROUTE, made);
    // Somebody else writes the status each time, just before we do.
    let (api, storm) = (scene.api.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&storm);
    scene.api.trouble(move |verb, _| {
        let blown = verb == "PATCH" && counted.fetch_add(1, Ordering::SeqCst) < 3;
        blown.then_some(Trouble::Refuse(409))
    });
    scene.start();
    scene.writer.want(route(1));
    scene.until("it is said", |it| it.writes().len() == 1).await;
    let parents = api.get(ROUTE).unwrap()["status"]["parents"].clone();
    assert_eq!(parents[0]["controllerName"], "other");
    assert_eq!(parents[1]["conditions"][0]["observedGeneration"], 1);
    assert_eq!(storm.load(Ordering::SeqCst), 4);
    assert_eq!(scene.counts.failed.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_endless_storm_is_given_up_and_found_again_by_a_review() {
    let scene = Scene::new().await;
    scene.api.put(
        ROUTE,
        object("HTTPRoute", "gateway.networking.k8s.io/v1", "r"),
    );
    scene
        .api
        .trouble(|verb, _| (verb == "PATCH").then_some(Trouble::Refuse(409)));
    scene.start();
    scene.writer.want(route(1));
    let failed = |it: &Scene| it.counts.failed.load(Ordering::SeqCst) == 1;
    scene.until("it is given up", failed).await;
    let tries = scene
        .api
        .served()
        .iter()
        .filter(|one| one.verb == "PATCH")
        .count();
    assert_eq!(tries, ATTEMPTS);
    assert!(scene.writer.take_lost());
    scene.api.calm();
    let wanted = |_: &ObjectKey| vec![route(1)];
    scene
        .writer
        .review(&[Kind::HttpRoute], wanted)
        .await
        .unwrap();
    scene.until("it is said", |it| it.writes().len() == 1).await;
    // A review of what is as it should be wants nothing.
    scene
        .writer
        .review(&[Kind::HttpRoute], wanted)
        .await
        .unwrap();
    assert_eq!(scene.counts.queued.load(Ordering::SeqCst), 0);
    assert!(!scene.writer.take_lost());
}

#[tokio::test]
async fn the_newest_wins_while_the_server_is_slow() {
    let scene = Scene::new().await;
    let made = object("AuthorizationPolicy", "security.istio.io/v1", "p");
    scene.api.put(POLICY, made);
    scene
        .api
        .trouble(|verb, _| (verb == "GET").then_some(Trouble::Delay(Duration::from_millis(200))));
    scene.start();
    for generation in 1..=50 {
        let wanted = policy("True", "attached", &generation.to_string());
        scene.writer.want(wanted);
        tokio::task::yield_now().await;
    }
    let last = |it: &Scene| conditions(it)[0]["observedGeneration"] == "50";
    scene.until("the last is said", last).await;
    let writes = scene.writes().len();
    assert!(writes <= 3, "{writes} writes");
    // Of an object that is gone nothing is said, and that is no failure.
    scene.api.delete(POLICY);
    scene.writer.want(policy("True", "attached", "51"));
    scene
        .until("it is looked for", |it| {
            it.api.served().last().is_some_and(|one| one.code == 404)
        })
        .await;
    assert_eq!(scene.counts.failed.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_member_is_written_for_the_generation_that_it_was_made_for() {
    let scene = Scene::new().await;
    let at = "/apis/networking.istio.io/v1/namespaces/shop/serviceentries/e";
    scene
        .api
        .put(at, object("ServiceEntry", "networking.istio.io/v1", "e"));
    scene.start();
    let addresses = |generation| Wanted {
        object: ObjectKey::new(Kind::ServiceEntry, "shop", "e"),
        manager: "istio-ip-autoallocate",
        form: Form::Member {
            name: "addresses",
            value: json!([{"value": "240.240.0.1", "host": "a"}]),
            generation: Some(generation),
        },
    };
    scene.writer.want(addresses(7));
    scene
        .until("it is looked at", |it| !it.api.served().is_empty())
        .await;
    scene.writer.want(addresses(1));
    scene
        .until("it is written", |it| it.writes().len() == 1)
        .await;
    let entry = scene.api.get(at).unwrap();
    assert_eq!(entry["status"]["addresses"][0]["value"], "240.240.0.1");
}
