//! One stream of changes from all followers, and which followers there are.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ambit_kube::{
    Change, Kind, Loaded, NotAnObject, Object, ObjectKey, read_object, read_settings,
};
use ambit_runtime::{Scope, sleep_maybe};
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::definition::Definition;
use super::problems::Problems;
use super::{ApiSettings, ApiSource};
use crate::follow::{Event, Follower, Memory, Name, Order, Reader, Resource, Told, Watches};

/// What is made of an object's text.
pub(super) enum Item {
    Object(Result<Loaded, NotAnObject>),
    /// A ConfigMap of settings, as it is.
    Settings(Vec<u8>),
    Definition(Option<Definition>),
}

/// What a follower follows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// CustomResourceDefinitions.
    Definitions,
    /// Every object of a kind.
    Kind(Kind),
    /// The mesh's own settings, or the shared ones.
    Settings { shared: bool },
    /// ConfigMaps of the system namespace with defaults for waypoints.
    Defaults,
    /// A single object that somebody wants.
    Single(ObjectKey),
}

struct Followed {
    orders: watch::Sender<Order>,
    resource: Resource,
    /// A whole list was told.
    listed: bool,
    /// It is telling that everything is gone.
    leaving: bool,
    /// What to follow when it has told.
    again: Option<Resource>,
}

/// Makes one stream of what the followers tell.
pub(super) struct Collector {
    client: Client,
    settings: ApiSettings,
    watches: Watches,
    scope: Scope,
    out: mpsc::Sender<Vec<Change>>,
    tell: mpsc::Sender<(usize, Told<Item>)>,
    told: mpsc::Receiver<(usize, Told<Item>)>,
    next_id: usize,
    followed: BTreeMap<Subject, Followed>,
    subjects: HashMap<usize, Subject>,
    /// By the name of the definition, the kind that it is of.
    defined: HashMap<Name, Kind>,
    /// ConfigMaps that are read for their label, wanted or not.
    defaults: HashSet<ObjectKey>,
    own_settings: Option<Vec<u8>>,
    shared_settings: Option<Vec<u8>>,
    problems: Problems,
    synced: bool,
    /// Single objects were asked for; until when they are waited for.
    owed: Option<Instant>,
}

impl Collector {
    pub(super) fn new(source: &ApiSource, scope: Scope, out: mpsc::Sender<Vec<Change>>) -> Self {
        let (tell, told) = mpsc::channel(TOLD);
        Self {
            client: source.client.clone(),
            settings: source.settings.clone(),
            watches: source.watches.clone(),
            scope,
            out,
            tell,
            told,
            next_id: 0,
            followed: BTreeMap::new(),
            subjects: HashMap::new(),
            defined: HashMap::new(),
            defaults: HashSet::new(),
            own_settings: None,
            shared_settings: None,
            problems: Problems::default(),
            synced: false,
            owed: None,
        }
    }

    /// Collects until nobody listens.
    pub(super) async fn run(mut self, mut wanted: watch::Receiver<BTreeSet<ObjectKey>>) {
        self.begin();
        loop {
            let mut changes = Vec::new();
            let owed = self.owed;
            tokio::select! {
                Some((id, told)) = self.told.recv() => {
                    self.take(id, told, &mut changes);
                    // What is there already is one batch with it.
                    while changes.len() < BATCH && let Ok((id, told)) = self.told.try_recv() {
                        self.take(id, told, &mut changes);
                    }
                }
                Ok(()) = wanted.changed() => {
                    let now = wanted.borrow_and_update().clone();
                    self.want(&now);
                }
                () = sleep_maybe(owed) => {
                    self.owed = None;
                    warn!("changes go out without objects that they refer to: they can't be had in time");
                    changes.push(Change::Synced);
                }
                () = self.out.closed() => return,
            }
            changes.extend(self.problems.told());
            changes.extend(self.now_synced());
            if !changes.is_empty() && self.out.send(changes).await.is_err() {
                return;
            }
        }
    }

