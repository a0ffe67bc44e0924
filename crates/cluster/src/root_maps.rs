//! The root bundle in every namespace (`control-plane-contract` 7.6): the
//! ConfigMaps `istio-ca-root-cert` and `istio-ca-crl`, made where they are
//! missing, corrected where they differ, made again where they were deleted.
//!
//! Runs where the replica leads. Namespaces that the mesh doesn't discover, that
//! are ending, or that are excluded get none; what is there stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ambit_runtime::sleep_maybe;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::follow::{Event, Following, Name, Resource, Told};

/// What every namespace is to have.
#[derive(Clone, Default)]
pub struct Published {
    /// The root bundle, PEM. While it is empty nothing is written.
    pub roots: String,
    /// The list of revoked certificates, PEM; empty without one. `None`: no such ConfigMap.
    pub revoked: Option<String>,
    /// Whether a namespace with these labels is discovered; `None` discovers all.
    pub discovers: Option<Discovers>,
}

/// A judgement over the labels of a namespace.
pub type Discovers = Arc<dyn Fn(&BTreeMap<String, String>) -> bool + Send + Sync>;

/// Counts what is written; called from the task that writes.
pub trait RootMapObserver: Send + Sync {
    /// A ConfigMap was written.
    fn written(&self);
    /// A write failed and will be tried again.
    fn failed(&self);
}

/// Keeps the ConfigMaps as they are to be, until it is dropped.
pub async fn keep_root_maps(
    client: Client,
    mut published: watch::Receiver<Published>,
    observer: Arc<dyn RootMapObserver>,
) {
    let now = published.borrow_and_update().clone();
    let mut following = Following::new(&client);
    // Their metadata is all that is asked for.
    let namespaces = Resource::all("", "v1", NAMESPACES).metadata();
    following.follow(NAMESPACES, namespaces, Item::namespace);
    for name in [ROOTS, REVOKED] {
        let maps = Resource::all("", "v1", "configmaps").with_name(name);
        following.follow(name, maps, move |text| Item::map(name, text));
    }
    let mut keeper = Keeper::new(client, now, observer);
    let mut writing = FuturesUnordered::new();
    loop {
        while writing.len() < AT_ONCE
            && let Some(due) = keeper.next(Instant::now())
        {
            writing.push(keeper.write(due));
        }
        let wake = keeper.wake().filter(|_| writing.len() < AT_ONCE);
        tokio::select! {
            (of, told) = following.next() => keeper.on_told(of, told),
            Ok(()) = published.changed() => {
                let new = published.borrow_and_update().clone();
                keeper.on_published(new);
            }
            Some((due, outcome)) = writing.next() => keeper.on_written(due, outcome),
            () = sleep_maybe(wake) => {}
        }
    }
}

/// What is read of an object.
enum Item {
    /// A namespace: its labels; none once it is ending.
    Namespace(Option<BTreeMap<String, String>>),
    /// A ConfigMap: the value, if it has the label as well.
    Map(Option<String>),
}

impl Item {
    fn namespace(text: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Shape {
            metadata: Metadata,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            labels: Option<BTreeMap<String, String>>,
            deletion_timestamp: Option<String>,
        }
        let Shape { metadata } = serde_json::from_slice(text)?;
        let lives = metadata.deletion_timestamp.is_none();
        Ok(Self::Namespace(
            lives.then(|| metadata.labels.unwrap_or_default()),
        ))
    }

    fn map(name: &str, text: &[u8]) -> serde_json::Result<Self> {
        let map: ConfigMap = serde_json::from_slice(text)?;
        Ok(Self::Map(content(name, map)))
    }
}

