//! Which pods are redirected, as their nodes' agents last said: the one thing
//! that makes a workload HBONE.
//!
//! The last report of a node stays in force when its agent goes away and when
//! we are restarted, so that neither turns a redirected pod's traffic into
//! plaintext. It counts for the pods that exist, on that node, with that uid,
//! and for no others.
//!
//! On a cluster it is the pods' annotation that stays, and that every replica
//! sees, whoever the node's agent is (`control-plane-contract` 1.1). There a
//! report counts while the agent that made it is connected to us: it is what
//! the annotation is about to say.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ambit_kube::{Change, Kind, Redirection};
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
    memory: Memory,
    nodes: BTreeMap<Arc<str>, Vec<Reported>>,
    /// The same by node and pod.
    said: HashMap<(Arc<str>, NamespacedName), (Arc<str>, Redirection)>,
    /// Pods of which something else may be true now.
    touched: HashSet<NamespacedName>,
    /// What the compiler was told.
    told: HashMap<NamespacedName, (Arc<str>, Redirection)>,
    unsaved: bool,
}

/// What outlives an agent's connection, and us.
#[derive(Debug)]
enum Memory {
    /// The reports, in this file.
    File(PathBuf),
    /// The pods' annotations; a report counts while its stream lasts.
    Annotations(HashMap<Arc<str>, u64>),
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
        let mut table = Self::empty(Memory::File(path));
        for (node, pods) in nodes {
            table.put(&node, pods);
        }
        Ok(table)
    }

    /// Of a cluster, where the pods' annotations are what stays.
    pub(crate) fn annotated() -> Self {
        Self::empty(Memory::Annotations(HashMap::new()))
    }

    fn empty(memory: Memory) -> Self {
        Self {
            memory,
            nodes: BTreeMap::new(),
            said: HashMap::new(),
            touched: HashSet::new(),
            told: HashMap::new(),
            unsaved: false,
        }
    }

    /// Notes which pods are new, different or gone.
    pub(crate) fn learn(&mut self, changes: &[Change]) {
        for change in changes {
            let key = match change {
                Change::Apply(located) if located.object.kind() == Kind::Pod => {
                    located.object.key()
                }
                Change::Delete(key) if key.kind == Kind::Pod => key.clone(),
                _ => continue,
            };
            let pod = NamespacedName::new(key.namespace, key.name);
            self.touched.insert(pod);
        }
    }

    /// A stream of a node's agent has ended.
    pub(crate) fn disconnected(&mut self, node: &Arc<str>, stream: u64, directory: &Directory) {
        if let Memory::Annotations(streams) = &mut self.memory
            && streams.get(node) == Some(&stream)
        {
            streams.remove(node);
            self.put(node, Vec::new());
            self.touched.extend(directory.pods_on(node));
        }
    }

    /// A node's report replaces its last one. Returns the pods that don't
    /// count now; one that isn't known yet counts from the moment that it is.
    pub(crate) fn report(
        &mut self,
        (node, stream): (&Arc<str>, u64),
        pods: Vec<Reported>,
        directory: &Directory,
    ) -> Vec<(NamespacedName, NotCounted)> {
        let refused = pods.iter().filter_map(|reported| {
            let why = judge(node, reported, directory).err()?;
            Some((reported.pod.clone(), why))
        });
        let refused = refused.collect();
        if let Memory::Annotations(streams) = &mut self.memory
            && streams.insert(Arc::clone(node), stream).is_none()
        {
            self.touched.extend(directory.pods_on(node));
        }
        if self.nodes.get(node) != Some(&pods) {
            self.unsaved = true;
            self.put(node, pods);
        }
        refused
    }

    /// Replaces what is said of a node's pods.
    fn put(&mut self, node: &Arc<str>, pods: Vec<Reported>) {
        for before in self.nodes.remove(node).into_iter().flatten() {
            self.said.remove(&(Arc::clone(node), before.pod.clone()));
            self.touched.insert(before.pod);
        }
        for reported in &pods {
            let said = (Arc::clone(&reported.uid), reported.state);
            self.said
                .insert((Arc::clone(node), reported.pod.clone()), said);
            self.touched.insert(reported.pod.clone());
        }
        if !pods.is_empty() {
            self.nodes.insert(Arc::clone(node), pods);
        }
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
        let mut changes = Vec::new();
        for pod in std::mem::take(&mut self.touched) {
            let now = self.holds(&pod, directory);
            match (self.told.get(&pod), now) {
                (Some(before), Some(now)) if *before == now => {}
                (_, Some(now)) => {
                    changes.push(change(&pod, &now.0, now.1));
                    self.told.insert(pod, now);
                }
                (Some((uid, _)), None) => {
                    changes.push(change(&pod, uid, Redirection::None));
                    self.told.remove(&pod);
                }
                (None, None) => {}
            }
        }
        changes
    }

    /// What holds for a pod, if it is captured at all.
    fn holds(
        &self,
        pod: &NamespacedName,
        directory: &Directory,
    ) -> Option<(Arc<str>, Redirection)> {
        let facts = directory.pod(pod)?;
        let node = facts.node?;
        if facts.uid.is_empty() {
            return None;
        }
        let state = match &self.memory {
            Memory::Annotations(streams) if !streams.contains_key(&node) => facts.annotated,
            Memory::Annotations(_) | Memory::File(_) => {
                let (uid, state) = self.said.get(&(node, pod.clone()))?;
                (*uid == facts.uid).then_some(*state)?
            }
        };
        (state != Redirection::None).then_some((facts.uid, state))
    }

    /// The file and its new text, if it has to be written. Counts as written
    /// from then on: call [`on_save_failed`](Self::on_save_failed) if that failed.
    pub(crate) fn take_unsaved(&mut self) -> Option<(PathBuf, Vec<u8>)> {
        let unsaved = std::mem::take(&mut self.unsaved);
        match &self.memory {
            Memory::File(path) if unsaved => Some((path.clone(), encode(&self.nodes))),
            Memory::File(_) | Memory::Annotations(_) => None,
        }
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
            pods.retain(|reported| {
                let keep = keep(node, reported);
                if !keep {
                    dropped = true;
                    self.said.remove(&(Arc::clone(node), reported.pod.clone()));
                    self.touched.insert(reported.pod.clone());
                }
                keep
            });
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

    fn learn(table: &mut Redirections, directory: &Directory, changes: &[Change]) {
        let gone = directory.learn(changes);
        table.learn(changes);
        table.forget(&gone);
    }

    fn annotated(name: &str, node: &str, state: &str) -> Vec<Change> {
        let text = manifest(name, &format!("u{name}"), "cart", node, "Running");
        let annotation =
            format!("metadata: {{annotations: {{ambient.istio.io/redirection: {state}}}, ");
        pod(&text.replacen("metadata: {", &annotation, 1))
    }

    #[test]
    fn on_a_cluster_the_annotation_holds_where_no_agent_is_connected() {
        let mut table = Redirections::annotated();
        let directory = Directory::default();
        let (n1, n2): (Arc<str>, Arc<str>) = ("n1".into(), "n2".into());
        let see = |table: &mut Redirections, changes: &[Change]| {
            learn(table, &directory, changes);
            shown(&table.changes(&directory))
        };
        assert_eq!(
            see(&mut table, &annotated("a", "n1", "enabled")),
            ["a=Enabled"]
        );
        assert_eq!(
            see(&mut table, &annotated("b", "n2", "enabled")),
            ["b=Enabled"]
        );
        assert_eq!(
            see(&mut table, &annotated("c", "n2", "pending")),
            ["c=Pending"]
        );
        assert_eq!(
            see(&mut table, &annotated("c", "n2", "sometimes")),
            ["c=None"]
        );
        // An agent knows before the annotation does, in both directions.
        table.report((&n1, 1), vec![], &directory);
        assert_eq!(see(&mut table, &[]), ["a=None"]);
        table.report(
            (&n2, 2),
            vec![enabled("b", "ub"), enabled("c", "uc")],
            &directory,
        );
        assert_eq!(see(&mut table, &[]), ["c=Enabled"]);
        assert!(table.take_unsaved().is_none(), "nothing to keep");
        // It is connected anew before its old stream has ended.
        table.report((&n2, 3), vec![enabled("c", "uc")], &directory);
        assert_eq!(see(&mut table, &[]), ["b=None"]);
        table.disconnected(&n2, 2, &directory);
        assert_eq!(see(&mut table, &[]), [""; 0]);
        table.disconnected(&n2, 3, &directory);
        assert_eq!(see(&mut table, &[]), ["b=Enabled", "c=None"]);
        table.disconnected(&n1, 1, &directory);
        assert_eq!(see(&mut table, &[]), ["a=Enabled"]);
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
        let refused = table.report((&"n1".into(), 1), report, &directory);
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
        learn(
            &mut table,
            &directory,
            &pod(&manifest("d", "ud", "cart", "n1", "Pending")),
        );
        assert_eq!(shown(&table.changes(&directory)), ["d=Enabled"]);
    }

    #[test]
    fn a_report_replaces_the_one_before_and_a_deleted_pod_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut table = Redirections::load(dir.path()).unwrap();
        let directory = directory();
        let n1: Arc<str> = "n1".into();
        table.report(
            (&n1, 1),
            vec![enabled("a", "ua"), enabled("b", "ub")],
            &directory,
        );
        table.changes(&directory);
        table.report((&n1, 1), vec![enabled("b", "ub")], &directory);
        assert_eq!(shown(&table.changes(&directory)), ["a=None"]);

        let key = ambit_kube::ObjectKey::new(Kind::Pod, "shop", "b");
        learn(&mut table, &directory, &[Change::Delete(key)]);
        assert_eq!(shown(&table.changes(&directory)), ["b=None"]);
        let back = pod(&manifest("b", "ub", "cart", "n1", "Running"));
        learn(&mut table, &directory, &back);
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
            (&"n1".into(), 1),
            vec![enabled("a", "ua"), enabled("b", "ub")],
            &directory,
        );
        let (path, text) = table.take_unsaved().unwrap();
        save(&path, &text).unwrap();
        assert!(table.take_unsaved().is_none(), "saved");

        let gone = ambit_kube::ObjectKey::new(Kind::Pod, "shop", "b");
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
