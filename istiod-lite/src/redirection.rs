//! Which pods are redirected, as their nodes' agents last said: the one thing
//! that makes a workload HBONE.
//!
//! The last report of a node stays in force when its agent goes away and when
//! we are restarted, so that neither turns a redirected pod's traffic into
//! plaintext. It counts for the pods that exist, on that node, with that uid,
//! and for no others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ambit_kube::{Change, Redirection};
use ambit_types::NamespacedName;
use serde::{Deserialize, Serialize};

use crate::directory::Directory;
use crate::files::{Readable, replace};

/// What an agent says of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reported {
    /// The pod.
    pub(crate) pod: NamespacedName,
    /// Its uid.
    pub(crate) uid: Arc<str>,
    /// How far its capture has come.
    pub(crate) state: Redirection,
}

/// Why a reported pod doesn't count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotCounted {
    /// No manifest has it.
    #[error("no such pod")]
    Unknown,
    /// It runs elsewhere, or nowhere yet.
    #[error("the pod is not on this node")]
    OtherNode,
    /// It is another pod of that name.
    #[error("the pod has another uid")]
    OtherUid,
}

/// The last report of every node. Written by the configuration task alone.
#[derive(Debug)]
pub(crate) struct Redirections {
    path: PathBuf,
    nodes: BTreeMap<Arc<str>, Vec<Reported>>,
    /// What the compiler was told.
    told: HashMap<NamespacedName, (Arc<str>, Redirection)>,
    unsaved: bool,
}

/// The kept state can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The file can't be read.
    #[error("redirection state {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file isn't ours, or is damaged.
    #[error(
        "redirection state {} is damaged; without it, redirected pods would be reached in plaintext \
         until their agents report again: restore the file, or remove it to accept that",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
}

