//! What each connected proxy must be told next: the agent's half of ZDS
//! without its sockets.
//!
//! The table holds the pods that must be served and, per connection, what the
//! proxy there has been told and how it answered. Everything else follows: an
//! add goes to the newest connection, or again to an older one when the newer
//! goes away; a removal goes to all; a refused add is told again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_netns::NetNs;
use ambit_runtime::Backoff;
use tokio::time::Instant;

use super::WorkloadInfo;

/// How far proxies have come with a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyState {
    /// The pod isn't in the table.
    Unknown,
    /// No connected proxy has been told of the pod yet, or none is connected.
    Unreachable,
    /// A connected proxy serves the pod.
    Listening,
    /// The newest proxy refused the pod, and no older one serves it.
    Refused(String),
}

/// One pod to serve.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) info: WorkloadInfo,
    /// `None`: known to exist, but not at hand; a proxy that has it keeps it.
    pub(super) netns: Option<NetNs>,
    generation: u64,
}

/// What a connection must send next.
#[derive(Debug)]
pub(super) enum Step {
    Add {
        uid: Arc<str>,
        pod: Pod,
    },
    Keep(Arc<str>),
    Del(Arc<str>),
    SnapshotSent,
    /// Nothing now; look again then, or when the table changes.
    Idle(Option<Instant>),
}

#[derive(Debug)]
enum Told {
    /// Not yet.
    Nothing,
    /// A keep, and it was accepted or refused.
    Kept { accepted: bool },
    /// An add of this generation that was accepted.
    Accepted(u64),
    /// An add of this generation that was refused.
    Refused {
        generation: u64,
        error: String,
        again: Instant,
        backoff: Backoff,
    },
}

#[derive(Debug, Default)]
struct Peer {
    told: BTreeMap<Arc<str>, Told>,
    snapshot_ended: bool,
}

/// Pods and connections.
#[derive(Debug, Default)]
pub(super) struct Table {
    pods: BTreeMap<Arc<str>, Pod>,
    /// By the order of their hellos: the last one is the newest.
    peers: BTreeMap<u64, Peer>,
    generation: u64,
}

impl Table {
    /// Serve this pod. Returns whether that is news.
    pub(super) fn insert(&mut self, uid: &str, info: WorkloadInfo, netns: Option<NetNs>) -> bool {
        if let Some(known) = self.pods.get(uid)
            && known.info == info
            && same_netns(known.netns.as_ref(), netns.as_ref())
        {
            return false;
        }
        self.generation += 1;
        let generation = self.generation;
        let pod = Pod {
            info,
            netns,
            generation,
        };
        let uid: Arc<str> = Arc::from(uid);
        for peer in self.peers.values_mut() {
            peer.told.entry(Arc::clone(&uid)).or_insert(Told::Nothing);
        }
        self.pods.insert(uid, pod);
        true
    }

    /// Serve this pod no longer. Returns whether it was known.
    pub(super) fn remove(&mut self, uid: &str) -> bool {
        self.pods.remove(uid).is_some()
    }

    /// A proxy has said hello.
    pub(super) fn connected(&mut self, id: u64) {
        let told = self.pods.keys().map(|uid| (Arc::clone(uid), Told::Nothing));
        let peer = Peer {
            told: told.collect(),
            snapshot_ended: false,
        };
        self.peers.insert(id, peer);
    }

    /// A connection has ended.
    pub(super) fn disconnected(&mut self, id: u64) {
        self.peers.remove(&id);
    }

    /// Proxies that have said hello.
    pub(super) fn connections(&self) -> usize {
        self.peers.len()
    }

    /// True if a removed pod hasn't been taken back from every connection.
    pub(super) fn removal_pending(&self, uid: &str) -> bool {
        !self.pods.contains_key(uid) && self.peers.values().any(|p| p.told.contains_key(uid))
    }

