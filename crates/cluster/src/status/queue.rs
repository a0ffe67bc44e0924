//! What waits to be written: one place for each object and writer, the newest wins.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ambit_kube::ObjectKey;
use tokio::sync::Notify;

use super::Wanted;

/// Object and manager.
type Place = (ObjectKey, &'static str);

/// The queue.
#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    some: Notify,
}

#[derive(Default)]
struct Inner {
    wanted: HashMap<Place, Wanted>,
    /// Those that wait and aren't being written.
    order: VecDeque<Place>,
    /// Those that are being written.
    busy: HashSet<Place>,
    lost: bool,
}

impl Queue {
    pub(super) fn push(&self, wanted: Wanted) {
        let place = (wanted.object.clone(), wanted.manager);
        let mut inner = self.lock();
        if inner.wanted.len() >= BOUND && !inner.wanted.contains_key(&place) {
            inner.lost = true;
            return;
        }
        let waits = inner.wanted.insert(place.clone(), wanted).is_some();
        if !waits && !inner.busy.contains(&place) {
            inner.order.push_back(place);
            drop(inner);
            self.some.notify_one();
        }
    }

    /// The one that waits longest; whoever takes it says when it is [`done`](Self::done).
    pub(super) async fn pop(&self) -> Wanted {
        loop {
            if let Some(wanted) = self.take() {
                return wanted;
            }
            self.some.notified().await;
        }
    }

    fn take(&self) -> Option<Wanted> {
        let mut inner = self.lock();
        while let Some(place) = inner.order.pop_front() {
            if let Some(wanted) = inner.wanted.remove(&place) {
                inner.busy.insert(place);
                if !inner.order.is_empty() {
                    self.some.notify_one();
                }
                return Some(wanted);
            }
        }
        None
    }

    /// What has come to be wanted since, in its place.
    pub(super) fn newer(&self, than: &Wanted) -> Option<Wanted> {
        let place = (than.object.clone(), than.manager);
        self.lock().wanted.remove(&place)
    }

    pub(super) fn done(&self, place: &Place) {
        let mut inner = self.lock();
        inner.busy.remove(place);
        if inner.wanted.contains_key(place) {
            inner.order.push_back(place.clone());
            drop(inner);
            self.some.notify_one();
        }
    }

    /// Nothing waits, and what was being written is not: whoever did it was stopped.
    pub(super) fn clear(&self) {
        *self.lock() = Inner::default();
    }

    pub(super) fn lose(&self) {
        self.lock().lost = true;
    }

    pub(super) fn take_lost(&self) -> bool {
        std::mem::take(&mut self.lock().lost)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().wanted.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Objects that wait; more are found by a review.
pub(super) const BOUND: usize = 65_536;
