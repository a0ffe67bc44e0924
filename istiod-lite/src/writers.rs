//! Everything that is written to a cluster because of what was compiled: statuses, addresses, waypoints.
//!
//! Owns who writes what and when (`control-plane-contract` 8.1): each concern has a Lease; who gets it looks at
//! everything anew, so that whatever another was in the middle of is done. A replica takes part in elections once it
//! knows the whole configuration. What is written is decided elsewhere: statuses and objects by the compiler,
//! addresses by [`Allocation`].

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ambit_cluster::Client;
use ambit_cluster::lease::{self, Leadership, Lock, Timing, elect};
use ambit_cluster::status::{Form, StatusWriter, Wanted};
use ambit_compile::{Rendered, Status};
use ambit_kube::{Change, Kind, ObjectKey};
use ambit_runtime::{Backoff, CancellationToken, Scope};
use ipnet::{Ipv4Net, Ipv6Net};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::debug;

use crate::allocation::{Allocated, Allocation};
use crate::deployer::{Deployer, Pending};
use crate::revisions::{Moved, Revisions};
use crate::statuses::{Concern, GATEWAY_KINDS, MESH_KINDS, concern, wanted};
use crate::waypoints::Waypoints;
use crate::write_metrics::{OfQueue, WriteMetrics};

mod watches;

/// What the writers are told once.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) client: Client,
    /// Where the leases are.
    pub(crate) namespace: String,
    /// Who we are among replicas.
    pub(crate) identity: String,
    /// Of this control plane.
    pub(crate) revision: String,
    /// Whether replicas agree on one writer; without, there must be one replica.
    pub(crate) elections: bool,
    /// How long elections take.
    pub(crate) timing: Timing,
    /// Whether statuses are written.
    pub(crate) statuses: bool,
    /// Ranges of addresses for hosts without; none: they get none.
    pub(crate) ranges: Option<(Ipv4Net, Ipv6Net)>,
    pub(crate) waypoints: Waypoints,
    pub(crate) metrics: Arc<WriteMetrics>,
    /// Outlives `stop` by [`lease::RELEASE`].
    pub(crate) scope: Scope,
    /// Ends everything.
    pub(crate) stop: CancellationToken,
}

/// The writers. Clones are the same.
#[derive(Clone)]
pub(crate) struct Writers(Arc<Shared>);

struct Shared {
    setting: Setting,
    /// What the compiler says of objects now.
    said: Mutex<HashMap<ObjectKey, Arc<Status>>>,
    revisions: Mutex<Revisions>,
    allocation: Option<Mutex<Allocation>>,
    /// Something has changed that addresses depend on.
    allocate: Notify,
    mesh: Led,
    gateways: Led,
    addresses: Led,
    pending: Pending,
}

/// A writer of statuses, and whether it is ours to write.
struct Led {
    writer: StatusWriter,
    leadership: OnceLock<Leadership>,
}

impl Led {
    fn new(setting: &Setting, queue: &'static str) -> Self {
        let metrics = Arc::clone(&setting.metrics);
        let observer = Arc::new(OfQueue { queue, metrics });
        Self {
            writer: StatusWriter::new(setting.client.clone(), observer),
            leadership: OnceLock::new(),
        }
    }

    /// Who doesn't lead needn't: who begins to looks at everything.
    fn want(&self, wanted: Wanted) {
        if self.leadership.get().is_some_and(Leadership::holds) {
            self.writer.want(wanted);
        }
    }
}

impl Writers {
    /// Nothing is written before [`start`](Self::start).
    pub(crate) fn new(setting: Setting) -> Self {
        let revision = &*setting.revision;
        let allocation = setting
            .ranges
            .map(|(v4, v6)| Mutex::new(Allocation::new(v4, v6, revision)));
        Self(Arc::new(Shared {
            said: Mutex::default(),
            revisions: Mutex::new(Revisions::new(revision)),
            allocation,
            allocate: Notify::new(),
            mesh: Led::new(&setting, "mesh"),
            gateways: Led::new(&setting, "gateways"),
            addresses: Led::new(&setting, "addresses"),
            pending: Pending::default(),
            setting,
        }))
    }

