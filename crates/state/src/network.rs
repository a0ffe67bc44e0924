//! What the addresses of one network stand for: workloads, virtual addresses
//! and ranges of them.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rpds::RedBlackTreeMapSync;
use smallvec::SmallVec;

use crate::model::{Protocol, Service, Workload};
use crate::view::Map;

/// Things that share a key; nearly always one.
pub(crate) type Few<T> = SmallVec<[Arc<T>; 1]>;

/// The addresses of one network.
#[derive(Clone, Default)]
pub(crate) struct NetworkIndex {
    workloads: Map<IpAddr, Few<Workload>>,
    vips: Map<IpAddr, Few<Service>>,
    ranges: Map<IpNet, Few<Service>>,
    /// How many ranges of each prefix length there are, so that a look-up
    /// probes the lengths that occur, the longest first, instead of all ranges.
    lengths_v4: Lengths,
    lengths_v6: Lengths,
}

#[derive(Clone)]
struct Lengths(RedBlackTreeMapSync<u8, usize>);

impl Default for Lengths {
    fn default() -> Self {
        Self(RedBlackTreeMapSync::new_sync())
    }
}

impl NetworkIndex {
    pub(crate) fn is_empty(&self) -> bool {
        self.workloads.is_empty() && self.vips.is_empty() && self.ranges.is_empty()
    }

    /// The workload that an address stands for (`ztunnel-contract` 3.1).
    pub(crate) fn workload(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads.get(&ip).and_then(|few| few.first())
    }

    /// The service that a virtual address stands for: an exact one first,
    /// then the longest range.
    pub(crate) fn service(&self, ip: IpAddr, client: Option<&str>) -> Option<&Arc<Service>> {
        let exact = self.vips.get(&ip).and_then(|few| pick(few, client));
        exact.or_else(|| self.in_range(ip, client))
    }

    /// In the client's namespace, then the longest prefix, then canonical.
    fn in_range(&self, ip: IpAddr, client: Option<&str>) -> Option<&Arc<Service>> {
        let mut longest = None;
        for length in self.lengths(ip).0.keys().rev() {
            let Ok(range) = IpNet::new(ip, *length) else {
                continue;
            };
            let Some(found) = self
                .ranges
                .get(&range.trunc())
                .and_then(|few| pick(few, client))
            else {
                continue;
            };
            if client.is_none_or(|ns| *ns == *found.key.namespace) {
                return Some(found);
            }
            longest = longest.or(Some(found));
        }
        longest
    }

    fn lengths(&self, ip: IpAddr) -> &Lengths {
        match ip {
            IpAddr::V4(_) => &self.lengths_v4,
            IpAddr::V6(_) => &self.lengths_v6,
        }
    }

    fn lengths_mut(&mut self, range: IpNet) -> &mut Lengths {
        match range {
            IpNet::V4(_) => &mut self.lengths_v4,
            IpNet::V6(_) => &mut self.lengths_v6,
        }
    }

    /// Adds or replaces a workload under one of its addresses.
    pub(crate) fn insert_workload(&mut self, ip: IpAddr, workload: &Arc<Workload>) {
        let mut few = self.workloads.get(&ip).cloned().unwrap_or_default();
        insert_workload(&mut few, workload);
        self.workloads.insert_mut(ip, few);
    }

    /// Removes a workload, by uid: another one on the same address stays.
    pub(crate) fn remove_workload(&mut self, ip: IpAddr, uid: &str) {
        change(&mut self.workloads, ip, |few| {
            few.retain(|one| one.uid.as_str() != uid);
        });
    }

    pub(crate) fn insert_vip(&mut self, ip: IpAddr, service: &Arc<Service>) {
        let mut few = self.vips.get(&ip).cloned().unwrap_or_default();
        insert_service(&mut few, service);
        self.vips.insert_mut(ip, few);
    }

    pub(crate) fn remove_vip(&mut self, ip: IpAddr, service: &Service) {
        change(&mut self.vips, ip, |few| {
            few.retain(|one| one.key != service.key);
        });
    }

    pub(crate) fn insert_range(&mut self, range: IpNet, service: &Arc<Service>) {
        let known = self.ranges.get(&range);
        if known.is_none() {
            let lengths = &mut self.lengths_mut(range).0;
            let count = lengths.get(&range.prefix_len()).copied().unwrap_or(0);
            lengths.insert_mut(range.prefix_len(), count + 1);
        }
        let mut few = self.ranges.get(&range).cloned().unwrap_or_default();
        insert_service(&mut few, service);
        self.ranges.insert_mut(range, few);
    }

    pub(crate) fn remove_range(&mut self, range: IpNet, service: &Service) {
        change(&mut self.ranges, range, |few| {
            few.retain(|one| one.key != service.key);
        });
        if self.ranges.contains_key(&range) {
            return;
        }
        let lengths = &mut self.lengths_mut(range).0;
        match lengths.get(&range.prefix_len()).copied() {
            Some(count) if count > 1 => lengths.insert_mut(range.prefix_len(), count - 1),
            _ => {
                lengths.remove_mut(&range.prefix_len());
            }
        }
    }
}

/// Edits the list under a key, and drops the key with the last entry.
pub(crate) fn change<K, T>(map: &mut Map<K, Few<T>>, key: K, edit: impl FnOnce(&mut Few<T>))
where
    K: std::hash::Hash + Eq + Clone,
{
    let Some(few) = map.get(&key) else {
        return;
    };
    let mut few = few.clone();
    edit(&mut few);
    if few.is_empty() {
        map.remove_mut(&key);
    } else {
        map.insert_mut(key, few);
    }
}

/// Pods first, then HBONE, then the newest; an update keeps its place.
pub(crate) fn insert_workload(few: &mut Few<Workload>, workload: &Arc<Workload>) {
    match few.iter_mut().find(|one| one.uid == workload.uid) {
        Some(known) => *known = Arc::clone(workload),
        None => few.insert(0, Arc::clone(workload)),
    }
    few.sort_by_key(|one| (!one.is_pod(), one.protocol != Protocol::Hbone));
}

/// Canonical first, then by namespace: the order of arrival must not matter.
pub(crate) fn insert_service(few: &mut Few<Service>, service: &Arc<Service>) {
    match few.iter_mut().find(|one| one.key == service.key) {
        Some(known) => *known = Arc::clone(service),
        None => few.push(Arc::clone(service)),
    }
    few.sort_by(|a, b| {
        let order = |one: &Service| !one.canonical;
        order(a).cmp(&order(b)).then_with(|| a.key.cmp(&b.key))
    });
}

/// Of services with one address or hostname, the one a client means: visible
/// to it, then its own namespace's, then the canonical one (`ztunnel-contract` 3.1).
pub(crate) fn pick<'a>(few: &'a Few<Service>, client: Option<&str>) -> Option<&'a Arc<Service>> {
    let own = few
        .iter()
        .find(|one| client.is_some_and(|ns| *ns == *one.key.namespace));
    own.or_else(|| few.iter().find(|one| one.visible_to(client)))
}
