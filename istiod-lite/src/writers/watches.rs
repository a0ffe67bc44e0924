//! What writers watch by themselves: tags, classes, and the objects of waypoints.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ambit_cluster::apply::create_missing;
use ambit_cluster::{Client, Metadata, Name, Seen, Watched, watch_metadata};
use ambit_runtime::{CancellationToken, Scope};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use super::Shared;
use crate::deployer::{KINDS, MARK, Pending};
use crate::revisions::{Said, tag};

/// What an object of that name says, if it is one that says anything.
type Says = fn(&Name) -> Option<Said>;

/// Watches tags from now on; returns when those that there are are known, or when that takes too long.
pub(super) async fn tags(shared: &Arc<Shared>, scope: &Scope, stop: &CancellationToken) {
    let (told, known) = watch::channel(0);
    let watched: [(Watched, Says); 2] = [
        (TAGS, |name| Some(Said::Webhook((*name.name).to_owned()))),
        (VALIDATORS, |name| {
            (&*name.name == "istiod-default-validator").then_some(Said::Validator)
        }),
    ];
    for (what, said) in watched {
        let shared = Arc::clone(shared);
        let told = told.clone();
        let mut listed = false;
        let client = shared.setting.client.clone();
        let watching = watch_metadata(&client, what, move |seen| match seen {
            Seen::Here(name, meta) => {
                let Some(said) = said(&name) else { return };
                let labels = meta.labels.as_ref();
                shared.on_tags(|revisions| revisions.tag(said, labels.and_then(tag)));
            }
            Seen::Gone(name) => {
                let Some(said) = said(&name) else { return };
                shared.on_tags(|revisions| revisions.tag(said, None));
            }
            Seen::All => {
                let first = !std::mem::replace(&mut listed, true);
                told.send_modify(|count| *count += usize::from(first));
            }
        });
        let stop = stop.clone();
        scope.spawn("tags", async move {
            stop.run_until_cancelled(watching).await;
        });
    }
    let mut known = known;
    let all = known.wait_for(|count| *count >= watched.len());
    if timeout(PATIENCE, all).await.is_err() {
        warn!("revision tags aren't known: the webhook configurations can't be read");
    }
}

/// Keeps the classes of waypoints there, for ever. They are never changed.
pub(super) async fn classes(client: Client) {
    let missing = Arc::new(Notify::new());
    let seen = Arc::clone(&missing);
    let watching = watch_metadata(&client, CLASSES, move |event| match event {
        Seen::All | Seen::Gone(_) => seen.notify_one(),
        Seen::Here(..) => {}
    });
    let creating = async {
        loop {
            missing.notified().await;
            for (name, description) in CLASS_NAMES {
                let class = json!({
                    "apiVersion": "gateway.networking.k8s.io/v1",
                    "kind": "GatewayClass",
                    "metadata": {"name": name},
                    "spec": {"controllerName": "istio.io/mesh-controller", "description": description},
                });
                match create_missing(&client, &class, MARK.manager).await {
                    Ok(true) => info!(class = name, "created"),
                    Ok(false) => {}
                    Err(error) => {
                        warn!(class = name, %error, "not created");
                        tokio::time::sleep(AGAIN).await;
                        missing.notify_one();
                    }
                }
            }
        }
    };
    tokio::join!(watching, creating);
}

/// Marks the Gateway of an object that was touched, for ever.
pub(super) async fn children(client: &Client, pending: &Pending) {
    let watches = KINDS.map(|(group, version, kind)| {
        let what = Watched {
            group,
            version,
            kind,
            selector: "gateway.istio.io/managed=istio.io-mesh-controller",
        };
        let pending = pending.clone();
        let mut known = HashMap::new();
        // Everything is looked at in the beginning anyway.
        let mut began = false;
        watch_metadata(client, what, move |seen| {
            let touched = match seen {
                Seen::Here(name, meta) => {
                    let now = Child::of(&name, meta);
                    let before = known.insert(name, now.clone());
                    (before.as_ref() != Some(&now)).then_some(now)
                }
                Seen::Gone(name) => known.remove(&name),
                Seen::All => {
                    began = true;
                    None
                }
            };
            let gateway = touched.and_then(|child| child.gateway);
            if began && let Some(gateway) = gateway {
                pending.mark([gateway]);
            }
        })
    });
    let [accounts, services, deployments, budgets, scalers] = watches;
    tokio::join!(accounts, services, deployments, budgets, scalers);
}

/// What is known of a waypoint's object.
#[derive(Clone, PartialEq)]
struct Child {
    /// Its namespace and name.
    gateway: Option<Arc<str>>,
    uid: String,
    /// Of kinds with a status, the generation tells whether it is more than that.
    version: Result<i64, String>,
    labels: Option<BTreeMap<String, String>>,
}

impl Child {
    fn of(name: &Name, meta: Metadata) -> Self {
        let labels = meta.labels.as_ref();
        let gateway = labels.and_then(|all| all.get("gateway.networking.k8s.io/gateway-name"));
        Self {
            gateway: gateway.map(|gateway| format!("{}/{gateway}", name.namespace).into()),
            uid: meta.uid,
            version: meta.generation.ok_or(meta.resource_version),
            labels: meta.labels,
        }
    }
}

const TAGS: Watched = Watched {
    group: "admissionregistration.k8s.io",
    version: "v1",
    kind: "MutatingWebhookConfiguration",
    selector: "istio.io/tag",
};
const VALIDATORS: Watched = Watched {
    group: "admissionregistration.k8s.io",
    version: "v1",
    kind: "ValidatingWebhookConfiguration",
    selector: "",
};
const CLASSES: Watched = Watched {
    group: "gateway.networking.k8s.io",
    version: "v1",
    kind: "GatewayClass",
    selector: "",
};
const CLASS_NAMES: [(&str, &str); 2] = [
    ("istio-waypoint", "The default Istio waypoint GatewayClass"),
    ("ambit-waypoint", "Waypoints of Ambit"),
];
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(5);
