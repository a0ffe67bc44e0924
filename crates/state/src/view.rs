//! The view itself: persistent indices that a change copies a path of, so
//! that a snapshot costs what changed and a reader never waits.

use std::net::IpAddr;
use std::sync::Arc;

use ambit_types::{NamespacedHostname, NamespacedName, WorkloadUid};
use rapidhash::fast::RandomState;
use rpds::HashTrieMapSync;

use crate::config::StateConfig;
use crate::endpoints::EndpointSet;
use crate::model::{NetworkMode, Service, Workload};
use crate::network::{Few, NetworkIndex, change, insert_service, insert_workload};
use crate::policies::PolicyIndex;
use crate::static_config::StaticConfig;

/// A persistent hash map, seeded at random: its keys come from outside.
pub(crate) type Map<K, V> = HashTrieMapSync<K, V, RandomState>;

/// How often each half of the view has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Versions {
    /// Workloads and services.
    pub addresses: u64,
    /// Authorization policies.
    pub policies: u64,
}

/// Everything that a node knows, at one moment.
#[derive(Clone)]
pub struct View {
    pub(crate) config: Arc<StateConfig>,
    pub(crate) versions: Versions,
    pub(crate) workloads: Map<WorkloadUid, Arc<Workload>>,
    /// Workloads of this node, by namespace and name.
    pub(crate) locals: Map<NamespacedName, Few<Workload>>,
    pub(crate) workload_hosts: Map<NamespacedHostname, Few<Workload>>,
    pub(crate) services: Map<NamespacedHostname, Arc<Service>>,
    pub(crate) service_hosts: Map<Arc<str>, Few<Service>>,
    pub(crate) networks: Map<Arc<str>, NetworkIndex>,
    /// By service, also of services that aren't known (yet): those are staged.
    pub(crate) endpoints: Map<NamespacedHostname, EndpointSet>,
    pub(crate) policies: PolicyIndex,
    pub(crate) static_config: Option<Arc<StaticConfig>>,
}

impl View {
    pub(crate) fn new(config: Arc<StateConfig>) -> Self {
        Self {
            config,
            versions: Versions::default(),
            workloads: Map::default(),
            locals: Map::default(),
            workload_hosts: Map::default(),
            services: Map::default(),
            service_hosts: Map::default(),
            networks: Map::default(),
            endpoints: Map::default(),
            policies: PolicyIndex::default(),
            static_config: None,
        }
    }

    /// How often each half has changed up to this view.
    pub fn versions(&self) -> Versions {
        self.versions
    }

    /// The settings that it was built with.
    pub fn config(&self) -> &StateConfig {
        &self.config
    }

    pub(crate) fn insert_workload(&mut self, workload: Arc<Workload>) {
        if let Some(old) = self.workloads.get(&workload.uid).cloned() {
            self.unlink_workload(&old, Some(&workload));
        }
        if workload.network_mode != NetworkMode::HostNetwork {
            for ip in &workload.ips {
                self.edit_network(&workload.network, |index| {
                    index.insert_workload(*ip, &workload);
                });
            }
        }
        if let Some(key) = host_key(&workload) {
            let mut few = self.workload_hosts.get(&key).cloned().unwrap_or_default();
            insert_workload(&mut few, &workload);
            self.workload_hosts.insert_mut(key, few);
        }
        if self.is_local(&workload) {
            let key = local_key(&workload);
            let mut few = self.locals.get(&key).cloned().unwrap_or_default();
            insert_workload(&mut few, &workload);
            self.locals.insert_mut(key, few);
        }
        for (service, _) in &workload.services {
            let workload = Arc::clone(&workload);
            match self.endpoints.get_mut(service) {
                Some(set) => set.insert(workload),
                None => {
                    let mut set = EndpointSet::default();
                    set.insert(workload);
                    self.endpoints.insert_mut(service.clone(), set);
                }
            }
        }
        self.workloads.insert_mut(workload.uid.clone(), workload);
    }

    pub(crate) fn remove_workload(&mut self, uid: &str) -> bool {
        let Some(old) = self.workloads.get(uid).cloned() else {
            return false;
        };
        self.unlink_workload(&old, None);
        self.workloads.remove_mut(uid)
    }

