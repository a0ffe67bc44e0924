//! What a translation asks about the rest of the mesh.
//!
//! The compiler answers from its store and notes each question: the answer is
//! then a dependency of what was translated. So a translation asks for nothing
//! that it doesn't need, and knows other objects through this trait alone.

use std::sync::Arc;

use ambit_kube::{Located, ObjectKey};

/// The rest of the mesh, as one translation sees it.
pub trait World {
    /// A Service by its object's name.
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<ServiceInfo>>;
    /// The services of a ServiceEntry, one a host, in the order of its hosts.
    fn service_entry(&self, namespace: &str, name: &str) -> Vec<Arc<ServiceInfo>>;
    /// A host name as clients of a namespace see it; exact names only.
    fn host(&self, hostname: &str, client_namespace: &str) -> Option<Arc<ServiceInfo>>;
    /// All hosts that a `*.` pattern covers, as clients of a namespace see them.
    fn hosts_under(&self, suffix: &str, client_namespace: &str) -> Vec<Arc<ServiceInfo>>;
    /// Whether a namespace exists.
    fn namespace_exists(&self, namespace: &str) -> bool;
    /// Whether a ReferenceGrant in `to`'s namespace lets `from` refer to it.
    fn granted(&self, from: &Referrer<'_>, to: &Referent<'_>) -> bool;
    /// A value of a ConfigMap.
    fn config_map(&self, namespace: &str, name: &str, key: &str) -> Option<Arc<str>>;
    /// A value of a Secret.
    fn secret(&self, namespace: &str, name: &str, key: &str) -> Option<Arc<[u8]>>;
    /// Other objects of a kind in a namespace, in the order of their names; for
    /// merging and conflicts (DestinationRules of a host, delegates, ...).
    fn objects(&self, kind: ambit_kube::Kind, namespace: &str) -> Vec<Located<ambit_kube::Object>>;
    /// What routes of a kind and namespace are attached to of a Service or ServiceEntry: one entry for each port or
    /// name of a port that they say, in no order. Asked in place of [`objects`](Self::objects), which would make every
    /// such route a dependency of every other one.
    fn claims(&self, kind: ambit_kube::Kind, namespace: &str, service: &ObjectKey) -> Vec<Claim>;
    /// One object.
    fn object(&self, key: &ObjectKey) -> Option<Located<ambit_kube::Object>>;
    /// Namespaces that have objects of a kind; for what holds across namespaces.
    fn namespaces_with(&self, kind: ambit_kube::Kind) -> Vec<Arc<str>>;
    /// The waypoint of a Gateway object, if that Gateway is one.
    fn waypoint(&self, namespace: &str, name: &str) -> Option<Arc<WaypointInfo>>;
    /// The pods and WorkloadEntries that labels select in a namespace.
    fn selected(
        &self,
        namespace: &str,
        labels: &std::collections::BTreeMap<String, String>,
    ) -> Vec<SelectedWorkload>;
    /// The mesh as a whole.
    fn mesh(&self) -> &MeshInfo;
}

/// A part of a Service or ServiceEntry that routes of one kind and namespace name as their parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The first of these routes, by name.
    pub route: Arc<str>,
    /// `parentRefs[].port`; all ports if neither this nor a section is said.
    pub port: Option<i64>,
    /// `parentRefs[].sectionName`: a port's name.
    pub section: Option<Arc<str>>,
}

/// A service under one host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Service or ServiceEntry.
    pub object: ObjectKey,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its object's name.
    pub name: Arc<str>,
    /// `reviews.shop.svc.cluster.local`, or a host of the ServiceEntry.
    pub hostname: Arc<str>,
    /// Its ports, as declared.
    pub ports: Vec<PortInfo>,
    /// How clients reach it.
    pub kind: ServiceKind,
    /// `metadata.annotations`, those with meaning to the mesh only.
    pub annotations: Vec<(Arc<str>, Arc<str>)>,
    /// The waypoints that serve it: several while a canary takes a share.
    pub waypoints: Vec<(Arc<str>, Arc<str>)>,
}

impl ServiceInfo {
    /// `namespace/hostname`: its name in frontends, backends and endpoints.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.hostname)
    }
}

/// How clients reach a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceKind {
    /// By a virtual address.
    ClusterIp,
    /// Without one: its pods' addresses.
    Headless,
    /// A DNS alias.
    ExternalName,
    /// A ServiceEntry with static endpoints.
    Entry,
    /// A ServiceEntry whose endpoints are looked up.
    EntryDns,
    /// A ServiceEntry that is forwarded to as dialled.
    EntryNone,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInfo {
    /// The service port.
    pub number: u16,
    /// May be empty.
    pub name: Arc<str>,
    /// `kubernetes.io/h2c`, `http`, ... as declared.
    pub app_protocol: Option<Arc<str>>,
    /// Derived as `waypoint-contract` 1.8 says.
    pub protocol: ambit_proto::waypoint::Protocol,
}

/// Who refers.
#[derive(Debug, Clone, Copy)]
pub struct Referrer<'a> {
    /// API group.
    pub group: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Namespace.
    pub namespace: &'a str,
}

/// What is referred to.
#[derive(Debug, Clone, Copy)]
pub struct Referent<'a> {
    /// API group; empty for core.
    pub group: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
}

/// A waypoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaypointInfo {
    /// Of the Gateway.
    pub namespace: Arc<str>,
    /// Of the Gateway.
    pub name: Arc<str>,
    /// GatewayClass.
    pub class: Arc<str>,
}

/// A pod or WorkloadEntry that a selector picks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectedWorkload {
    /// The workload's uid on the wire.
    pub uid: Arc<str>,
    /// The one waypoint that all traffic to it passes (its own address and each
    /// service that it is a member of), if that is so.
    pub behind: Option<(Arc<str>, Arc<str>)>,
}

/// The mesh as a whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MeshInfo {
    /// Of this mesh.
    pub trust_domain: Arc<str>,
    /// Also this mesh's.
    pub trust_domain_aliases: Vec<Arc<str>>,
    /// Whose policies hold everywhere.
    pub root_namespace: Arc<str>,
    /// Suffix of Kubernetes host names.
    pub cluster_domain: Arc<str>,
    /// The mesh configuration document, as far as it can be read.
    pub config: Arc<ambit_kube::MeshConfigSpec>,
}
