//! Statuses of objects, as controllers write them (`control-plane-contract` 5.3).
//!
//! Owns the way from what should be said of an object to its `status`: a queue with one place for each object and
//! writer, in which the newest wins; a comparison with what is there, so that nothing is written that says the same
//! (a time never is a reason); and the write itself, of everything that a writer owns at once. What is to be said,
//! and who leads, is for others to know.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ambit_kube::{Kind, ObjectKey};
use ambit_runtime::Backoff;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::Client;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::apply::{WriteError, asked, empty_body, set};
use crate::resource::{api, api_of, api_version, resource};

mod difference;
mod queue;

use queue::Queue;

/// What one writer wants an object's status to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The object.
    pub object: ObjectKey,
    /// Who says it: a field manager.
    pub manager: &'static str,
    /// What.
    pub form: Form,
}

/// How it is said.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// Members of the status that are the manager's own, complete: by server-side apply. Conditions and listeners
    /// without their times; members that are absent are given up.
    Own(Value),
    /// Our entries of a list that other controllers have entries of too.
    Share {
        /// `parents` or `ancestors`.
        list: &'static str,
        /// Whose entries, by their `controllerName`.
        controller: &'static str,
        /// All of them, in order, without times.
        entries: Vec<Value>,
    },
    /// A member of the status as a whole, if the object's specification still is of this generation.
    Member {
        /// Which.
        name: &'static str,
        /// Its value.
        value: Value,
        /// `metadata.generation`.
        generation: Option<i64>,
    },
}

/// Who hears of writes.
pub trait WriteObserver: Send + Sync + 'static {
    /// So many objects wait.
    fn queued(&self, depth: usize);
    /// One was written.
    fn written(&self, kind: Kind);
    /// One couldn't be, for this reason.
    fn failed(&self, reason: &'static str);
}

/// Writes statuses. Clones share the queue.
#[derive(Clone)]
pub struct StatusWriter {
    client: Client,
    queue: Arc<Queue>,
    observer: Arc<dyn WriteObserver>,
    /// Which version of a kind is served, once that is known.
    versions: Arc<Mutex<HashMap<Kind, &'static str>>>,
}

/// What came of one try.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Written,
    Same,
    Gone,
}

impl StatusWriter {
    /// A writer with nothing to do.
    pub fn new(client: Client, observer: Arc<dyn WriteObserver>) -> Self {
        Self {
            client,
            queue: Arc::default(),
            observer,
            versions: Arc::default(),
        }
    }

    /// Wants something said; what was wanted of the same object by the same manager is forgotten. When more wait
    /// than 65,536 it isn't taken, and a review follows.
    pub fn want(&self, wanted: Wanted) {
        self.queue.push(wanted);
        self.observer.queued(self.queue.len());
    }

    /// Whether some were lost since the last call, for good reasons or because too many waited: a review finds them.
    pub fn take_lost(&self) -> bool {
        self.queue.take_lost()
    }

    /// Forgets what waits: somebody else leads.
    pub fn clear(&self) {
        self.queue.clear();
        self.observer.queued(0);
    }

    /// Writes what is wanted, for ever.
    pub async fn run(&self) {
        futures::future::join_all((0..WORKERS).map(|_| self.work())).await;
    }

    async fn work(&self) {
        loop {
            let wanted = self.queue.pop().await;
            self.observer.queued(self.queue.len());
            let key = (wanted.object.clone(), wanted.manager);
            self.write(wanted).await;
            self.queue.done(&key);
        }
    }

    async fn write(&self, mut wanted: Wanted) {
        let mut backoff = Backoff::new(FIRST_WAIT, LAST_WAIT).jitter(0.5);
        let mut attempt = 0;
        let error = loop {
            attempt += 1;
            let error = match self.attempt(&wanted).await {
                Ok(Outcome::Written) => return self.observer.written(wanted.object.kind),
                Ok(Outcome::Same | Outcome::Gone) => return,
                Err(error) => error,
            };
            if attempt >= ATTEMPTS || !error.is_passing() {
                break error;
            }
            sleep(backoff.next_wait()).await;
            if let Some(newer) = self.queue.newer(&wanted) {
                wanted = newer;
            }
        };
        self.observer.failed(error.reason());
        let (object, manager) = (&wanted.object, wanted.manager);
        warn!(%object, manager, %error, attempt, "status not written");
        if error.is_passing() {
            self.queue.lose();
        }
    }

    async fn attempt(&self, wanted: &Wanted) -> Result<Outcome, WriteError> {
        let Some((found, version)) = self.find(&wanted.object).await? else {
            return Ok(Outcome::Gone);
        };
        let Some(patch) = change(wanted, &found, version) else {
            return Ok(Outcome::Same);
        };
        let objects = api_of(&self.client, &wanted.object, version);
        let params = match patch {
            Patch::Apply(_) => PatchParams::apply(wanted.manager).force(),
            _ => PatchParams {
                field_manager: Some(wanted.manager.to_owned()),
                ..PatchParams::default()
            },
        };
        match asked(objects.patch_status(&wanted.object.name, &params, &patch)).await {
            Ok(_) => Ok(Outcome::Written),
            Err(error) if error.is_status(404) => Ok(Outcome::Gone),
            Err(error) => Err(error),
        }
    }

