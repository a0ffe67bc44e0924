//! Which pods of this node must be served, by the objects that are known.
//!
//! Pure: changes in, wishes out. Whether and how far a wish came true is for
//! the board to know.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ambit_compile::enrolment::{Enrolment, PodFacts, REDIRECTION, decide};
use ambit_kube::core::{Namespace, Pod};
use ambit_kube::{Change, Kind, Object};
use ambit_redirect::zds::WorkloadInfo;
use ambit_redirect::{Capture, Inbound};

/// A pod by its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PodName {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What tells one incarnation of a pod from the next: its uid, or its name
/// where a manifest has none.
pub(crate) type PodId = Arc<str>;

/// What a worker must know of its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodSpec {
    pub(crate) pod: PodName,
    /// `metadata.uid`, empty if the manifest has none.
    pub(crate) uid: Arc<str>,
    /// The uid in the paths of its cgroups: another one for static pods.
    pub(crate) cgroup_uid: Arc<str>,
    pub(crate) info: WorkloadInfo,
    pub(crate) ips: Vec<IpAddr>,
    /// Where its namespace can be opened, if anybody has said so.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) capture: Capture,
}

/// What must become of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// It's enrolled.
    Serve(PodSpec),
    /// It isn't, but it lives: whatever was enrolled before leaves in order.
    Leave(PodSpec),
}

/// What the API server says of a pod's annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) id: PodId,
    pub(crate) pod: PodName,
    /// `metadata.resourceVersion`.
    pub(crate) version: Arc<str>,
    /// The value of `ambient.istio.io/redirection`.
    pub(crate) redirection: Option<String>,
}

/// What a CNI plugin may be told of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Not known here yet, or another node's.
    Unknown,
    /// Known, and not enrolled.
    NotEnrolled,
    /// Must be served before it may start.
    Enrolled,
}

/// The pods of one node, and the labels of namespaces.
#[derive(Debug)]
pub(crate) struct Inventory {
    node: String,
    ipv6: bool,
    /// Namespaces of which no pod is enrolled, whatever its labels say.
    excluded: BTreeSet<Arc<str>>,
    pods: BTreeMap<PodName, Arc<Pod>>,
    namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    sandboxes: BTreeMap<PodName, Sandbox>,
}

/// A namespace that was made for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SandboxPlace {
    pub(crate) netns: PathBuf,
    pub(crate) ips: Vec<IpAddr>,
    /// The runtime's name for this incarnation of it.
    pub(crate) container: Option<Box<str>>,
}

/// What the CNI plugin said of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sandbox {
    Here(SandboxPlace),
    /// Deleted; the object of the pod may stay a while.
    Gone(PodId),
}

