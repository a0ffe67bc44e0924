//! The configuration task: changes in, publications out. The one writer of
//! everything that follows from objects.
//!
//! What has changed is compiled in one step and published in one step: at once
//! when nothing was going on, and after a burst has been gathered for a while
//! ([`Pace`]). A node's report hardly waits, and is answered when nodes are
//! being told. Pods are known to the [`Directory`] at once.

use std::sync::Arc;
use std::time::Duration;

use ambit_cluster::Wanted;
use ambit_compile::{
    AddressKind, AddressResource, AuthorizationResource, Compiler, Delta, WaypointResource,
};
use ambit_kube::Change;
use ambit_proto::waypoint::TYPES as WAYPOINT_TYPES;
use ambit_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE, WORKLOAD_TYPE};
use ambit_runtime::{ReadyGuard, processor, sleep_maybe};
use ambit_types::NamespacedName;
use ambit_xds::{Batch, Publisher, TypeDelta, Update};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::directory::Directory;
use crate::enrolment::Report;
use crate::metrics::ControlMetrics;
use crate::pace::Pace;
use crate::page::Page;
use crate::redirection::{self, NotCounted, Redirections};
use crate::roots::RootBundle;
use crate::waypoints::Waypoints;
use crate::webhook::Preview;
use crate::writers::Writers;

/// The types that are served, in the order of delivery (design D5).
pub(crate) fn types() -> impl Iterator<Item = &'static str> {
    let nodes = [AUTHORIZATION_TYPE, ADDRESS_TYPE, WORKLOAD_TYPE];
    nodes.into_iter().chain(WAYPOINT_TYPES)
}

/// What the task works with.
pub(crate) struct Configuration {
    /// Objects to resources.
    pub(crate) compiler: Compiler,
    /// Asks the source for single objects; a directory has all of them.
    pub(crate) wanted: Option<Wanted>,
    /// Which pods are redirected.
    pub(crate) redirections: Redirections,
    /// Which pods run where.
    pub(crate) directory: Directory,
    /// Roots for everybody.
    pub(crate) roots: Arc<RootBundle>,
    /// Resources to nodes.
    pub(crate) publisher: Publisher,
    /// What is wrong, to people.
    pub(crate) page: Page,
    /// Since when its diagnostics aren't up to date.
    pub(crate) stale_page: Option<Instant>,
    /// What runs for waypoints.
    pub(crate) waypoints: Waypoints,
    /// Who writes to the cluster, if there is one.
    pub(crate) writers: Option<Writers>,
    /// What is counted.
    pub(crate) metrics: Arc<ControlMetrics>,
    /// Ready after the first publication.
    pub(crate) ready: ReadyGuard,
    /// Questions of the webhook.
    pub(crate) previews: mpsc::Receiver<Preview>,
}

/// Changes that wait to be compiled.
#[derive(Default)]
struct Gathered {
    changes: Vec<Change>,
    /// When the first of them came.
    since: Option<Instant>,
    /// Reports among them, to be answered when they are published.
    reports: Vec<Answer>,
    /// Some of them concern roots.
    roots: bool,
}

struct Answer {
    kept: oneshot::Sender<Refused>,
    refused: Refused,
    since: Instant,
}

type Refused = Vec<(NamespacedName, NotCounted)>;

impl Gathered {
    fn add(&mut self, changes: impl IntoIterator<Item = Change>) {
        self.changes.extend(changes);
        self.since.get_or_insert_with(Instant::now);
    }

    fn due(&self, pace: &Pace) -> Option<Instant> {
        let changes = self.since.map(|since| pace.next(since));
        let report = self.reports.first().map(|answer| answer.since + HARDLY);
        changes.into_iter().chain(report).min()
    }
}

