//! The endpoints of one service: indexed for choosing, keyed for changing.

use std::sync::Arc;

use ambit_types::WorkloadUid;
use rpds::VectorSync;

use crate::model::Workload;
use crate::view::Map;

/// Endpoints of a service, known or not yet known. A change costs the depth
/// of a tree, a random endpoint one look-up.
#[derive(Clone, Default)]
pub(crate) struct EndpointSet {
    list: List,
    places: Map<WorkloadUid, usize>,
    /// No endpoint has more than this; it may be higher than any has.
    max_capacity: u32,
}

/// [`VectorSync`] with a `Default`.
#[derive(Clone)]
struct List(VectorSync<Arc<Workload>>);

impl Default for List {
    fn default() -> Self {
        Self(VectorSync::new_sync())
    }
}

impl EndpointSet {
    pub(crate) fn len(&self) -> usize {
        self.list.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.0.is_empty()
    }

    pub(crate) fn max_capacity(&self) -> u32 {
        self.max_capacity
    }

    pub(crate) fn at(&self, place: usize) -> Option<&Arc<Workload>> {
        self.list.0.get(place)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.list.0.iter()
    }

    pub(crate) fn insert(&mut self, workload: Arc<Workload>) {
        self.max_capacity = self.max_capacity.max(workload.capacity);
        match self.places.get(&workload.uid) {
            Some(place) => {
                self.list.0.set_mut(*place, workload);
            }
            None => {
                self.places.insert_mut(workload.uid.clone(), self.len());
                self.list.0.push_back_mut(workload);
            }
        }
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        let Some(place) = self.places.get(uid).copied() else {
            return;
        };
        self.places.remove_mut(uid);
        // The last one takes the free place.
        let last = self.list.0.last().cloned();
        self.list.0.drop_last_mut();
        if let Some(last) = last
            && place < self.len()
        {
            self.places.insert_mut(last.uid.clone(), place);
            self.list.0.set_mut(place, last);
        }
        if self.is_empty() {
            self.max_capacity = 0;
        }
    }
}