impl Inventory {
    pub(crate) fn new(node: String, ipv6: bool, excluded: &[String]) -> Self {
        Self {
            node,
            ipv6,
            excluded: excluded.iter().map(|name| name.as_str().into()).collect(),
            pods: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
        }
    }

    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Apply(located) => match located.object {
                Object::Pod(pod) => self.apply_pod(pod),
                Object::Namespace(namespace) => {
                    if let Some(name) = namespace.metadata.name.as_deref() {
                        self.namespaces.insert(name.into(), namespace);
                    }
                }
                _ => {}
            },
            Change::Delete(key) => match key.kind {
                Kind::Pod => {
                    let (namespace, name) = (key.namespace, key.name);
                    self.forget(&PodName { namespace, name });
                }
                Kind::Namespace => {
                    self.namespaces.remove(&key.name);
                }
                _ => {}
            },
            Change::Problems(_) | Change::Redirection { .. } | Change::Synced => {}
        }
    }

    fn apply_pod(&mut self, pod: Arc<Pod>) {
        let key = Object::Pod(Arc::clone(&pod)).key();
        let (namespace, name) = (key.namespace, key.name);
        let name = PodName { namespace, name };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if node == Some(&self.node) {
            self.pods.insert(name, pod);
        } else {
            self.forget(&name);
        }
    }

    fn forget(&mut self, pod: &PodName) {
        self.pods.remove(pod);
        self.sandboxes.remove(pod);
    }

    /// A pod's namespace was made; it must not start before it's served.
    pub(crate) fn sandbox_added(&mut self, pod: &PodName, place: SandboxPlace) {
        self.sandboxes.insert(pod.clone(), Sandbox::Here(place));
    }

    /// A pod's namespace is about to go. Runtimes say so more than once, and
    /// late: what they say of another incarnation isn't about this one.
    pub(crate) fn sandbox_removed(&mut self, pod: &PodName, container: Option<&str>) {
        let known = match self.sandboxes.get(pod) {
            Some(Sandbox::Here(place)) => place.container.as_deref(),
            Some(Sandbox::Gone(_)) | None => None,
        };
        if container != known && container.is_some() {
            return;
        }
        if let Some(known) = self.pods.get(pod) {
            let gone = Sandbox::Gone(identify(known, pod));
            self.sandboxes.insert(pod.clone(), gone);
        }
    }

    /// Whether a pod that starts must be held. With a uid, what is known of a
    /// pod of the same name before it doesn't count.
    pub(crate) fn admission(&self, pod: &PodName, uid: Option<&str>) -> (Admission, Option<PodId>) {
        let known = self.pods.get(pod).filter(|known| {
            let own = identify(known, pod);
            uid.is_none_or(|uid| uid == &*own || uid == &*cgroup_uid(known))
        });
        let Some(known) = known else {
            return (Admission::Unknown, None);
        };
        match self.decide(known, pod) {
            Enrolment::Enrolled => (Admission::Enrolled, Some(identify(known, pod))),
            _ => (Admission::NotEnrolled, None),
        }
    }

    /// What must become of each pod. A pod that isn't named is over.
    pub(crate) fn wishes(&self) -> BTreeMap<PodId, Wish> {
        let wish = |(name, pod): (&PodName, &Arc<Pod>)| {
            let id = identify(pod, name);
            if self.sandboxes.get(name) == Some(&Sandbox::Gone(Arc::clone(&id))) {
                return None;
            }
            let spec = || self.spec(name, pod);
            match self.decide(pod, name) {
                Enrolment::Enrolled => Some((id, Wish::Serve(spec()))),
                Enrolment::NotAsked | Enrolment::OptedOut | Enrolment::Sidecar => {
                    Some((id, Wish::Leave(spec())))
                }
                // Its namespace is the node's own, or about to go.
                Enrolment::HostNetwork | Enrolment::Terminal => None,
            }
        };
        self.pods.iter().filter_map(wish).collect()
    }

    /// What its annotation says of each pod that may be written to.
    pub(crate) fn annotated(&self) -> Vec<Observed> {
        let pods = self.pods.iter().filter(|(_, pod)| {
            pod.metadata.deletion_timestamp.is_none() && !is_over(pod) && !has_no_uid(pod)
        });
        let observed = |(name, pod): (&PodName, &Arc<Pod>)| {
            let annotations = pod.metadata.annotations.as_ref();
            Observed {
                id: identify(pod, name),
                pod: name.clone(),
                version: pod
                    .metadata
                    .resource_version
                    .as_deref()
                    .unwrap_or("")
                    .into(),
                redirection: annotations.and_then(|all| all.get(REDIRECTION)).cloned(),
            }
        };
        pods.map(observed).collect()
    }

    fn decide(&self, pod: &Pod, name: &PodName) -> Enrolment {
        if self.excluded.contains(&name.namespace) {
            return Enrolment::NotAsked;
        }
        let namespace = self.namespaces.get(&name.namespace);
        let facts = PodFacts {
            labels: pod.metadata.labels.as_ref(),
            annotations: pod.metadata.annotations.as_ref(),
            host_network: pod.spec.as_ref().and_then(|s| s.host_network) == Some(true),
            terminal: is_over(pod),
        };
        decide(facts, namespace.and_then(|n| n.metadata.labels.as_ref()))
    }

    fn spec(&self, name: &PodName, pod: &Pod) -> PodSpec {
        let annotation = |key: &str| {
            pod.metadata
                .annotations
                .as_ref()?
                .get(key)
                .map(String::as_str)
        };
        let account = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.as_deref());
        let sandbox = match self.sandboxes.get(name) {
            Some(Sandbox::Here(place)) => Some(place),
            Some(Sandbox::Gone(_)) | None => None,
        };
        let bypass = annotation(BYPASS_INBOUND).is_some_and(is_true);
        let interfaces = annotation(REROUTE_INTERFACES)
            .unwrap_or_default()
            .split(',');
        let interfaces = interfaces.map(str::trim).filter(|name| !name.is_empty());
        let mut ips = statuses(pod);
        if let Some(place) = sandbox
            && ips.is_empty()
        {
            ips.extend(&place.ips);
        }
        PodSpec {
            pod: name.clone(),
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            cgroup_uid: cgroup_uid(pod),
            info: WorkloadInfo {
                name: name.name.to_string(),
                namespace: name.namespace.to_string(),
                service_account: account
                    .filter(|a| !a.is_empty())
                    .unwrap_or("default")
                    .to_owned(),
            },
            ips,
            netns: sandbox
                .map(|place| place.netns.clone())
                .or_else(|| annotation(NETNS).map(PathBuf::from)),
            capture: Capture {
                inbound: if bypass {
                    Inbound::Bypass
                } else {
                    Inbound::Capture
                },
                ipv6: self.ipv6,
                dns: false,
                virtual_interfaces: interfaces.map(Arc::from).collect(),
            },
        }
    }
}

fn identify(pod: &Pod, name: &PodName) -> PodId {
    match pod.metadata.uid.as_deref() {
        None | Some("") => name.to_string().into(),
        Some(uid) => uid.into(),
    }
}

/// What kubelet itself calls the pod: its uid, or a static pod's hash.
fn cgroup_uid(pod: &Pod) -> Arc<str> {
    let annotations = pod.metadata.annotations.as_ref();
    let hash = annotations
        .filter(|all| all.contains_key(STATIC_MIRROR))
        .and_then(|all| all.get(STATIC_HASH));
    let uid = hash.or(pod.metadata.uid.as_ref());
    uid.map(String::as_str).unwrap_or_default().into()
}

fn has_no_uid(pod: &Pod) -> bool {
    pod.metadata.uid.as_deref().is_none_or(str::is_empty)
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn statuses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let several = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips: Vec<IpAddr> = several
        .chain(status.pod_ip.as_deref())
        .filter_map(|ip| ip.parse().ok())
        .collect();
    ips.sort();
    ips.dedup();
    ips
}

/// A boolean as Go reads it.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Where the harness writes the path of a pod's namespace.
pub(crate) const NETNS: &str = "ambit.mesh/netns";
/// Kubelet's, on the object that mirrors a static pod.
const STATIC_MIRROR: &str = "kubernetes.io/config.mirror";
/// Kubelet's: by what it knows a static pod itself.
const STATIC_HASH: &str = "kubernetes.io/config.hash";
const BYPASS_INBOUND: &str = "ambient.istio.io/bypass-inbound-capture";
const REROUTE_INTERFACES: &str = "istio.io/reroute-virtual-interfaces";

#[cfg(test)]
mod tests;