    /// Everything that every cluster has.
    fn begin(&mut self) {
        let definitions = Resource::all("apiextensions.k8s.io", "v1", "customresourcedefinitions");
        self.follow(Subject::Definitions, definitions.paged(DEFINITIONS));
        let own = match &*self.settings.revision {
            "" | "default" => "istio".to_owned(),
            revision => format!("istio-{revision}"),
        };
        let system = Arc::clone(&self.settings.system_namespace);
        let own = Resource::named(&system, "configmaps", &own);
        self.follow(Subject::Settings { shared: false }, own);
        let defaults = Resource::labelled(&system, "configmaps", DEFAULTS_FOR_CLASS);
        self.follow(Subject::Defaults, defaults);
        if let Some(shared) = self.settings.shared_mesh_config.clone() {
            let shared = Resource::named(&system, "configmaps", &shared);
            self.follow(Subject::Settings { shared: true }, shared);
        }
        for kind in EVERYWHERE {
            let resource = Resource::all(kind.group(), "v1", &kind.plural());
            let resource = match kind {
                Kind::Pod => resource.selecting("status.phase!=Failed"),
                _ => resource,
            };
            self.follow(Subject::Kind(kind), resource);
        }
    }

    /// Begins to follow, or follows something else instead.
    fn follow(&mut self, subject: Subject, resource: Resource) {
        if let Some(followed) = self.followed.get_mut(&subject) {
            if followed.leaving {
                followed.again = Some(resource);
            } else if followed.resource != resource {
                followed.resource = resource.clone();
                followed.orders.send_replace(Order::Follow(resource));
            }
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let orders = watch::Sender::new(Order::Follow(resource.clone()));
        let follower = Follower {
            client: self.client.clone(),
            resource: resource.clone(),
            read: reader(&subject),
            timing: self.settings.timing.clone(),
            watches: self.watches.clone(),
            label: label(&subject).into(),
            told: self.tell.clone(),
            id,
            memory: Memory::default(),
        };
        self.scope.spawn("watch", follower.run(orders.subscribe()));
        self.subjects.insert(id, subject.clone());
        let followed = Followed {
            orders,
            resource,
            listed: false,
            leaving: false,
            again: None,
        };
        self.followed.insert(subject, followed);
    }

    /// What it told ends with it; its last words come on their own.
    fn unfollow(&mut self, subject: &Subject) {
        if let Some(followed) = self.followed.get_mut(subject) {
            followed.leaving = true;
            followed.again = None;
            followed.orders.send_replace(Order::Forget);
        }
    }

    fn take(&mut self, id: usize, told: Told<Item>, changes: &mut Vec<Change>) {
        let Some(subject) = self.subjects.get(&id).cloned() else {
            return;
        };
        match told {
            Told::Events(events) => {
                for event in events {
                    self.event(&subject, event, changes);
                }
            }
            Told::Listed => {
                if let Some(followed) = self.followed.get_mut(&subject) {
                    followed.listed = true;
                }
            }
            Told::Gone => {
                self.subjects.remove(&id);
                let followed = self.followed.remove(&subject);
                if let Some(again) = followed.and_then(|followed| followed.again) {
                    self.follow(subject, again);
                }
            }
        }
    }

    fn event(&mut self, subject: &Subject, event: Event<Item>, changes: &mut Vec<Change>) {
        match (subject, event) {
            (Subject::Definitions, Event::Applied(name, Item::Definition(definition))) => {
                self.define(name, definition);
            }
            (Subject::Definitions, Event::Deleted(name)) => self.define(name, None),
            (Subject::Settings { shared }, event) => {
                let text = match event {
                    Event::Applied(_, Item::Settings(text)) => Some(text),
                    _ => None,
                };
                if *shared {
                    self.shared_settings = text;
                } else {
                    self.own_settings = text;
                }
                self.read_settings(changes);
            }
            (
                Subject::Kind(_) | Subject::Single(_) | Subject::Defaults,
                Event::Applied(name, Item::Object(read)),
            ) => {
                let key = key(subject, &name);
                if *subject == Subject::Defaults {
                    self.defaults.insert(key.clone());
                }
                match read {
                    Ok(loaded) => self.problems.read(&key, loaded, changes),
                    Err(why) => {
                        error!(object = %key, %why, "the API server's object can't be read");
                        self.problems.garbled(&key, &why.to_string());
                    }
                }
            }
            (Subject::Kind(_) | Subject::Single(_) | Subject::Defaults, Event::Deleted(name)) => {
                let key = key(subject, &name);
                if self.is_read_otherwise(subject, &key) {
                    return;
                }
                self.problems.gone(&key);
                changes.push(Change::Delete(key));
            }
            (_, Event::Applied(..)) => {}
        }
    }

    /// Whether an object that is gone for one follower is another's still.
    fn is_read_otherwise(&mut self, subject: &Subject, key: &ObjectKey) -> bool {
        match subject {
            Subject::Defaults => {
                self.defaults.remove(key);
                let single = self.followed.get(&Subject::Single(key.clone()));
                single.is_some_and(|single| !single.leaving)
            }
            Subject::Single(_) => self.defaults.contains(key),
            _ => false,
        }
    }

    /// A definition is there as it says, or gone.
    fn define(&mut self, name: Name, definition: Option<Definition>) {
        match definition {
            Some(Definition {
                kind,
                version: Some(version),
            }) => {
                let subject = Subject::Kind(kind);
                if !self.followed.contains_key(&subject) {
                    info!(%kind, version, "the cluster has this kind");
                }
                self.defined.insert(name, kind);
                let resource = Resource::all(kind.group(), version, &kind.plural());
                self.follow(subject, resource);
            }
            Some(Definition {
                kind,
                version: None,
            }) => {
                // One that is being changed has its objects still; a new one
                // is served in a moment.
                info!(%kind, "no version of this kind that we can read is served yet");
            }
            None => {
                if let Some(kind) = self.defined.remove(&name) {
                    info!(%kind, "the cluster has this kind no longer");
                    self.unfollow(&Subject::Kind(kind));
                }
            }
        }
    }

    fn read_settings(&mut self, changes: &mut Vec<Change>) {
        let key = ObjectKey::new(
            Kind::MeshConfig,
            Arc::clone(&self.settings.system_namespace),
            "istio",
        );
        let (own, shared) = (
            self.own_settings.as_deref(),
            self.shared_settings.as_deref(),
        );
        let read = read_settings(own, shared);
        match read {
            Ok(loaded) if loaded == Loaded::default() => {
                self.problems.gone(&key);
                changes.push(Change::Delete(key));
            }
            Ok(mut loaded) => {
                for located in &mut loaded.objects {
                    if let Object::MeshConfig(config) = &mut located.object {
                        // One object, whatever the ConfigMap is called.
                        Arc::make_mut(config).metadata.name = Some("istio".to_owned());
                    }
                }
                loaded
                    .objects
                    .retain(|located| located.object.kind() == Kind::MeshConfig);
                if loaded.objects.is_empty() && loaded.unread.is_empty() {
                    changes.push(Change::Delete(key.clone()));
                }
                self.problems.read(&key, loaded, changes);
            }
            Err(why) => self.problems.garbled(&key, &why.to_string()),
        }
    }

    /// Follows single objects as they are wanted.
    fn want(&mut self, wanted: &BTreeSet<ObjectKey>) {
        let singles = self.followed.keys().filter_map(|subject| match subject {
            Subject::Single(key) if !wanted.contains(key) => Some(subject.clone()),
            _ => None,
        });
        for subject in singles.collect::<Vec<_>>() {
            self.unfollow(&subject);
        }
        if wanted.len() > SINGLES {
            error!(
                wanted = wanted.len(),
                most = SINGLES,
                "more Secrets and ConfigMaps are referred to than are read"
            );
        }
        for key in wanted.iter().take(SINGLES) {
            let plural = key.kind.plural();
            let resource = Resource::named(&key.namespace, &plural, &key.name);
            self.follow(Subject::Single(key.clone()), resource);
        }
        self.owed = Some(Instant::now() + self.settings.timing.wanted);
    }

    /// Whether everything was told just now.
    fn now_synced(&mut self) -> Option<Change> {
        if self.synced && self.owed.is_none() {
            return None;
        }
        let waiting = self.followed.iter().any(|(subject, followed)| {
            let counts = self.owed.is_some() || !matches!(subject, Subject::Single(_));
            counts && !followed.listed && !followed.leaving
        });
        if waiting {
            return None;
        }
        self.synced = true;
        self.owed = None;
        Some(Change::Synced)
    }
}

fn key(subject: &Subject, name: &Name) -> ObjectKey {
    match subject {
        Subject::Kind(kind) => {
            ObjectKey::new(*kind, Arc::clone(&name.namespace), Arc::clone(&name.name))
        }
        Subject::Defaults => ObjectKey::new(
            Kind::ConfigMap,
            Arc::clone(&name.namespace),
            Arc::clone(&name.name),
        ),
        Subject::Single(key) => key.clone(),
        Subject::Definitions | Subject::Settings { .. } => ObjectKey::new(Kind::MeshConfig, "", ""),
    }
}

fn reader(subject: &Subject) -> Reader<Item> {
    match subject {
        Subject::Definitions => Box::new(|text: &[u8]| Item::Definition(Definition::read(text))),
        Subject::Settings { .. } => Box::new(|text: &[u8]| Item::Settings(text.to_vec())),
        Subject::Kind(kind) => {
            let kind = *kind;
            Box::new(move |text: &[u8]| Item::Object(read_object(kind, text)))
        }
        Subject::Defaults => {
            Box::new(|text: &[u8]| Item::Object(read_object(Kind::ConfigMap, text)))
        }
        Subject::Single(key) => {
            let kind = key.kind;
            Box::new(move |text: &[u8]| Item::Object(read_object(kind, text)))
        }
    }
}

/// What it is called in logs and metrics.
fn label(subject: &Subject) -> String {
    match subject {
        Subject::Definitions => "CustomResourceDefinition".to_owned(),
        Subject::Kind(kind) => kind.to_string(),
        Subject::Settings { shared: false } => "MeshConfig".to_owned(),
        Subject::Settings { shared: true } => "MeshConfig shared".to_owned(),
        Subject::Defaults => "ConfigMap of defaults".to_owned(),
        Subject::Single(key) => key.to_string(),
    }
}

/// Kinds that every cluster has. ServiceAccounts give nothing that is read.
const EVERYWHERE: [Kind; 5] = [
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::Service,
    Kind::EndpointSlice,
];

/// Label of ConfigMaps with defaults for the waypoints of a class
/// (`control-plane-contract` 5.4).
const DEFAULTS_FOR_CLASS: &str = "gateway.istio.io/defaults-for-class";

/// Batches of followers that wait; each holds a page at most.
const TOLD: usize = 4;
/// Changes that go out at once.
const BATCH: usize = 512;
/// Definitions a page: some are of hundreds of KiB.
const DEFINITIONS: u32 = 20;
/// Single objects that are followed, each by a connection.
const SINGLES: usize = 512;

#[cfg(test)]
mod tests {
    use super::super::definition::is_custom;
    use super::*;

    #[test]
    fn every_kind_is_everywhere_or_defined_or_single() {
        let singles = [
            Kind::MeshConfig,
            Kind::ServiceAccount,
            Kind::ConfigMap,
            Kind::Secret,
        ];
        for kind in Kind::ALL {
            let ways = [
                EVERYWHERE.contains(kind),
                is_custom(*kind),
                singles.contains(kind),
            ];
            assert_eq!(ways.iter().filter(|way| **way).count(), 1, "{kind}");
        }
    }
}
