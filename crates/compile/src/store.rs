//! The inputs, and who refers to whom.
//!
//! Holds what is kept of each object, by namespace, with indexes for the references that cross namespaces. Lookups
//! see only namespaces that the mesh configuration discovers; what lies elsewhere is kept, but not there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ambit_kube::{Kind, Located, MeshConfig, Object, ObjectKey, Redirection};
use ambit_translate::MeshInfo;
use ambit_types::{Locality, NamespacedName};

use crate::Settings;
use crate::input::{
    Labels, Mesh, MeshFault, Namespace, Pod, Service, ServiceEntry, Slice, Visibility,
    WorkloadEntry,
};
use crate::policy::{Kept, Peer, PeerLevels, Policy, sent_name};

mod claims;
mod lookup;
mod objects;
mod table;

pub(crate) use lookup::HostOwner;
pub(crate) use objects::Objects;
pub(crate) use table::{ACCOUNT, Indexed, SERVICE, Table};

/// All inputs.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) settings: Settings,
    pub(crate) mesh: Mesh,
    pub(crate) mesh_configs: BTreeMap<ObjectKey, Located<Arc<MeshConfig>>>,
    /// What the chosen mesh configuration has that can't be used; `mesh` is the last good one then.
    pub(crate) mesh_fault: Option<MeshFault>,
    pub(crate) spaces: BTreeMap<Arc<str>, Space>,
    pub(crate) nodes: HashMap<Arc<str>, Locality>,
    pub(crate) pods_on_node: HashMap<Arc<str>, BTreeSet<NamespacedName>>,
    /// Slices that point at a pod, as `namespace/slice`.
    pub(crate) slices_of_pod: HashMap<NamespacedName, BTreeSet<NamespacedName>>,
    /// Services and ServiceEntries that claim a host name.
    pub(crate) hosts: HashMap<Arc<str>, BTreeSet<ObjectKey>>,
    /// Objects as they were written.
    pub(crate) objects: Objects,
    /// Pods of Gateways, by their label: names in the Gateway's namespace.
    pub(crate) instances: HashMap<NamespacedName, BTreeSet<Arc<str>>>,
    /// Gateways that are for service accounts: by namespace and account.
    pub(crate) accounts: HashMap<Arc<str>, Accounts>,
    /// The mesh as translations see it.
    pub(crate) mesh_info: MeshInfo,
    /// What the nodes' agents say, with the uid of the pod that they mean; may come before the pod.
    pub(crate) redirections: HashMap<NamespacedName, (Arc<str>, Redirection)>,
}

/// Names of Gateways by the service account that they are for.
pub(crate) type Accounts = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

/// The objects of one namespace, by name.
#[derive(Debug, Default)]
pub(crate) struct Space {
    pub(crate) namespace: Option<Located<Namespace>>,
    pub(crate) pods: Table<Pod>,
    pub(crate) services: Table<Service>,
    pub(crate) slices: Table<Slice>,
    pub(crate) entries: Table<ServiceEntry>,
    pub(crate) workloads: Table<WorkloadEntry>,
    pub(crate) policies: Table<PolicyEntry>,
    pub(crate) peers: Table<Kept<Peer>>,
    /// How many objects of other kinds there are.
    pub(crate) others: usize,
}

/// An AuthorizationPolicy as it is in force, and the generation that was read last.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PolicyEntry {
    pub(crate) kept: Kept<Policy>,
    pub(crate) generation: Option<i64>,
}

impl Space {
    pub(crate) fn is_empty(&self) -> bool {
        let Self {
            namespace,
            pods,
            services,
            slices,
            entries,
            workloads,
            policies,
            peers,
            others,
        } = self;
        namespace.is_none()
            && pods.is_empty()
            && services.is_empty()
            && slices.is_empty()
            && entries.is_empty()
            && workloads.is_empty()
            && policies.is_empty()
            && peers.is_empty()
            && *others == 0
    }

    /// How many objects were compared with labels or selectors until now.
    pub(crate) fn comparisons(&self) -> u64 {
        let Self {
            namespace: _,
            pods,
            services,
            slices,
            entries,
            workloads,
            policies,
            peers,
            others: _,
        } = self;
        pods.comparisons()
            + services.comparisons()
            + slices.comparisons()
            + entries.comparisons()
            + workloads.comparisons()
            + policies.comparisons()
            + peers.comparisons()
    }

    /// Every namespaced object that gives something.
    pub(crate) fn keys(&self, namespace: &Arc<str>) -> Vec<ObjectKey> {
        fn add<T>(keys: &mut Vec<ObjectKey>, kind: Kind, namespace: &Arc<str>, table: &Table<T>) {
            let names = table.keys();
            keys.extend(
                names.map(|name| ObjectKey::new(kind, Arc::clone(namespace), Arc::clone(name))),
            );
        }
        let mut keys = Vec::new();
        add(&mut keys, Kind::Pod, namespace, &self.pods);
        add(&mut keys, Kind::Service, namespace, &self.services);
        add(&mut keys, Kind::EndpointSlice, namespace, &self.slices);
        add(&mut keys, Kind::ServiceEntry, namespace, &self.entries);
        add(&mut keys, Kind::WorkloadEntry, namespace, &self.workloads);
        add(
            &mut keys,
            Kind::AuthorizationPolicy,
            namespace,
            &self.policies,
        );
        add(&mut keys, Kind::PeerAuthentication, namespace, &self.peers);
        keys
    }
}

