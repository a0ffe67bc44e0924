//! Where a pod's network namespace is: as the CNI plugin or an annotation
//! named it, or else in the table of processes.
//!
//! A container runtime writes the pod's uid into the path of its cgroup, under
//! cgroup v1 and v2, under the cgroupfs driver (`pod<uid>`) and systemd's
//! (`...-pod<uid with underscores>.slice`) alike. The oldest process is the
//! sandbox's own; what began later may have gone elsewhere. A namespace that is
//! the node's own, or has none of the pod's addresses, isn't the pod's
//! (`ztunnel-contract` 7.4).

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ambit_netns::{NetNs, Netlink, NsId};
use tokio::time::Instant;

use crate::inventory::PodSpec;

/// An open namespace, and the path by which it was found.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) ns: NetNs,
    pub(crate) path: PathBuf,
    /// The path is a process's, which may end before the namespace does.
    pub(crate) by_process: bool,
}

/// Why there is no namespace to work in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    #[error(
        "nobody has named the pod's network namespace, and no process of this node runs in one \
         that has its address"
    )]
    Unnamed,
    #[error("open the pod's network namespace")]
    Open(#[source] io::Error),
    #[error("the pod's network namespace is the node's own")]
    HostNamespace,
}

/// Finds namespaces. Clones share one look at the processes.
#[derive(Debug, Clone)]
pub(crate) struct Finder {
    /// The node's own namespace, which is never a pod's.
    node: NsId,
    /// Where the node's processes are seen; `None` to look at named paths only.
    proc: Option<Arc<Path>>,
    /// Where the node's directory of named namespaces is mounted here.
    netns_dir: Option<Arc<Path>>,
    seen: Arc<Mutex<Option<Seen>>>,
}

/// One look at the processes.
#[derive(Debug)]
struct Seen {
    at: Instant,
    pods: Arc<HashMap<Box<str>, Vec<Process>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    /// In clock ticks since the machine's start.
    started: u64,
    pid: u32,
}

impl Finder {
    pub(crate) fn new(node: NsId, proc: Option<PathBuf>, netns_dir: Option<PathBuf>) -> Self {
        Self {
            node,
            proc: proc.map(Arc::from),
            netns_dir: netns_dir.map(Arc::from),
            seen: Arc::default(),
        }
    }

    /// The pod's namespace; `None` if one was named and isn't there.
    pub(crate) async fn find(&self, spec: &PodSpec) -> Result<Option<Place>, FindError> {
        if let Some(named) = &spec.netns {
            for path in self.seen_here(named) {
                match NetNs::open(&path) {
                    Ok(ns) if ns.id() == self.node => return Err(FindError::HostNamespace),
                    Ok(ns) => {
                        return Ok(Some(Place {
                            ns,
                            path,
                            by_process: false,
                        }));
                    }
                    Err(e) if is_absent(&e) => {}
                    Err(e) => return Err(FindError::Open(e)),
                }
            }
        }
        if let Some(place) = self.among_processes(spec).await {
            return Ok(Some(place));
        }
        match spec.netns {
            Some(_) => Ok(None),
            None => Err(FindError::Unnamed),
        }
    }

    /// A path of the node, as this process may see it.
    fn seen_here(&self, named: &Path) -> impl Iterator<Item = PathBuf> {
        let mounted = self.netns_dir.as_deref().zip(named.file_name());
        let mounted = mounted.map(|(dir, name)| dir.join(name));
        mounted.into_iter().chain([named.to_owned()])
    }

    async fn among_processes(&self, spec: &PodSpec) -> Option<Place> {
        let proc = self.proc.as_ref()?;
        if spec.cgroup_uid.is_empty() || spec.ips.is_empty() {
            return None;
        }
        let pods = self.look(proc);
        let mut tried: Vec<NsId> = vec![self.node];
        for process in pods.get(&*spec.cgroup_uid).into_iter().flatten() {
            let path = proc.join(process.pid.to_string()).join("ns/net");
            // It may have ended since, or isn't ours to look at.
            let Ok(ns) = NetNs::open(&path) else { continue };
            if tried.contains(&ns.id()) {
                continue;
            }
            tried.push(ns.id());
            if has_one_of(&ns, &spec.ips).await {
                return Some(Place {
                    ns,
                    path,
                    by_process: true,
                });
            }
        }
        None
    }

