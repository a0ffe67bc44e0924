//! The endpoints of one service: indexed for choosing, keyed for changing.

use std::sync::Arc;

use ambit_types::WorkloadUid;
use rpds::VectorSync;

use crate::model::Workload;
use crate::view::Map;

/// Endpoints of a service, known or not yet known. A change costs the depth
/// of a tree, a random endpoint one look-up.
#[derive(Clone)]
pub(crate) struct EndpointSet {
    list: VectorSync<Arc<Workload>>,
    /// Where each one is; only kept where looking through the list would cost
    /// more, since most services have few endpoints and there are many of them.
    places: Option<Map<WorkloadUid, usize>>,
    /// No endpoint has more than this; it may be higher than any has.
    max_capacity: u32,
}

impl Default for EndpointSet {
    fn default() -> Self {
        Self {
            list: VectorSync::new_sync(),
            places: None,
            max_capacity: 0,
        }
    }
}

impl EndpointSet {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn max_capacity(&self) -> u32 {
        self.max_capacity
    }

    pub(crate) fn at(&self, place: usize) -> Option<&Arc<Workload>> {
        self.list.get(place)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.list.iter()
    }

    pub(crate) fn insert(&mut self, workload: Arc<Workload>) {
        self.max_capacity = self.max_capacity.max(workload.capacity);
        if let Some(place) = self.place(workload.uid.as_str()) {
            self.list.set_mut(place, workload);
            return;
        }
        if let Some(places) = &mut self.places {
            places.insert_mut(workload.uid.clone(), self.list.len());
        }
        self.list.push_back_mut(workload);
        if self.places.is_none() && self.len() > SEARCHED {
            let uids = self.list.iter().map(|one| one.uid.clone());
            self.places = Some(uids.zip(0..).collect());
        }
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        let Some(place) = self.place(uid) else {
            return;
        };
        // The last one takes the free place.
        let last = self.list.last().cloned();
        self.list.drop_last_mut();
        if let Some(places) = &mut self.places {
            places.remove_mut(uid);
        }
        if let Some(last) = last
            && place < self.len()
        {
            if let Some(places) = &mut self.places {
                places.insert_mut(last.uid.clone(), place);
            }
            self.list.set_mut(place, last);
        }
        if self.is_empty() {
            *self = Self::default();
        }
    }

    fn place(&self, uid: &str) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(uid).copied(),
            None => self.list.iter().position(|one| one.uid.as_str() == uid),
        }
    }
}

/// Up to this many endpoints are looked through.
const SEARCHED: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::static_config::StaticConfig;

    fn workloads() -> Vec<Arc<Workload>> {
        let entries: Vec<_> = (0..60)
            .map(|n| format!("{{uid: w{n}, namespace: a, workloadIps: [], services: {{}}}}"))
            .collect();
        let yaml = format!("workloads: [{}]", entries.join(", "));
        StaticConfig::parse(&yaml).unwrap().workloads().to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Across the size at which places are kept, the set has what was
        /// inserted and not removed, each once, and finds it.
        #[test]
        fn a_set_is_a_set(ops in prop::collection::vec((0..60_usize, any::<bool>()), 0..300)) {
            let workloads = workloads();
            let mut set = EndpointSet::default();
            let mut want = std::collections::BTreeSet::new();
            for (n, insert) in ops {
                let one = &workloads[n];
                if insert {
                    set.insert(Arc::clone(one));
                    want.insert(one.uid.clone());
                } else {
                    set.remove(one.uid.as_str());
                    want.remove(&one.uid);
                }
            }
            prop_assert_eq!(set.len(), want.len());
            let got: std::collections::BTreeSet<_> = set.iter().map(|one| one.uid.clone()).collect();
            prop_assert_eq!(&got, &want);
            for uid in &want {
                let place = set.place(uid.as_str()).unwrap();
                prop_assert_eq!(&set.at(place).unwrap().uid, uid);
            }
        }
    }
}