    /// Takes what has changed of objects.
    pub(crate) fn learn(&self, changes: &[Change]) {
        let shared = &self.0;
        if let Some(allocation) = &shared.allocation
            && allocation.lock().learn(changes)
        {
            shared.allocate.notify_one();
        }
        let moved = shared.revisions.lock().learn(changes);
        shared.on_moved(moved);
    }

    /// Takes what has come of it.
    pub(crate) fn compiled(
        &self,
        statuses: &BTreeMap<ObjectKey, Option<Arc<Status>>>,
        rendered: &BTreeMap<Arc<str>, Option<Arc<Rendered>>>,
    ) {
        let shared = &self.0;
        let mut said = shared.said.lock();
        for (key, status) in statuses {
            match status {
                Some(status) => said.insert(key.clone(), Arc::clone(status)),
                None => said.remove(key),
            };
        }
        drop(said);
        for key in statuses.keys() {
            shared.say(key);
        }
        shared.pending.mark(rendered.keys().cloned());
    }

    /// The whole configuration is known: begins to compete for leases.
    pub(crate) fn start(&self) {
        let shared = Arc::clone(&self.0);
        let scope = shared.setting.scope.clone();
        let stop = shared.setting.stop.clone();
        let ended = stop.clone();
        scope.clone().spawn("writers", async move {
            let begin = async {
                // Whose Gateways are whose isn't known before.
                watches::tags(&shared, &scope, &stop).await;
                shared.compete(&scope, &stop);
            };
            ended.run_until_cancelled(begin).await;
        });
    }
}