    /// The object, in the version of its kind that is served.
    async fn find(
        &self,
        key: &ObjectKey,
    ) -> Result<Option<(DynamicObject, &'static str)>, WriteError> {
        let known = self.version(key.kind);
        let versions = key.kind.versions().iter().copied();
        let tried: Vec<_> = match known {
            Some(version) => vec![version],
            None => versions.collect(),
        };
        for version in tried {
            let objects = api_of(&self.client, key, version);
            if let Some(found) = asked(objects.get_opt(&key.name)).await? {
                self.served(key.kind, version);
                return Ok(Some((found, version)));
            }
        }
        Ok(None)
    }

    fn version(&self, kind: Kind) -> Option<&'static str> {
        let versions = self.versions.lock();
        let versions = versions.unwrap_or_else(PoisonError::into_inner);
        versions.get(&kind).copied()
    }

    fn served(&self, kind: Kind, version: &'static str) {
        let versions = self.versions.lock();
        let mut versions = versions.unwrap_or_else(PoisonError::into_inner);
        versions.insert(kind, version);
    }

    /// Looks at every object of some kinds, and wants what isn't said of them: for who begins to lead, and for who
    /// has lost writes. `wanted` gives everything that is to be said of one, and nothing for objects that are
    /// somebody else's.
    ///
    /// # Errors
    /// Some couldn't be listed; the others have been looked at.
    pub async fn review(
        &self,
        kinds: &[Kind],
        wanted: impl Fn(&ObjectKey) -> Vec<Wanted>,
    ) -> Result<(), WriteError> {
        let mut outcome = Ok(());
        for kind in kinds {
            if let Err(error) = self.review_kind(*kind, &wanted).await {
                debug!(%kind, %error, "not reviewed");
                outcome = Err(error);
            }
        }
        outcome
    }

    async fn review_kind(
        &self,
        kind: Kind,
        wanted: &impl Fn(&ObjectKey) -> Vec<Wanted>,
    ) -> Result<(), WriteError> {
        for version in kind.versions().iter().copied() {
            let all = api(
                &self.client,
                &resource(kind.group(), version, kind.as_str()),
                "",
            );
            let mut params = ListParams::default().limit(PAGE);
            loop {
                let page = match asked(all.list(&params)).await {
                    Ok(page) => page,
                    // Not in this version.
                    Err(error) if error.is_status(404) => break,
                    Err(error) => return Err(error),
                };
                self.served(kind, version);
                for object in &page.items {
                    let meta = &object.metadata;
                    let name = meta.name.as_deref().unwrap_or_default();
                    let namespace = meta.namespace.as_deref().unwrap_or_default();
                    for wanted in wanted(&ObjectKey::new(kind, namespace, name)) {
                        if change(&wanted, object, version).is_some() {
                            self.want(wanted);
                        }
                    }
                }
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params = params.continue_token(&token),
                    None => return Ok(()),
                }
            }
        }
        Ok(())
    }
}

/// The patch that makes an object's status say what is wanted; none where it says it already, or where what is
/// wanted is older than what is there.
fn change(wanted: &Wanted, found: &DynamicObject, version: &str) -> Option<Patch<Value>> {
    let nothing = Value::Null;
    let now = found.data.get("status").unwrap_or(&nothing);
    let kind = wanted.object.kind;
    let clock = difference::Clock::new(kind, SystemTime::now());
    let mut body = empty_body(
        &api_version(kind, version),
        kind.as_str(),
        &wanted.object.namespace,
        &wanted.object.name,
    );
    let meta = &found.metadata;
    match &wanted.form {
        Form::Own(status) => {
            let all = || meta.managed_fields.iter().flatten();
            let owned = all().filter(|of| is_of(of, wanted.manager));
            let owned: Vec<_> = owned.filter_map(fields).collect();
            let all: Vec<_> = all().filter_map(fields).collect();
            let status = difference::own(status, now, (&owned, &all), &clock)?;
            set(&mut body, "status", status);
            Some(Patch::Apply(body))
        }
        Form::Share {
            list,
            controller,
            entries,
        } => {
            let there = now.get(list).and_then(Value::as_array);
            let there = there.map(Vec::as_slice).unwrap_or_default();
            let all = difference::share(entries, there, controller, &clock)?;
            set(
                body.get_mut("metadata")?,
                "resourceVersion",
                version_of(found)?,
            );
            set(&mut body, "status", json!({*list: all}));
            Some(Patch::Merge(body))
        }
        Form::Member {
            name,
            value,
            generation,
        } => {
            let stale = generation.is_some() && meta.generation != *generation;
            let same = now.get(name).unwrap_or(&nothing) == value;
            if stale || same {
                return None;
            }
            set(
                body.get_mut("metadata")?,
                "resourceVersion",
                version_of(found)?,
            );
            set(&mut body, "status", json!({*name: value}));
            Some(Patch::Merge(body))
        }
    }
}

/// What was seen is what is written: a change in between is a conflict.
fn version_of(found: &DynamicObject) -> Option<Value> {
    found.metadata.resource_version.clone().map(Value::from)
}

fn fields(entry: &ManagedFieldsEntry) -> Option<&Value> {
    entry.fields_v1.as_ref().map(|fields| &fields.0)
}

fn is_of(entry: &ManagedFieldsEntry, manager: &str) -> bool {
    entry.manager.as_deref() == Some(manager)
        && entry.subresource.as_deref() == Some("status")
        && entry.operation.as_deref() == Some("Apply")
}

/// At a time; the API server shares its attention among its clients.
const WORKERS: usize = 8;
/// For one object, before it is left to a review.
const ATTEMPTS: usize = 5;
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(2);
/// Objects in one answer.
const PAGE: u32 = 500;

#[cfg(test)]
mod tests;
