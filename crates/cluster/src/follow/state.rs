//! How the watches fare: for metrics and for people.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::wire::Fault;

/// The state of every watch. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Watches(Arc<Mutex<BTreeMap<Arc<str>, WatchState>>>);

/// How one watch fares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchState {
    /// Whether a list was told whole since it began.
    pub synced: bool,
    /// What it does now.
    pub stage: Stage,
    /// Objects that are told.
    pub objects: usize,
    /// Objects told as new or different, so far.
    pub applied: u64,
    /// Objects told as gone, so far.
    pub deleted: u64,
    /// Objects that are gone, so far as one list or watch said, and stay in
    /// force until a second list agrees.
    pub held: usize,
    /// How often everything was read again.
    pub resyncs: u64,
    /// Faults so far, by what they were.
    pub faults: BTreeMap<&'static str, u64>,
    /// The last fault, and when it was.
    pub last_fault: Option<(SystemTime, String)>,
}

/// What a watch does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    /// It lists, or waits to list again.
    #[default]
    Listing,
    /// It hears of every change.
    Watching,
}

impl Watches {
    /// All of them, by name: the kind, or the kind and the one object.
    pub fn all(&self) -> Vec<(Arc<str>, WatchState)> {
        let states = self.0.lock();
        states
            .iter()
            .map(|(label, state)| (Arc::clone(label), state.clone()))
            .collect()
    }

    /// Those that haven't told everything yet.
    pub fn waiting(&self) -> Vec<Arc<str>> {
        let states = self.0.lock();
        let waiting = states.iter().filter(|(_, state)| !state.synced);
        waiting.map(|(label, _)| Arc::clone(label)).collect()
    }

    fn at(&self, label: &Arc<str>, change: impl FnOnce(&mut WatchState)) {
        change(self.0.lock().entry(Arc::clone(label)).or_default());
    }

    pub(super) fn stage(&self, label: &Arc<str>, stage: Stage) {
        self.at(label, |state| state.stage = stage);
    }

    pub(super) fn listed(&self, label: &Arc<str>, objects: usize) {
        self.at(label, |state| {
            state.synced = true;
            state.objects = objects;
        });
    }

    pub(super) fn objects(&self, label: &Arc<str>, objects: usize) {
        self.at(label, |state| state.objects = objects);
    }

    pub(super) fn applied(&self, label: &Arc<str>, count: usize) {
        self.at(label, |state| state.applied += count as u64);
    }

    pub(super) fn deleted(&self, label: &Arc<str>, count: usize) {
        self.at(label, |state| state.deleted += count as u64);
    }

    pub(super) fn held(&self, label: &Arc<str>, count: usize) {
        self.at(label, |state| state.held = count);
    }

    pub(super) fn resynced(&self, label: &Arc<str>) {
        self.at(label, |state| state.resyncs += 1);
    }

    pub(super) fn fault(&self, label: &Arc<str>, fault: &Fault) {
        self.at(label, |state| {
            state.stage = Stage::Listing;
            *state.faults.entry(fault.label()).or_default() += 1;
            state.last_fault = Some((SystemTime::now(), fault.to_string()));
        });
    }

    pub(super) fn remove(&self, label: &Arc<str>) {
        self.0.lock().remove(label);
    }
}