    /// What this connection must send now.
    pub(super) fn next(&self, id: u64, now: Instant) -> Step {
        let Some(peer) = self.peers.get(&id) else {
            return Step::Idle(None);
        };
        let gone = peer.told.keys().find(|uid| !self.pods.contains_key(*uid));
        if let Some(uid) = gone {
            return Step::Del(Arc::clone(uid));
        }
        let newest = self
            .peers
            .last_key_value()
            .is_some_and(|(last, _)| *last == id);
        let mut wake = None;
        // A snapshot names every pod, also on a connection that was overtaken.
        if newest || !peer.snapshot_ended {
            for (uid, pod) in &self.pods {
                match due(peer.told.get(uid), pod, peer.snapshot_ended) {
                    Due::Add => {
                        let (uid, pod) = (Arc::clone(uid), pod.clone());
                        return Step::Add { uid, pod };
                    }
                    Due::Keep => return Step::Keep(Arc::clone(uid)),
                    Due::At(again) if again <= now => {
                        let (uid, pod) = (Arc::clone(uid), pod.clone());
                        return Step::Add { uid, pod };
                    }
                    Due::At(again) => wake = Some(wake.map_or(again, |w: Instant| w.min(again))),
                    Due::Done => {}
                }
            }
        }
        if peer.snapshot_ended {
            Step::Idle(wake)
        } else {
            Step::SnapshotSent
        }
    }

    /// The proxy's answer to a step. `Err` is the text of a refusal.
    pub(super) fn answered(
        &mut self,
        id: u64,
        step: &Step,
        answer: Result<(), String>,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        match step {
            Step::Add { uid, pod } => {
                let before = peer.told.remove(uid);
                let told = match answer {
                    Ok(()) => Told::Accepted(pod.generation),
                    Err(error) => refused(before, pod.generation, error, now),
                };
                peer.told.insert(Arc::clone(uid), told);
            }
            Step::Keep(uid) => {
                let accepted = answer.is_ok();
                peer.told.insert(Arc::clone(uid), Told::Kept { accepted });
            }
            // A refused removal can only mean that the proxy hasn't got it.
            Step::Del(uid) => {
                if self.pods.contains_key(uid) {
                    peer.told.insert(Arc::clone(uid), Told::Nothing);
                } else {
                    peer.told.remove(uid);
                }
            }
            Step::SnapshotSent => peer.snapshot_ended = true,
            Step::Idle(_) => {}
        }
    }

    /// How far proxies have come with a pod.
    pub(super) fn state(&self, uid: &str) -> ProxyState {
        let Some(pod) = self.pods.get(uid) else {
            return ProxyState::Unknown;
        };
        let mut state = ProxyState::Unreachable;
        for peer in self.peers.values().rev() {
            match peer.told.get(uid) {
                Some(Told::Accepted(generation)) if *generation == pod.generation => {
                    return ProxyState::Listening;
                }
                Some(Told::Kept { accepted: true }) if pod.netns.is_none() => {
                    return ProxyState::Listening;
                }
                Some(Told::Refused {
                    generation, error, ..
                }) if *generation == pod.generation && state == ProxyState::Unreachable => {
                    state = ProxyState::Refused(error.clone());
                }
                _ => {}
            }
        }
        state
    }
}

enum Due {
    Add,
    Keep,
    At(Instant),
    Done,
}

fn due(told: Option<&Told>, pod: &Pod, snapshot_ended: bool) -> Due {
    let at_hand = pod.netns.is_some();
    match told {
        Some(Told::Accepted(generation)) if *generation == pod.generation => Due::Done,
        Some(Told::Refused {
            generation, again, ..
        }) if *generation == pod.generation => Due::At(*again),
        _ if at_hand => Due::Add,
        Some(Told::Kept { .. }) => Due::Done,
        _ if snapshot_ended => Due::Done,
        _ => Due::Keep,
    }
}

fn refused(before: Option<Told>, generation: u64, error: String, now: Instant) -> Told {
    let mut backoff = match before {
        Some(Told::Refused {
            generation: same,
            backoff,
            ..
        }) if same == generation => backoff,
        _ => Backoff::new(FIRST_RETRY, MAX_RETRY),
    };
    let again = now + backoff.next_wait();
    Told::Refused {
        generation,
        error,
        again,
        backoff,
    }
}

fn same_netns(a: Option<&NetNs>, b: Option<&NetNs>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.id() == b.id(),
        _ => false,
    }
}

const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The pace at which proxies themselves try again.
const MAX_RETRY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
