//! Every object that we read, as it is in the cluster: the same changes over
//! the same channel as the directory source's.
//!
//! `resource` and `wire` know the requests and the answers; `known` what was
//! told; `follow` keeps one resource; `definition` finds which of our kinds
//! there are; `collect` makes one stream of changes of all of them; `once` looks
//! and ends.
//!
//! What the API server can do without harm: go away, for however long (what was
//! told stays in force); end a watch, or forget what comes after our version;
//! say things twice, late or out of order; come back with an older history;
//! lose more than half of its objects (a second list has to agree); get a kind,
//! or lose it. No resource version is told on: a write that changes nothing
//! that is read is no change for the compiler.
//!
//! Secrets and ConfigMaps aren't read, but for the mesh's settings and those
//! that somebody [wants](Wanted), each by a watch of its own.

mod collect;
mod definition;
mod follow;
mod known;
mod once;
mod problems;
mod resource;
mod slices;
mod state;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ambit_kube::{Change, ObjectKey};
use ambit_runtime::Scope;
use kube::Client;
use tokio::sync::{mpsc, watch};

use collect::Collector;
pub use once::{Look, Unread};
pub use state::{Stage, WatchState, Watches};

/// What of a cluster is read.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Where the mesh's settings are: the ConfigMap `istio`, or `istio-REVISION`.
    pub system_namespace: Arc<str>,
    /// Our revision; `default` and empty mean the ConfigMap `istio`.
    pub revision: Arc<str>,
    /// A further ConfigMap of settings, which those of the first override.
    pub shared_mesh_config: Option<Arc<str>>,
    /// How long everything takes.
    pub timing: Timing,
}

/// How long everything takes.
#[derive(Debug, Clone)]
pub struct Timing {
    /// For an answer, or its beginning.
    pub patience: Duration,
    /// Without a line in a watch; servers send a bookmark about once a minute.
    pub silence: Duration,
    /// How long we ask the server to go on with a watch, at least.
    pub watch: Duration,
    /// The first wait before a new try.
    pub retry: Duration,
    /// The longest.
    pub retry_at_most: Duration,
    /// A watch that held this long was a good one.
    pub settled: Duration,
    /// Between a list that lacks more than half of the objects, and the one
    /// that has to agree.
    pub confirm: Duration,
    /// Deletions within this time count as at once.
    pub window: Duration,
    /// For what is [`Wanted`]: changes go out without it after this.
    pub wanted: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(60),
            silence: Duration::from_secs(100),
            watch: Duration::from_secs(300),
            retry: Duration::from_millis(100),
            retry_at_most: Duration::from_secs(10),
            settled: Duration::from_secs(5),
            confirm: Duration::from_secs(2),
            window: Duration::from_secs(1),
            wanted: Duration::from_secs(5),
        }
    }
}

/// Asks a source for single Secrets and ConfigMaps. Clones ask the same one.
#[derive(Debug, Clone)]
pub struct Wanted(watch::Sender<BTreeSet<ObjectKey>>);

impl Wanted {
    /// These are wanted now, and no others. [`Change::Synced`] comes again once
    /// they are told, or can't be had for now. Returns whether it will.
    pub fn set(&self, wanted: &BTreeSet<ObjectKey>) -> bool {
        self.0.send_if_modified(|before| {
            let differs = before != wanted;
            if differs {
                before.clone_from(wanted);
            }
            differs
        })
    }
}

/// A cluster as a source of changes.
#[derive(Clone)]
pub struct ApiSource {
    client: Client,
    settings: ApiSettings,
    wanted: Wanted,
    watches: Watches,
}

impl ApiSource {
    /// A source that reads through a client.
    pub fn new(client: Client, settings: ApiSettings) -> Self {
        Self {
            client,
            settings,
            wanted: Wanted(watch::Sender::new(BTreeSet::new())),
            watches: Watches::default(),
        }
    }

    /// Asks for single objects.
    pub fn wanted(&self) -> Wanted {
        self.wanted.clone()
    }

    /// How the watches fare.
    pub fn watches(&self) -> Watches {
        self.watches.clone()
    }

    /// Starts tasks on `scope` that send a batch for every change, and
    /// [`Change::Synced`] once everything that was there is told.
    ///
    /// They wait while the receiver is busy, and end when it is gone or the
    /// scope is cancelled.
    pub fn run(&self, scope: &Scope, changes: mpsc::Sender<Vec<Change>>) {
        let wanted = self.wanted.0.subscribe();
        let collector = Collector::new(self, scope.child("watches"), changes);
        scope.spawn("cluster source", collector.run(wanted));
    }
}
