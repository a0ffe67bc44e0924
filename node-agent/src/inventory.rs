//! Which pods of this node must be served, by the objects that are known.
//!
//! Pure: changes in, wishes out. Whether and how far a wish came true is for
//! the board to know.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ambit_compile::enrolment::{Enrolment, PodFacts, decide};
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
    pods: BTreeMap<PodName, Arc<Pod>>,
    namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    sandboxes: BTreeMap<PodName, Sandbox>,
}

/// What the CNI plugin said of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sandbox {
    Here {
        netns: PathBuf,
        ips: Vec<IpAddr>,
    },
    /// Deleted; the object of the pod may stay a while.
    Gone(PodId),
}

impl Inventory {
    pub(crate) fn new(node: String, ipv6: bool) -> Self {
        Self {
            node,
            ipv6,
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
    pub(crate) fn sandbox_added(&mut self, pod: &PodName, netns: PathBuf, ips: Vec<IpAddr>) {
        let here = Sandbox::Here { netns, ips };
        self.sandboxes.insert(pod.clone(), here);
    }

    /// A pod's namespace is about to go.
    pub(crate) fn sandbox_removed(&mut self, pod: &PodName) {
        if let Some(known) = self.pods.get(pod) {
            let gone = Sandbox::Gone(identify(known, pod));
            self.sandboxes.insert(pod.clone(), gone);
        }
    }

    /// Whether a pod that starts must be held.
    pub(crate) fn admission(&self, pod: &PodName) -> (Admission, Option<PodId>) {
        let Some(known) = self.pods.get(pod) else {
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

    fn decide(&self, pod: &Pod, name: &PodName) -> Enrolment {
        let namespace = self.namespaces.get(&name.namespace);
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let facts = PodFacts {
            labels: pod.metadata.labels.as_ref(),
            annotations: pod.metadata.annotations.as_ref(),
            host_network: pod.spec.as_ref().and_then(|s| s.host_network) == Some(true),
            terminal: matches!(phase, Some("Succeeded" | "Failed")),
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
            Some(Sandbox::Here { netns, ips }) => Some((netns.clone(), ips)),
            Some(Sandbox::Gone(_)) | None => None,
        };
        let bypass = annotation(BYPASS_INBOUND).is_some_and(is_true);
        let interfaces = annotation(REROUTE_INTERFACES)
            .unwrap_or_default()
            .split(',');
        let interfaces = interfaces.map(str::trim).filter(|name| !name.is_empty());
        let mut ips = statuses(pod);
        if let Some((_, sandbox)) = &sandbox
            && ips.is_empty()
        {
            ips.extend(sandbox.iter());
        }
        PodSpec {
            pod: name.clone(),
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
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
                .map(|(path, _)| path)
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
const BYPASS_INBOUND: &str = "ambient.istio.io/bypass-inbound-capture";
const REROUTE_INTERFACES: &str = "istio.io/reroute-virtual-interfaces";

#[cfg(test)]
mod tests;