impl Configuration {
    /// Runs until the source ends or the task is cancelled.
    pub(crate) async fn run(
        mut self,
        mut source: mpsc::Receiver<Vec<Change>>,
        mut reports: mpsc::Receiver<Report>,
    ) {
        let mut gathered = Gathered::default();
        let mut pace = Pace::default();
        let mut showing = Pace::default();
        let mut synced = false;
        loop {
            // What is learnt before everything is known needn't be kept.
            if !synced {
                self.compiler.learn(gathered.changes.drain(..));
            }
            let due = gathered.due(&pace).filter(|_| synced);
            let page = self.stale_page.map(|since| showing.next(since));
            tokio::select! {
                changes = source.recv() => {
                    let Some(changes) = changes else {
                        return self.on_source_lost().await;
                    };
                    let told = changes.contains(&Change::Synced);
                    gathered.roots |= self.learn(&changes);
                    gathered.add(changes);
                    if !synced && told && self.has_what_it_wants(&mut gathered) {
                        synced = true;
                        self.redirections.forget_unknown(&self.directory);
                        self.flush(std::mem::take(&mut gathered), &mut pace).await;
                        self.show(&mut showing);
                        if let Some(writers) = &self.writers {
                            writers.start();
                        }
                        self.ready.ready();
                        self.roots.settle();
                    }
                },
                Some(report) = reports.recv() => gathered.reports.push(self.on_report(report)),
                () = sleep_maybe(due) => {
                    self.flush(std::mem::take(&mut gathered), &mut pace).await;
                }
                () = sleep_maybe(page) => self.show(&mut showing),
                Some(Preview { object, said }) = self.previews.recv(), if synced => {
                    // Whoever asked may have given up.
                    let _ = said.send(self.compiler.preview(object));
                }
            }
        }
    }

    /// Everything is told. Whether objects refer to nothing that the source
    /// hasn't looked for; it tells of that, and then that everything is told.
    fn has_what_it_wants(&mut self, gathered: &mut Gathered) -> bool {
        let Some(wanted) = &self.wanted else {
            return true;
        };
        self.compiler.learn(gathered.changes.drain(..));
        self.compiler.derive_learnt();
        !wanted.set(self.compiler.wanted())
    }

    /// When we are going away this is cancelled before it says anything.
    async fn on_source_lost(&self) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        error!("the source of objects has ended; the configuration stays as it is");
        self.ready.not_ready();
    }

    /// What can't wait: which pods there are decides who may call. Whether
    /// roots may have changed.
    fn learn(&mut self, changes: &[Change]) -> bool {
        let gone = self.directory.learn(changes);
        if let Some(writers) = &self.writers {
            writers.learn(changes);
        }
        self.redirections.learn(changes);
        self.redirections.forget(&gone);
        for change in changes {
            match change {
                Change::Apply(located) => self.metrics.update(located.object.kind()),
                Change::Delete(key) => self.metrics.update(key.kind),
                Change::Problems(_) | Change::Redirection { .. } | Change::Synced => {}
            }
        }
        self.roots.learn(changes)
    }

    fn on_report(&mut self, report: Report) -> Answer {
        let at = (&report.node, report.stream);
        let refused = match report.pods {
            Some(pods) => self.redirections.report(at, pods, &self.directory),
            None => {
                let (node, stream) = at;
                self.redirections
                    .disconnected(node, stream, &self.directory);
                Vec::new()
            }
        };
        Answer {
            kept: report.kept,
            refused,
            since: Instant::now(),
        }
    }

    /// Before nodes hear of it: a restart must know what they were told.
    async fn save(&mut self) {
        let Some((path, text)) = self.redirections.take_unsaved() else {
            return;
        };
        let saved = tokio::task::spawn_blocking(move || redirection::save(&path, &text)).await;
        if !matches!(saved, Ok(Ok(()))) {
            self.redirections.on_save_failed();
            self.metrics.state_error();
            error!(outcome = ?saved, "redirection state not written; a restart would lose it");
        }
    }

    async fn flush(&mut self, mut gathered: Gathered, pace: &mut Pace) {
        gathered
            .changes
            .extend(self.redirections.changes(&self.directory));
        self.save().await;
        if gathered.roots {
            self.write_roots().await;
        }
        let waited = gathered.since.map(|since| since.elapsed());
        let (started, used) = (Instant::now(), processor::of_thread());
        let mut delta = self.compiler.apply(gathered.changes);
        let compiled = started.elapsed();
        let (statuses, diagnostics) = (std::mem::take(&mut delta.statuses), delta.diagnostics);
        if let Some(wanted) = &self.wanted {
            wanted.set(self.compiler.wanted());
        }
        self.waypoints.learn(&delta.rendered);
        if let Some(writers) = &self.writers {
            writers.compiled(&statuses, &delta.rendered);
        }
        let published = self.publisher.publish(batch(delta));
        self.page.learn(published.version, statuses);
        for answer in gathered.reports {
            // The stream that brought it may be gone.
            let _ = answer.kept.send(answer.refused);
        }
        debug!(version = published.version, ?compiled, touched = ?published.touched, "published");
        self.metrics
            .published(&published, waited.unwrap_or_default(), compiled);
        let sizes = self.publisher.sizes();
        let of = |url: &str| {
            let size = sizes.iter().find(|size| size.type_url.as_ref() == url);
            size.map_or(0, |size| size.resources)
        };
        let services = of(ADDRESS_TYPE).saturating_sub(of(WORKLOAD_TYPE));
        self.metrics
            .sizes(&sizes, services, self.redirections.count());
        if diagnostics || published.version == 1 {
            self.stale_page.get_or_insert_with(Instant::now);
        }
        if published.version == 1 {
            info!(
                workloads = of(WORKLOAD_TYPE),
                services,
                policies = of(AUTHORIZATION_TYPE),
                redirected = self.redirections.count(),
                "configuration loaded"
            );
        }
        let cost = processor::of_thread().saturating_sub(used);
        pace.flushed(Instant::now(), cost);
    }

    async fn write_roots(&self) {
        let roots = Arc::clone(&self.roots);
        let written = tokio::task::spawn_blocking(move || roots.write()).await;
        if !matches!(written, Ok(Ok(()))) {
            self.metrics.state_error();
            warn!(outcome = ?written, "root bundle not written");
        }
    }

    /// Costs a copy of everything that is wrong: not part of a publication,
    /// and not done for each.
    fn show(&mut self, pace: &mut Pace) {
        let used = processor::of_thread();
        self.stale_page = None;
        self.page.replace(self.compiler.diagnostics());
        let cost = processor::of_thread().saturating_sub(used);
        pace.flushed(Instant::now(), cost);
    }
}