/// One ConfigMap: its namespace and name.
type Place = (String, &'static str);

/// What is, and what is to be.
struct Keeper {
    client: Client,
    published: Published,
    observer: Arc<dyn RootMapObserver>,
    /// Labels of the namespaces that live.
    namespaces: HashMap<String, BTreeMap<String, String>>,
    /// The namespaces, and each of the two ConfigMaps, were listed once: before that nothing is written, or a
    /// restart would write everything again.
    listed: BTreeSet<&'static str>,
    /// What is there: the value, if it has the label as well.
    maps: HashMap<Place, Option<String>>,
    /// What is wrong, and when it is tried again.
    due: HashMap<Place, (Instant, u32)>,
    writing: BTreeSet<Place>,
}

impl Keeper {
    fn new(client: Client, published: Published, observer: Arc<dyn RootMapObserver>) -> Self {
        Self {
            client,
            published,
            observer,
            namespaces: HashMap::new(),
            listed: BTreeSet::new(),
            maps: HashMap::new(),
            due: HashMap::new(),
            writing: BTreeSet::new(),
        }
    }

    /// Something was told of the namespaces, or of the ConfigMaps of a name.
    fn on_told(&mut self, of: &'static str, told: Told<Item>) {
        match told {
            Told::Events(events) => events
                .into_iter()
                .for_each(|event| self.on_event(of, event)),
            Told::Listed => {
                if self.listed.insert(of) {
                    self.look_at_all();
                }
            }
            Told::Gone => {}
        }
    }

    fn on_event(&mut self, of: &'static str, event: Event<Item>) {
        match event {
            Event::Applied(Name { name, .. }, Item::Namespace(Some(labels))) => {
                self.namespaces.insert((*name).to_owned(), labels);
                self.look_at(&name);
            }
            Event::Applied(Name { name, .. }, Item::Namespace(None)) => self.forget(&name),
            Event::Applied(Name { namespace, .. }, Item::Map(content)) => {
                self.maps.insert(((*namespace).to_owned(), of), content);
                self.look_at(&namespace);
            }
            Event::Deleted(Name { name, .. }) if of == NAMESPACES => self.forget(&name),
            Event::Deleted(Name { namespace, .. }) => {
                self.maps.remove(&((*namespace).to_owned(), of));
                self.look_at(&namespace);
            }
        }
    }

    fn forget(&mut self, namespace: &str) {
        self.namespaces.remove(namespace);
        self.due.retain(|(of, _), _| of != namespace);
    }

    fn on_published(&mut self, published: Published) {
        self.published = published;
        self.look_at_all();
    }

    fn look_at_all(&mut self) {
        let names: Vec<String> = self.namespaces.keys().cloned().collect();
        names.iter().for_each(|name| self.look_at(name));
    }

    /// Notes what is wrong in a namespace, and what no longer is.
    fn look_at(&mut self, namespace: &str) {
        if self.listed.len() < 3 {
            return;
        }
        for name in [ROOTS, REVOKED] {
            let place = (namespace.to_owned(), name);
            let wanted = self.wanted(namespace, name);
            let is = self.maps.get(&place).and_then(Option::as_deref);
            if wanted.is_none() || wanted == is {
                self.due.remove(&place);
            } else {
                self.due.entry(place).or_insert((Instant::now(), 0));
            }
        }
    }

    /// What a ConfigMap is to hold; `None` where there is to be none.
    fn wanted(&self, namespace: &str, name: &'static str) -> Option<&str> {
        let labels = self.namespaces.get(namespace)?;
        let Published {
            roots,
            revoked,
            discovers,
        } = &self.published;
        let discovered = discovers.as_ref().is_none_or(|discovers| discovers(labels));
        if roots.is_empty() || !discovered || EXCLUDED.contains(&namespace) {
            return None;
        }
        match name {
            ROOTS => Some(roots),
            _ => revoked.as_deref(),
        }
    }

    /// A place that is to be written now.
    fn next(&mut self, now: Instant) -> Option<Place> {
        let mut due = self.due.iter();
        let (place, _) =
            due.find(|(place, (at, _))| *at <= now && !self.writing.contains(*place))?;
        let place = place.clone();
        self.writing.insert(place.clone());
        Some(place)
    }

    fn wake(&self) -> Option<Instant> {
        let waiting = self.due.iter();
        let waiting = waiting.filter(|(place, _)| !self.writing.contains(*place));
        waiting.map(|(_, (at, _))| *at).min()
    }

    fn write(
        &self,
        place: Place,
    ) -> impl Future<Output = (Place, Result<ConfigMap, kube::Error>)> + use<> {
        let (namespace, name) = (place.0.clone(), place.1);
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        let text = self.wanted(&namespace, name).unwrap_or_default();
        let patch = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {LABEL: "true"}},
            "data": {key(name): text},
        });
        async move {
            let params = PatchParams::apply(MANAGER).force();
            let patch = Patch::Apply(&patch);
            let written = api.patch(name, &params, &patch);
            let outcome = match tokio::time::timeout(DEADLINE, written).await {
                Ok(outcome) => outcome,
                Err(_) => Err(kube::Error::Service("no answer in time".into())),
            };
            (place, outcome)
        }
    }

    fn on_written(&mut self, place: Place, outcome: Result<ConfigMap, kube::Error>) {
        self.writing.remove(&place);
        match outcome {
            Ok(map) => {
                info!(
                    namespace = place.0,
                    name = place.1,
                    "root ConfigMap written"
                );
                self.observer.written();
                self.maps.insert(place.clone(), content(place.1, map));
                self.look_at(&place.0);
            }
            // The namespace ends or has ended; an event says so soon, or it comes back.
            Err(kube::Error::Api(status)) if is_ending(&status) => self.later(place, ENDING),
            Err(error) => {
                warn!(namespace = place.0, name = place.1, %error, "root ConfigMap not written");
                self.observer.failed();
                self.later(place, Duration::ZERO);
            }
        }
    }

    fn later(&mut self, place: Place, at_least: Duration) {
        if let Some((at, failures)) = self.due.get_mut(&place) {
            let pause = FIRST.saturating_mul(1 << (*failures).min(8)).min(LAST);
            *failures += 1;
            *at = Instant::now() + pause.max(at_least);
        }
    }
}

fn is_ending(status: &kube::core::Status) -> bool {
    status.code == 404 || (status.code == 403 && status.message.contains("being terminated"))
}

/// What a ConfigMap says, if it has the label, and nothing otherwise.
fn content(name: &str, map: ConfigMap) -> Option<String> {
    let labels = map.metadata.labels?;
    if labels.get(LABEL).map(String::as_str) != Some("true") {
        return None;
    }
    map.data?.remove(key(name))
}

fn key(name: &str) -> &'static str {
    match name {
        ROOTS => "root-cert.pem",
        _ => "ca-crl.pem",
    }
}

const NAMESPACES: &str = "namespaces";
const ROOTS: &str = "istio-ca-root-cert";
const REVOKED: &str = "istio-ca-crl";
const LABEL: &str = "istio.io/config";
const MANAGER: &str = "istiod-lite";
const EXCLUDED: [&str; 3] = ["kube-public", "kube-node-lease", "local-path-storage"];
/// Writes at a time.
const AT_ONCE: usize = 8;
const DEADLINE: Duration = Duration::from_secs(10);
const FIRST: Duration = Duration::from_millis(500);
const LAST: Duration = Duration::from_secs(60);
const ENDING: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
