//! What writers watch by themselves: tags, classes, and the objects of waypoints.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_cluster::apply::create_missing;
use ambit_cluster::{Client, Seen, Watched, watch_metadata};
use ambit_kube::core::ObjectMeta;
use ambit_runtime::{CancellationToken, Scope};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Shared, Still};
use crate::deployer::{KINDS, MARK, Pending};
use crate::revisions::{Said, tag};

/// What an object says, if it is one that says anything.
type Says = fn(&ObjectMeta) -> Option<Said>;

/// Watches tags from now on; returns when those that there are are known, or when that takes too long.
pub(super) async fn tags(shared: &Arc<Shared>, scope: &Scope, stop: &CancellationToken) {
    let (told, known) = watch::channel(0);
    let watched: [(Watched, Says); 2] = [
        (TAGS, |meta| meta.name.clone().map(Said::Webhook)),
        (VALIDATORS, |meta| {
            (meta.name.as_deref() == Some("istiod-default-validator")).then_some(Said::Validator)
        }),
    ];
    for (what, said) in watched {
        let shared = Arc::clone(shared);
        let told = told.clone();
        let mut still = None;
        let client = shared.setting.client.clone();
        let watching = watch_metadata(&client, what, move |seen| match seen {
            Seen::Again => still = Some(Still::new()),
            Seen::Here(meta) => {
                let Some(said) = said(&meta) else { return };
                if let Some(still) = &mut still {
                    still.insert(said.clone());
                }
                shared.on_tags(|revisions| revisions.tag(said, tag(&meta)));
            }
            Seen::Gone(meta) => {
                let Some(said) = said(&meta) else { return };
                shared.on_tags(|revisions| revisions.tag(said, None));
            }
            Seen::All => {
                if let Some(still) = still.take() {
                    let is_validator = what.kind == VALIDATORS.kind;
                    shared.on_tags(|revisions| revisions.retain(&still, is_validator));
                }
                told.send_modify(|count| *count += 1);
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
        Seen::Again | Seen::Here(_) => {}
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
        let known = Mutex::new(HashMap::new());
        // Everything is looked at in the beginning anyway.
        let mut began = false;
        watch_metadata(client, what, move |seen| {
            let (meta, is) = match seen {
                Seen::Here(meta) => (meta, true),
                Seen::Gone(meta) => (meta, false),
                Seen::Again => return,
                Seen::All => {
                    began = true;
                    return;
                }
            };
            let Some(gateway) = gateway(&meta) else {
                return;
            };
            let key = meta.uid.clone().unwrap_or_default();
            // Of kinds with a status, the generation tells whether it is more than that.
            let version = meta.generation.map_or_else(
                || meta.resource_version.clone(),
                |generation| Some(generation.to_string()),
            );
            let now = is.then(|| (version, meta.labels.clone()));
            let before = match &now {
                Some(now) => known.lock().insert(key, now.clone()),
                None => known.lock().remove(&key),
            };
            if began && before != now {
                pending.mark([gateway]);
            }
        })
    });
    let [accounts, services, deployments, budgets, scalers] = watches;
    tokio::join!(accounts, services, deployments, budgets, scalers);
}

fn gateway(meta: &ObjectMeta) -> Option<Arc<str>> {
    let labels = meta.labels.as_ref()?;
    let name = labels.get("gateway.networking.k8s.io/gateway-name")?;
    let namespace = meta.namespace.as_deref()?;
    Some(format!("{namespace}/{name}").into())
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
