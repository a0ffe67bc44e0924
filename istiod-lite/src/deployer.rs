//! What runs for waypoints, on a cluster (`control-plane-contract` 5.4): from what is rendered to what is applied.
//!
//! One place for each Gateway in the queue; a Gateway is looked at when what is rendered for it changes, when one of
//! its objects is touched, and when its turn comes again after a failure. Its end is the garbage collector's: every
//! object is owned by the Gateway.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ambit_cluster::Client;
use ambit_cluster::apply::{Applied, Leftovers, Mark, WriteError, apply, delete_leftovers};
use ambit_compile::Rendered;
use ambit_runtime::{Backoff, sleep_maybe};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::statuses::CONTROLLER;
use crate::waypoints::Waypoints;
use crate::write_metrics::WriteMetrics;

/// Marks what is ours.
pub(crate) const MARK: Mark = Mark {
    label: "gateway.istio.io/managed",
    manager: CONTROLLER,
};

/// The deployer's queue. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Pending(Arc<Queue>);

#[derive(Default)]
struct Queue {
    gateways: Mutex<BTreeSet<Arc<str>>>,
    some: Notify,
}

impl Pending {
    /// These Gateways, `namespace/name`, are to be looked at.
    pub(crate) fn mark(&self, gateways: impl IntoIterator<Item = Arc<str>>) {
        let mut waiting = self.lock();
        waiting.extend(gateways);
        if !waiting.is_empty() {
            drop(waiting);
            self.0.some.notify_one();
        }
    }

    async fn next(&self) -> Arc<str> {
        loop {
            if let Some(gateway) = self.lock().pop_first() {
                return gateway;
            }
            self.0.some.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        let waiting = self.0.gateways.lock();
        waiting.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Applies.
pub(crate) struct Deployer {
    pub(crate) client: Client,
    pub(crate) waypoints: Waypoints,
    pub(crate) pending: Pending,
    /// Whether a Gateway, `namespace/name`, is this control plane's.
    pub(crate) owns: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    pub(crate) metrics: Arc<WriteMetrics>,
}

impl Deployer {
    /// Looks at all Gateways, and from then on at those that are marked; for ever.
    pub(crate) async fn run(&self) {
        self.pending.mark(self.waypoints.names());
        let mut told = HashSet::new();
        let mut again: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut backoff = Backoff::new(FIRST_WAIT, LAST_WAIT).jitter(0.2);
        let mut due = None;
        loop {
            let gateway = tokio::select! {
                gateway = self.pending.next() => gateway,
                () = sleep_maybe(due) => {
                    due = None;
                    self.pending.mark(std::mem::take(&mut again));
                    continue;
                }
            };
            let Some(rendered) = self.waypoints.get(&gateway) else {
                continue;
            };
            if !(self.owns)(&gateway) {
                continue;
            }
            match self.deploy(&rendered, &mut told).await {
                Ok(()) => {
                    again.remove(&gateway);
                    if again.is_empty() {
                        backoff.reset();
                    }
                }
                Err(error) => {
                    warn!(%gateway, %error, "the waypoint's objects aren't applied");
                    self.metrics.deployment_failed(error.reason());
                    again.insert(gateway);
                    due.get_or_insert_with(|| Instant::now() + backoff.next_wait());
                }
            }
        }
    }

    async fn deploy(
        &self,
        rendered: &Rendered,
        told: &mut HashSet<(Arc<str>, &'static str)>,
    ) -> Result<(), WriteError> {
        let Some(owner) = rendered.owner() else {
            return Ok(());
        };
        let gateway: Arc<str> = rendered.gateway.to_string().into();
        let mut first = Ok(());
        let objects = objects(rendered);
        for (kind, object) in &objects {
            match apply(&self.client, object, MARK).await {
                Ok(Applied::Done) => {}
                Ok(Applied::NotOurs) => {
                    if told.insert((Arc::clone(&gateway), kind)) {
                        info!(%gateway, kind, "left as it is: it was there before, without gateway.istio.io/managed");
                    }
                }
                // The others are of use without it.
                Err(error) if first.is_ok() => first = Err(error),
                Err(_) => {}
            }
        }
        first?;
        self.metrics.deployed();
        let selector = format!(
            "gateway.networking.k8s.io/gateway-name={}",
            rendered.gateway.name
        );
        for (group, version, kind) in KINDS {
            let of_kind = objects.iter().filter(|(of, _)| *of == kind);
            let names =
                of_kind.filter_map(|(_, object)| object.pointer("/metadata/name")?.as_str());
            let keep: Vec<_> = names.collect();
            let what = Leftovers {
                group,
                version,
                kind,
                namespace: &rendered.gateway.namespace,
                selector: &selector,
                owner,
                keep: &keep,
            };
            let gone = delete_leftovers(&self.client, what, MARK).await?;
            if gone > 0 {
                info!(%gateway, kind, gone, "not wanted any more: deleted");
            }
        }
        Ok(())
    }
}

/// In the order in which they are of use.
fn objects(rendered: &Rendered) -> Vec<(&'static str, Value)> {
    let value = |kind, object: Result<Value, serde_json::Error>| Some((kind, object.ok()?));
    let budget = rendered.disruption_budget.as_ref();
    let scaler = rendered.autoscaler.as_ref();
    [
        value(
            "ServiceAccount",
            serde_json::to_value(&rendered.service_account),
        ),
        value("Service", serde_json::to_value(&rendered.service)),
        value("Deployment", serde_json::to_value(&rendered.deployment)),
        budget.and_then(|of| value("PodDisruptionBudget", serde_json::to_value(of))),
        scaler.and_then(|of| value("HorizontalPodAutoscaler", serde_json::to_value(of))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What a waypoint is made of.
pub(crate) const KINDS: [(&str, &str, &str); 5] = [
    ("", "v1", "ServiceAccount"),
    ("", "v1", "Service"),
    ("apps", "v1", "Deployment"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
];
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(60);