/// A delta of the compiler as a batch for nodes.
fn batch(delta: Delta) -> Batch {
    let authorizations = TypeDelta {
        type_url: AUTHORIZATION_TYPE.to_owned(),
        changed: delta
            .authorizations
            .changed
            .iter()
            .map(|a| policy(a))
            .collect(),
        removed: names(&delta.authorizations.removed),
    };
    let changed = &delta.addresses.changed;
    let addresses = TypeDelta {
        type_url: ADDRESS_TYPE.to_owned(),
        changed: changed.iter().map(|a| address(a)).collect(),
        removed: names(&delta.addresses.removed),
    };
    let workloads = TypeDelta {
        type_url: WORKLOAD_TYPE.to_owned(),
        changed: changed.iter().filter_map(|a| bare_workload(a)).collect(),
        removed: names(&delta.addresses.removed),
    };
    let waypoint = delta.waypoint.iter().map(|(type_url, changes)| TypeDelta {
        type_url: type_url.to_owned(),
        changed: changes.changed.iter().map(|r| of_waypoints(r)).collect(),
        removed: names(&changes.removed),
    });
    let nodes = [authorizations, addresses, workloads];
    Batch {
        types: nodes.into_iter().chain(waypoint).collect(),
    }
}

fn names(removed: &[Arc<str>]) -> Vec<String> {
    removed.iter().map(ToString::to_string).collect()
}

fn policy(resource: &AuthorizationResource) -> Update {
    Update {
        name: Arc::clone(&resource.name),
        version: resource.version.to_string(),
        body: resource.body.clone(),
        ..Update::default()
    }
}

fn of_waypoints(resource: &WaypointResource) -> Update {
    Update {
        name: Arc::clone(&resource.name),
        version: resource.version.to_string(),
        body: resource.body.clone(),
        audience: Some(Arc::clone(&resource.audience)),
        ..Update::default()
    }
}

fn address(resource: &AddressResource) -> Update {
    let (groups, home) = match &resource.kind {
        AddressKind::Service => (Vec::new(), None),
        AddressKind::Workload { services, node, .. } => {
            let home = Some(Arc::clone(node)).filter(|node| !node.is_empty());
            (services.to_vec(), home)
        }
    };
    Update {
        name: Arc::clone(&resource.name),
        version: resource.version.to_string(),
        body: resource.body.clone(),
        aliases: resource.aliases.to_vec(),
        groups,
        home,
        audience: None,
    }
}

fn bare_workload(resource: &AddressResource) -> Option<Update> {
    Some(Update {
        body: resource.workload_body()?,
        groups: Vec::new(),
        ..address(resource)
    })
}

/// Reports of many nodes at once are one publication.
const HARDLY: Duration = Duration::from_millis(10);