impl Store {
    pub(crate) fn new(settings: Settings) -> Self {
        let mut store = Self {
            mesh: Mesh::default_of(&settings),
            settings,
            mesh_configs: BTreeMap::new(),
            mesh_fault: None,
            spaces: BTreeMap::new(),
            nodes: HashMap::new(),
            pods_on_node: HashMap::new(),
            slices_of_pod: HashMap::new(),
            hosts: HashMap::new(),
            objects: Objects::default(),
            instances: HashMap::new(),
            accounts: HashMap::new(),
            mesh_info: MeshInfo::default(),
            redirections: HashMap::new(),
        };
        store.describe_mesh();
        store
    }

    /// Makes what translations see of the mesh anew; whether it differs.
    pub(crate) fn describe_mesh(&mut self) -> bool {
        let chosen = self.chosen_mesh_config();
        let chosen = chosen.and_then(|key| self.mesh_configs.get(key));
        let config = chosen.map(|config| &config.object.spec);
        let aliases = config.map(|config| config.trust_domain_aliases.as_slice());
        let info = MeshInfo {
            trust_domain: Arc::clone(&self.mesh.trust_domain),
            trust_domain_aliases: aliases
                .unwrap_or_default()
                .iter()
                .map(|alias| alias.as_str().into())
                .collect(),
            root_namespace: Arc::clone(&self.mesh.root_namespace),
            cluster_domain: Arc::clone(&self.settings.cluster_domain),
            config: Arc::new(config.cloned().unwrap_or_default()),
        };
        let differs = info != self.mesh_info;
        self.mesh_info = info;
        differs
    }

    /// An object as it was written; not those of namespaces that aren't discovered.
    pub(crate) fn raw(&self, key: &ObjectKey) -> Option<&Located<Object>> {
        let namespace = match key.kind {
            Kind::Namespace => &key.name,
            _ => &key.namespace,
        };
        if !namespace.is_empty() {
            self.space(namespace)?;
        }
        self.objects.get(key)
    }

    /// The labels of a namespace; none if it isn't known.
    pub(crate) fn namespace_labels(&self, namespace: &str) -> Labels {
        let known = self.spaces.get(namespace);
        let known = known.and_then(|space| space.namespace.as_ref());
        known.map_or_else(Labels::default, |known| known.object.labels.clone())
    }

    /// The mesh configuration that holds: the system namespace's `istio`, else the first.
    pub(crate) fn chosen_mesh_config(&self) -> Option<&ObjectKey> {
        let system = &*self.settings.system_namespace;
        let standard = |key: &&ObjectKey| *key.namespace == *system && *key.name == *"istio";
        let mut keys = self.mesh_configs.keys();
        keys.clone().find(standard).or_else(|| keys.next())
    }

    /// The host name of a Service.
    pub(crate) fn hostname(&self, namespace: &str, name: &str) -> Arc<str> {
        format!("{name}.{namespace}.svc.{}", self.settings.cluster_domain).into()
    }

    /// A namespace, if the mesh configuration discovers it.
    pub(crate) fn space(&self, namespace: &str) -> Option<&Space> {
        let space = self.spaces.get(namespace)?;
        let none = Labels::default();
        let labels = space
            .namespace
            .as_ref()
            .map_or(&none, |known| &known.object.labels);
        self.mesh.discovers(labels).then_some(space)
    }

    /// A pod of any namespace, discovered or not: a fact about the cluster, not about the mesh.
    pub(crate) fn known_pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        let pods = &self.spaces.get(namespace)?.pods;
        pods.get(name).map(|pod| &pod.object)
    }

    /// All namespaces that are discovered.
    pub(crate) fn discovered(&self) -> impl Iterator<Item = (&Arc<str>, &Space)> {
        let names = self.spaces.keys();
        names.filter_map(|name| Some((name, self.space(name)?)))
    }

    /// The cluster's network: a label of the system namespace, and nothing else.
    pub(crate) fn network(&self) -> &str {
        self.spaces
            .get(&self.settings.system_namespace)
            .and_then(|space| space.namespace.as_ref())
            .and_then(|known| known.object.labels.get(NETWORK))
            .unwrap_or_default()
    }

    /// What a node agent says of the pod that has this uid.
    pub(crate) fn redirection(&self, pod: &NamespacedName, uid: &str) -> Redirection {
        match self.redirections.get(pod) {
            Some((of, state)) if **of == *uid => *state,
            Some(_) | None => Redirection::None,
        }
    }
}

/// The network of everything in the cluster.
pub(crate) const NETWORK: &str = "topology.istio.io/network";
