//! Every object that we read, as it is in the cluster: the same changes over
//! the same channel as the directory source's.
//!
//! A `Follower` keeps one resource; `definition` finds which of our kinds there
//! are; `collect` makes one stream of changes of all of them, with kinds that
//! come and go; `once` looks and ends. No resource version is told on: a write
//! that changes nothing that is read is no change for the compiler.
//!
//! Secrets and ConfigMaps aren't read, but for the mesh's settings and those
//! that somebody [wants](Wanted), each by a watch of its own.

mod collect;
mod definition;
mod once;
mod problems;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_kube::{Change, ObjectKey};
use ambit_runtime::Scope;
use kube::Client;
use tokio::sync::{mpsc, watch};

use crate::follow::{Timing, Watches};
use collect::Collector;
pub use once::{Look, Unread};

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