    /// Takes a workload out of the indices, except where its new form stands
    /// again: there it is replaced in its place.
    fn unlink_workload(&mut self, old: &Workload, new: Option<&Workload>) {
        let uid = old.uid.as_str();
        if old.network_mode != NetworkMode::HostNetwork {
            let stays = |ip: &IpAddr| {
                new.is_some_and(|new| {
                    new.network == old.network
                        && new.network_mode != NetworkMode::HostNetwork
                        && new.ips.contains(ip)
                })
            };
            for ip in old.ips.iter().filter(|ip| !stays(ip)) {
                self.edit_network(&old.network, |index| index.remove_workload(*ip, uid));
            }
        }
        if let Some(key) = host_key(old)
            && new.and_then(host_key).as_ref() != Some(&key)
        {
            change(&mut self.workload_hosts, key, |few| {
                few.retain(|one| one.uid != old.uid);
            });
        }
        let key = local_key(old);
        if !new.is_some_and(|new| self.is_local(new) && local_key(new) == key) {
            change(&mut self.locals, key, |few| {
                few.retain(|one| one.uid != old.uid);
            });
        }
        for (service, _) in &old.services {
            if new.is_some_and(|new| new.ports_in(service).is_some()) {
                continue;
            }
            let Some(set) = self.endpoints.get_mut(service) else {
                continue;
            };
            set.remove(uid);
            if set.is_empty() {
                self.endpoints.remove_mut(service);
            }
        }
    }

    pub(crate) fn insert_service(&mut self, service: Arc<Service>) {
        if let Some(old) = self.services.get(&service.key).cloned() {
            self.unlink_service(&old);
        }
        for vip in &service.vips {
            self.edit_network(&vip.network, |index| index.insert_vip(vip.ip, &service));
        }
        for range in &service.cidr_vips {
            self.edit_network(&range.network, |index| {
                index.insert_range(range.cidr, &service);
            });
        }
        let host = Arc::clone(&service.key.hostname);
        let mut few = self.service_hosts.get(&host).cloned().unwrap_or_default();
        insert_service(&mut few, &service);
        self.service_hosts.insert_mut(host, few);
        self.services.insert_mut(service.key.clone(), service);
    }

    /// The service goes, its endpoints stay for when it comes back.
    pub(crate) fn remove_service(&mut self, key: &NamespacedHostname) -> bool {
        let Some(old) = self.services.get(key).cloned() else {
            return false;
        };
        self.unlink_service(&old);
        self.services.remove_mut(key)
    }

    fn unlink_service(&mut self, old: &Service) {
        for vip in &old.vips {
            self.edit_network(&vip.network, |index| index.remove_vip(vip.ip, old));
        }
        for range in &old.cidr_vips {
            self.edit_network(&range.network, |index| index.remove_range(range.cidr, old));
        }
        let host = Arc::clone(&old.key.hostname);
        change(&mut self.service_hosts, host, |few| {
            few.retain(|one| one.key != old.key);
        });
    }

    fn edit_network(&mut self, network: &Arc<str>, edit: impl FnOnce(&mut NetworkIndex)) {
        if let Some(index) = self.networks.get_mut(network) {
            edit(index);
            if index.is_empty() {
                self.networks.remove_mut(network);
            }
            return;
        }
        let mut index = NetworkIndex::default();
        edit(&mut index);
        if !index.is_empty() {
            self.networks.insert_mut(Arc::clone(network), index);
        }
    }

    pub(crate) fn is_local(&self, workload: &Workload) -> bool {
        let node = self.config.local_node.as_ref();
        node.is_none_or(|node| *node == workload.node)
    }
}

fn local_key(workload: &Workload) -> NamespacedName {
    NamespacedName::new(Arc::clone(&workload.namespace), Arc::clone(&workload.name))
}

fn host_key(workload: &Workload) -> Option<NamespacedHostname> {
    let (namespace, hostname) = (&workload.namespace, &workload.hostname);
    (!hostname.is_empty())
        .then(|| NamespacedHostname::new(Arc::clone(namespace), Arc::clone(hostname)))
}