impl Redirections {
    /// What was kept in the state directory; nothing on the first start.
    ///
    /// # Errors
    /// There is something, and it can't be used.
    pub(crate) fn load(state_dir: &Path) -> Result<Self, LoadError> {
        let path = state_dir.join("redirection.json");
        let nodes = match std::fs::read(&path) {
            Ok(text) => decode(&text).map_err(|source| LoadError::Damaged {
                path: path.clone(),
                source,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(LoadError::Read { path, source }),
        };
        Ok(Self {
            path,
            nodes,
            told: HashMap::new(),
            unsaved: false,
        })
    }

    /// A node's report replaces its last one. Returns the pods that don't
    /// count now; one that isn't known yet counts from the moment that it is.
    pub(crate) fn report(
        &mut self,
        node: &Arc<str>,
        pods: Vec<Reported>,
        directory: &Directory,
    ) -> Vec<(NamespacedName, NotCounted)> {
        let refused = pods.iter().filter_map(|reported| {
            let why = judge(node, reported, directory).err()?;
            Some((reported.pod.clone(), why))
        });
        let refused = refused.collect();
        if self.nodes.get(node) != Some(&pods) {
            self.unsaved = true;
            if pods.is_empty() {
                self.nodes.remove(node);
            } else {
                self.nodes.insert(Arc::clone(node), pods);
            }
        }
        refused
    }

    /// Pods were deleted: what was said of them is about no pod any more.
    pub(crate) fn forget(&mut self, gone: &[NamespacedName]) {
        let gone: HashSet<&NamespacedName> = gone.iter().collect();
        if !gone.is_empty() {
            self.retain(|_, reported| !gone.contains(&reported.pod));
        }
    }

    /// At the end of the first reading: drops what became of no use while we
    /// were away.
    pub(crate) fn forget_unknown(&mut self, directory: &Directory) {
        self.retain(|node, reported| judge(node, reported, directory).is_ok());
    }

    /// What the compiler has to be told, given the pods that there are now.
    pub(crate) fn changes(&mut self, directory: &Directory) -> Vec<Change> {
        let mut now = HashMap::new();
        for (node, pods) in &self.nodes {
            let counting = pods.iter().filter(|reported| {
                reported.state != Redirection::None && judge(node, reported, directory).is_ok()
            });
            now.extend(counting.map(|r| (r.pod.clone(), (Arc::clone(&r.uid), r.state))));
        }
        let ended = self.told.iter().filter(|(pod, _)| !now.contains_key(*pod));
        let mut changes: Vec<Change> = ended
            .map(|(pod, (uid, _))| change(pod, uid, Redirection::None))
            .collect();
        let new = now
            .iter()
            .filter(|(pod, said)| self.told.get(*pod) != Some(*said));
        changes.extend(new.map(|(pod, (uid, state))| change(pod, uid, *state)));
        self.told = now;
        changes
    }

    /// The file and its new text, if it has to be written. Counts as written
    /// from then on: call [`on_save_failed`](Self::on_save_failed) if that failed.
    pub(crate) fn take_unsaved(&mut self) -> Option<(PathBuf, Vec<u8>)> {
        if !std::mem::take(&mut self.unsaved) {
            return None;
        }
        Some((self.path.clone(), encode(&self.nodes)))
    }

    /// The last [`take_unsaved`](Self::take_unsaved) didn't reach the disk.
    pub(crate) fn on_save_failed(&mut self) {
        self.unsaved = true;
    }

    /// Pods that are redirected, so far as the compiler was told.
    pub(crate) fn count(&self) -> usize {
        self.told.len()
    }

    fn retain(&mut self, keep: impl Fn(&Arc<str>, &Reported) -> bool) {
        let mut dropped = false;
        for (node, pods) in &mut self.nodes {
            let before = pods.len();
            pods.retain(|reported| keep(node, reported));
            dropped |= pods.len() != before;
        }
        if dropped {
            self.nodes.retain(|_, pods| !pods.is_empty());
            self.unsaved = true;
        }
    }
}

/// Writes what [`Redirections::take_unsaved`] gave. Blocks on the disk.
///
/// # Errors
/// What the file system says.
pub(crate) fn save(path: &Path, text: &[u8]) -> io::Result<()> {
    replace(path, text, Readable::ByOwner)
}

fn judge(node: &Arc<str>, reported: &Reported, directory: &Directory) -> Result<(), NotCounted> {
    let pod = directory.pod(&reported.pod).ok_or(NotCounted::Unknown)?;
    if pod.node.as_ref() != Some(node) {
        return Err(NotCounted::OtherNode);
    }
    if pod.uid.is_empty() || pod.uid != reported.uid {
        return Err(NotCounted::OtherUid);
    }
    Ok(())
}

fn change(pod: &NamespacedName, uid: &Arc<str>, state: Redirection) -> Change {
    Change::Redirection {
        namespace: Arc::clone(&pod.namespace),
        name: Arc::clone(&pod.name),
        uid: Arc::clone(uid),
        state,
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    nodes: BTreeMap<Arc<str>, Vec<KeptPod>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptPod {
    namespace: Arc<str>,
    name: Arc<str>,
    uid: Arc<str>,
    state: KeptState,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KeptState {
    None,
    Pending,
    Enabled,
}

fn encode(nodes: &BTreeMap<Arc<str>, Vec<Reported>>) -> Vec<u8> {
    let kept = |reported: &Reported| KeptPod {
        namespace: Arc::clone(&reported.pod.namespace),
        name: Arc::clone(&reported.pod.name),
        uid: Arc::clone(&reported.uid),
        state: match reported.state {
            Redirection::None => KeptState::None,
            Redirection::Pending => KeptState::Pending,
            Redirection::Enabled => KeptState::Enabled,
        },
    };
    let nodes = nodes
        .iter()
        .map(|(node, pods)| (Arc::clone(node), pods.iter().map(kept).collect()));
    let kept = Kept {
        version: 1,
        nodes: nodes.collect(),
    };
    // Maps with text keys and plain fields always encode.
    serde_json::to_vec_pretty(&kept).unwrap_or_default()
}

fn decode(text: &[u8]) -> Result<BTreeMap<Arc<str>, Vec<Reported>>, serde_json::Error> {
    let kept: Kept = serde_json::from_slice(text)?;
    if kept.version != 1 {
        let what = format!("version {} is newer than this program", kept.version);
        return Err(serde::de::Error::custom(what));
    }
    let reported = |pod: KeptPod| Reported {
        pod: NamespacedName::new(pod.namespace, pod.name),
        uid: pod.uid,
        state: match pod.state {
            KeptState::None => Redirection::None,
            KeptState::Pending => Redirection::Pending,
            KeptState::Enabled => Redirection::Enabled,
        },
    };
    let nodes = kept.nodes.into_iter();
    Ok(nodes
        .map(|(node, pods)| (node, pods.into_iter().map(reported).collect()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::tests::{manifest, pod};

    fn directory() -> Directory {
        let directory = Directory::default();
        for (name, uid, node) in [("a", "ua", "n1"), ("b", "ub", "n1"), ("c", "uc", "n2")] {
            directory.learn(&pod(&manifest(name, uid, "cart", node, "Running")));
        }
        directory.learn(&[Change::Synced]);
        directory
    }

    fn enabled(name: &str, uid: &str) -> Reported {
        Reported {
            pod: NamespacedName::new("shop", name),
            uid: uid.into(),
            state: Redirection::Enabled,
        }
    }

    /// `a=Enabled`, sorted.
    fn shown(changes: &[Change]) -> Vec<String> {
        let mut all: Vec<String> = changes
            .iter()
            .map(|change| match change {
                Change::Redirection { name, state, .. } => format!("{name}={state:?}"),
                other => panic!("{other:?}"),
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn only_pods_of_the_node_with_the_right_uid_count() {
        let dir = tempfile::tempdir().unwrap();
        let mut table = Redirections::load(dir.path()).unwrap();
        let directory = directory();
        let report = vec![
            enabled("a", "ua"),
            enabled("b", "an older one"),
            enabled("c", "uc"),
            enabled("d", "ud"),
        ];
        let refused = table.report(&"n1".into(), report, &directory);
        let refused: Vec<_> = refused.iter().map(|(p, w)| (&*p.name, *w)).collect();
        assert_eq!(
            refused,
            [
                ("b", NotCounted::OtherUid),
                ("c", NotCounted::OtherNode),
                ("d", NotCounted::Unknown)
            ]
        );
        assert_eq!(shown(&table.changes(&directory)), ["a=Enabled"]);
        assert_eq!(shown(&table.changes(&directory)), [""; 0], "told once");
        // The agent was ahead of us: it counts once the pod is known.
        directory.learn(&pod(&manifest("d", "ud", "cart", "n1", "Pending")));
        assert_eq!(shown(&table.changes(&directory)), ["d=Enabled"]);
    }

    #[test]
    fn a_report_replaces_the_one_before_and_a_deleted_pod_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut table = Redirections::load(dir.path()).unwrap();
        let directory = directory();
        let n1: Arc<str> = "n1".into();
        table.report(
            &n1,
            vec![enabled("a", "ua"), enabled("b", "ub")],
            &directory,
        );
        table.changes(&directory);
        table.report(&n1, vec![enabled("b", "ub")], &directory);
        assert_eq!(shown(&table.changes(&directory)), ["a=None"]);

        let key = ambit_kube::ObjectKey::new(ambit_kube::Kind::Pod, "shop", "b");
        let gone = directory.learn(&[Change::Delete(key)]);
        table.forget(&gone);
        assert_eq!(shown(&table.changes(&directory)), ["b=None"]);
        directory.learn(&pod(&manifest("b", "ub", "cart", "n1", "Running")));
        assert_eq!(
            shown(&table.changes(&directory)),
            [""; 0],
            "has to be reported again"
        );
    }

    #[test]
    fn a_restart_keeps_what_is_still_true() {
        let dir = tempfile::tempdir().unwrap();
        let mut table = Redirections::load(dir.path()).unwrap();
        let directory = directory();
        table.report(
            &"n1".into(),
            vec![enabled("a", "ua"), enabled("b", "ub")],
            &directory,
        );
        let (path, text) = table.take_unsaved().unwrap();
        save(&path, &text).unwrap();
        assert!(table.take_unsaved().is_none(), "saved");

        let gone = ambit_kube::ObjectKey::new(ambit_kube::Kind::Pod, "shop", "b");
        directory.learn(&[Change::Delete(gone)]);
        let mut table = Redirections::load(dir.path()).unwrap();
        table.forget_unknown(&directory);
        assert_eq!(shown(&table.changes(&directory)), ["a=Enabled"]);
        assert!(
            table.take_unsaved().is_some(),
            "without the pod that is gone"
        );
    }

    #[test]
    fn damaged_state_is_never_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        for text in [
            "",
            "{}",
            "{\"version\":2,\"nodes\":{}}",
            "{\"version\":1,\"nodes\":",
        ] {
            std::fs::write(dir.path().join("redirection.json"), text).unwrap();
            let error = Redirections::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("is damaged"), "{text}: {error}");
        }
    }
}