impl Shared {
    fn compete(self: &Arc<Self>, scope: &Scope, stop: &CancellationToken) {
        let setting = &self.setting;
        let revision = &*setting.revision;
        let run = |name: &'static str, work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stop = stop.clone();
            scope.spawn(name, async move {
                stop.run_until_cancelled(work).await;
            });
        };
        run(
            "classes",
            Box::pin(watches::classes(setting.client.clone())),
        );
        if setting.statuses {
            for (led, concern, lease) in [
                (&self.mesh, Concern::Mesh, lease::name::STATUS.to_owned()),
                (
                    &self.gateways,
                    Concern::Gateways,
                    lease::name::gateway_status(revision),
                ),
            ] {
                let leadership = self.leadership(scope, stop, lease);
                let _ = led.leadership.set(leadership.clone());
                let shared = Arc::clone(self);
                let work = leadership.lead(move || Arc::clone(&shared).write_statuses(concern));
                run("statuses", Box::pin(work));
            }
        }
        if self.allocation.is_some() {
            let leadership = self.leadership(scope, stop, lease::name::ALLOCATION.to_owned());
            let _ = self.addresses.leadership.set(leadership.clone());
            let shared = Arc::clone(self);
            let work = leadership.lead(move || Arc::clone(&shared).allocate());
            run("addresses", Box::pin(work));
        }
        let lease = lease::name::gateway_deployment(revision);
        let leadership = self.leadership(scope, stop, lease);
        let shared = Arc::clone(self);
        let work = leadership.lead(move || Arc::clone(&shared).deploy());
        run("waypoints", Box::pin(work));
    }

    fn leadership(&self, scope: &Scope, stop: &CancellationToken, name: String) -> Leadership {
        let setting = &self.setting;
        if !setting.elections {
            return Leadership::always();
        }
        let lock = Lock {
            namespace: setting.namespace.clone(),
            name,
            identity: setting.identity.clone(),
        };
        elect(&setting.client, lock, setting.timing, scope, stop.clone())
    }

    /// Has everything said of an object that is to be said of it.
    fn say(&self, key: &ObjectKey) {
        let led = match concern(key.kind) {
            Some(Concern::Mesh) => &self.mesh,
            Some(Concern::Gateways) => &self.gateways,
            None => return,
        };
        for wanted in self.wanted(key) {
            led.want(wanted);
        }
    }

    /// Nothing of what isn't ours.
    fn wanted(&self, key: &ObjectKey) -> Vec<Wanted> {
        let revisioned = concern(key.kind) == Some(Concern::Gateways);
        // Classes have no revision: every control plane says the same of them.
        if revisioned && key.kind != Kind::GatewayClass && !self.revisions.lock().owns(key) {
            return Vec::new();
        }
        wanted(key, self.said.lock().get(key).map(|status| &**status))
    }

    fn on_moved(&self, moved: Moved) {
        let keys = match moved {
            Moved::Some(keys) => keys,
            Moved::All => {
                self.pending.mark(self.setting.waypoints.names());
                let said = self.said.lock();
                let of_revisions = |key: &&ObjectKey| concern(key.kind) == Some(Concern::Gateways);
                said.keys().filter(of_revisions).cloned().collect()
            }
        };
        for key in keys {
            self.say(&key);
            if key.kind == Kind::Gateway {
                let gateway = format!("{}/{}", key.namespace, key.name);
                self.pending.mark([gateway.into()]);
            }
        }
    }

    /// For as long as we lead.
    async fn write_statuses(self: Arc<Self>, concern: Concern) {
        let (led, kinds) = match concern {
            Concern::Mesh => (&self.mesh, MESH_KINDS),
            Concern::Gateways => (&self.gateways, GATEWAY_KINDS),
        };
        led.writer.clear();
        let review = async {
            let mut backoff = Backoff::new(FIRST_REVIEW, LAST_REVIEW).jitter(0.2);
            loop {
                let reviewed = led.writer.review(kinds, |key| self.wanted(key)).await;
                if let Err(error) = reviewed {
                    debug!(?concern, %error, "not all could be reviewed");
                    sleep(backoff.next_wait()).await;
                    continue;
                }
                backoff.reset();
                loop {
                    sleep(LOST_AFTER).await;
                    if led.writer.take_lost() {
                        break;
                    }
                }
            }
        };
        tokio::join!(led.writer.run(), review);
    }

    /// For as long as we lead.
    async fn allocate(self: Arc<Self>) {
        let Some(allocation) = &self.allocation else {
            return;
        };
        let writer = &self.addresses.writer;
        writer.clear();
        allocation.lock().forget_decisions();
        let decide = async {
            loop {
                let decided = allocation.lock().wanted();
                for allocated in decided {
                    writer.want(address_status(allocated));
                }
                let _ = tokio::time::timeout(LOST_AFTER, self.allocate.notified()).await;
            }
        };
        tokio::join!(writer.run(), decide);
    }

    /// For as long as we lead.
    async fn deploy(self: Arc<Self>) {
        let owned = Arc::clone(&self);
        let owns = move |gateway: &str| {
            let (namespace, name) = gateway.split_once('/').unwrap_or_default();
            let key = ObjectKey::new(Kind::Gateway, namespace, name);
            owned.revisions.lock().owns(&key)
        };
        let deployer = Deployer {
            client: self.setting.client.clone(),
            waypoints: self.setting.waypoints.clone(),
            pending: self.pending.clone(),
            owns: Arc::new(owns),
            metrics: Arc::clone(&self.setting.metrics),
        };
        let children = watches::children(&self.setting.client, &self.pending);
        tokio::join!(deployer.run(), children);
    }

    /// Tags have changed; told by [`watches::tags`].
    fn on_tags(&self, change: impl FnOnce(&mut Revisions) -> bool) {
        let changed = change(&mut self.revisions.lock());
        if changed {
            self.on_moved(Moved::All);
        }
    }
}

fn address_status(allocated: Allocated) -> Wanted {
    let addresses = allocated.addresses.iter();
    let addresses = addresses.map(|(host, ip)| json!({"value": ip.to_string(), "host": &**host}));
    Wanted {
        object: allocated.entry,
        manager: lease::name::ALLOCATION,
        form: Form::Member {
            name: "addresses",
            value: Value::Array(addresses.collect()),
            generation: allocated.generation,
        },
    }
}

const FIRST_REVIEW: Duration = Duration::from_secs(5);
const LAST_REVIEW: Duration = Duration::from_secs(300);
/// How long after writes were lost everything is looked at.
const LOST_AFTER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