    /// What was seen a moment ago will do: many pods ask at once.
    fn look(&self, proc: &Path) -> Arc<HashMap<Box<str>, Vec<Process>>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = &*seen
            && seen.at.elapsed() < FRESH
        {
            return Arc::clone(&seen.pods);
        }
        let pods = Arc::new(processes(proc));
        *seen = Some(Seen {
            at: Instant::now(),
            pods: Arc::clone(&pods),
        });
        pods
    }
}

/// The user that kubelet runs as, if it's found among the processes.
pub(crate) fn kubelet_uid(proc: &Path) -> Option<u32> {
    pids(proc).find_map(|pid| {
        let dir = proc.join(pid.to_string());
        let name = std::fs::read_to_string(dir.join("comm")).ok()?;
        let is_kubelet = ["kubelet", "kubelite", "k3s", "k3s-server", "k3s-agent"];
        if !is_kubelet.contains(&name.trim_end()) {
            return None;
        }
        let status = std::fs::read_to_string(dir.join("status")).ok()?;
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        // Real, effective, saved, file system.
        uids.split_ascii_whitespace().nth(1)?.parse().ok()
    })
}

fn processes(proc: &Path) -> HashMap<Box<str>, Vec<Process>> {
    let mut pods: HashMap<Box<str>, Vec<Process>> = HashMap::new();
    for pid in pids(proc) {
        let dir = proc.join(pid.to_string());
        let Ok(cgroup) = std::fs::read_to_string(dir.join("cgroup")) else {
            continue;
        };
        let uids = pod_uids(&cgroup);
        if uids.is_empty() {
            continue;
        }
        let stat = std::fs::read_to_string(dir.join("stat")).unwrap_or_default();
        let Some(started) = start_time(&stat) else {
            continue;
        };
        for uid in uids {
            pods.entry(uid).or_default().push(Process { started, pid });
        }
    }
    pods.values_mut().for_each(|processes| processes.sort());
    pods
}

fn pids(proc: &Path) -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Uids of the pods that the lines of a `/proc/PID/cgroup` name, each once.
fn pod_uids(cgroup: &str) -> Vec<Box<str>> {
    let mut uids = Vec::new();
    // hierarchy:controllers:path
    for path in cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2)) {
        for uid in path.split('/').filter_map(pod_uid) {
            if !uids.contains(&uid) {
                uids.push(uid);
            }
        }
    }
    uids
}

/// The uid that a component of a cgroup's path names.
fn pod_uid(component: &str) -> Option<Box<str>> {
    let component = component.strip_suffix(".slice").unwrap_or(component);
    let (before, uid) = component.rsplit_once("pod")?;
    // A static pod's is a hash without dashes.
    let is_uid = (MIN_UID..=MAX_UID).contains(&uid.len())
        && uid
            .bytes()
            .all(|b| b.is_ascii_hexdigit() || matches!(b, b'-' | b'_'));
    let begins = before.is_empty() || before.ends_with('-');
    (is_uid && begins).then(|| uid.replace('_', "-").into())
}

/// Field 22 of a `/proc/PID/stat`. The second field may hold anything, blanks
/// and parentheses too.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    // What follows begins with field 3.
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

async fn has_one_of(ns: &NetNs, ips: &[IpAddr]) -> bool {
    let Ok(netlink) = Netlink::in_ns(ns) else {
        return false;
    };
    let addresses = tokio::time::timeout(ANSWER, netlink.addrs()).await;
    matches!(addresses, Ok(Ok(own)) if own.iter().any(|ip| ips.contains(ip)))
}

pub(crate) fn is_absent(error: &io::Error) -> bool {
    // What is left of a namespace whose mount is gone is an ordinary file. A
    // process that ends has no namespace.
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
    )
}

const FRESH: Duration = Duration::from_millis(200);
const ANSWER: Duration = Duration::from_secs(5);
const MIN_UID: usize = 32;
const MAX_UID: usize = 36;

#[cfg(test)]
mod tests;
