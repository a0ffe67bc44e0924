//! Which pods exist and where they run: what authorizing a node's programs
//! depends on.
//!
//! One writer, the configuration task; it learns of a pod at once, before the
//! compiler does. Readers may wait for a pod that isn't known yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ambit_compile::enrolment::REDIRECTION;
use ambit_kube::{Change, Kind, Object, Redirection};
use ambit_types::NamespacedName;
use parking_lot::RwLock;
use tokio::sync::watch;

/// What is known of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodFacts {
    /// `metadata.uid`; empty if the manifest has none.
    pub(crate) uid: Arc<str>,
    /// `spec.serviceAccountName`.
    pub(crate) service_account: Arc<str>,
    /// `spec.nodeName`.
    pub(crate) node: Option<Arc<str>>,
    /// The pod has ended, well or badly.
    pub(crate) terminal: bool,
    /// The Gateway that it is a pod of, by its label.
    pub(crate) gateway: Option<Arc<str>>,
    /// How far its capture has come, by its annotation.
    pub(crate) annotated: Redirection,
}

/// The pods that exist. Clones share them.
#[derive(Clone)]
pub(crate) struct Directory {
    pods: Arc<RwLock<Pods>>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Pods {
    by_name: HashMap<NamespacedName, PodFacts>,
    /// Pods that run, by node, namespace and service account.
    running: HashMap<(Arc<str>, NamespacedName), usize>,
    synced: bool,
}

impl Default for Directory {
    fn default() -> Self {
        let (changed, _) = watch::channel(());
        Self {
            pods: Arc::default(),
            changed,
        }
    }
}

impl Directory {
    /// Takes what concerns pods. Returns the pods that are gone.
    pub(crate) fn learn(&self, changes: &[Change]) -> Vec<NamespacedName> {
        let mut pods = self.pods.write();
        let mut gone = Vec::new();
        for change in changes {
            match change {
                Change::Apply(located) => {
                    if let Object::Pod(pod) = &located.object {
                        let key = located.object.key();
                        pods.put(NamespacedName::new(key.namespace, key.name), facts(pod));
                    }
                }
                Change::Delete(key) if key.kind == Kind::Pod => {
                    let name = NamespacedName::new(key.namespace.clone(), key.name.clone());
                    pods.remove(&name);
                    gone.push(name);
                }
                Change::Synced => pods.synced = true,
                Change::Delete(_) | Change::Problems(_) | Change::Redirection { .. } => {}
            }
        }
        drop(pods);
        self.changed.send_replace(());
        gone
    }

    /// A pod, if it exists.
    pub(crate) fn pod(&self, name: &NamespacedName) -> Option<PodFacts> {
        self.pods.read().by_name.get(name).cloned()
    }

    /// The pods of a node, those that have ended among them.
    pub(crate) fn pods_on(&self, node: &Arc<str>) -> Vec<NamespacedName> {
        let pods = self.pods.read();
        let there = pods.by_name.iter();
        there
            .filter(|(_, facts)| facts.node.as_ref() == Some(node))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Whether a pod of this account runs on the node.
    pub(crate) fn runs_on(&self, node: &Arc<str>, account: &NamespacedName) -> bool {
        let key = (Arc::clone(node), account.clone());
        self.pods.read().running.contains_key(&key)
    }

    /// The Gateways of which pods run under an account.
    pub(crate) fn gateways_of(&self, account: &NamespacedName) -> BTreeSet<Arc<str>> {
        let pods = self.pods.read();
        let of_account = pods.by_name.iter().filter(|(name, facts)| {
            name.namespace == account.namespace
                && facts.service_account == account.name
                && !facts.terminal
        });
        of_account
            .filter_map(|(_, facts)| facts.gateway.clone())
            .collect()
    }

    /// Whether everything that was there at the start is known.
    pub(crate) fn is_synced(&self) -> bool {
        self.pods.read().synced
    }

    /// Sees every later change.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Pods {
    fn put(&mut self, name: NamespacedName, facts: PodFacts) {
        self.remove(&name);
        if let Some(place) = place(&name, &facts) {
            *self.running.entry(place).or_default() += 1;
        }
        self.by_name.insert(name, facts);
    }

    fn remove(&mut self, name: &NamespacedName) {
        let Some(old) = self.by_name.remove(name) else {
            return;
        };
        let Some(place) = place(name, &old) else {
            return;
        };
        if let Some(count) = self.running.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                self.running.remove(&place);
            }
        }
    }
}

fn place(name: &NamespacedName, facts: &PodFacts) -> Option<(Arc<str>, NamespacedName)> {
    let node = facts.node.clone().filter(|_| !facts.terminal)?;
    let account = NamespacedName::new(name.namespace.clone(), facts.service_account.clone());
    Some((node, account))
}

fn facts(pod: &ambit_kube::core::Pod) -> PodFacts {
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.map(|v| Arc::<str>::from(v.as_str()));
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    PodFacts {
        uid: text(pod.metadata.uid.as_ref()).unwrap_or_else(|| "".into()),
        service_account: text(spec.and_then(|s| s.service_account_name.as_ref()))
            .filter(|account| !account.is_empty())
            .unwrap_or_else(|| "default".into()),
        node: text(spec.and_then(|s| s.node_name.as_ref())).filter(|node| !node.is_empty()),
        // Upstream lets Succeeded pods count; nothing of theirs runs any more.
        terminal: matches!(phase, Some("Failed" | "Succeeded")),
        gateway: text(
            pod.metadata
                .labels
                .as_ref()
                .and_then(|l| l.get(GATEWAY_NAME)),
        )
        .filter(|gateway| !gateway.is_empty()),
        annotated: annotated(pod.metadata.annotations.as_ref()),
    }
}

fn annotated(annotations: Option<&BTreeMap<String, String>>) -> Redirection {
    let value = annotations.and_then(|annotations| annotations.get(REDIRECTION));
    match value.map(String::as_str) {
        Some("enabled") => Redirection::Enabled,
        Some("pending") => Redirection::Pending,
        _ => Redirection::None,
    }
}

/// Label of the pods of a Gateway (`control-plane-contract` 5.4).
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn pod(text: &str) -> Vec<Change> {
        let loaded = ambit_kube::read_manifest("test.yaml", text);
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        loaded.objects.into_iter().map(Change::Apply).collect()
    }

    pub(crate) fn manifest(
        name: &str,
        uid: &str,
        account: &str,
        node: &str,
        phase: &str,
    ) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: {uid}}}\n\
             spec: {{nodeName: {node}, serviceAccountName: {account}, containers: [{{name: c, image: c}}]}}\n\
             status: {{phase: {phase}}}\n"
        )
    }

    /// The manifest with one label.
    pub(crate) fn labelled(manifest: &str, label: &str) -> String {
        manifest.replacen(
            "metadata: {",
            &format!("metadata: {{labels: {{{label}}}, "),
            1,
        )
    }

    #[test]
    fn accounts_are_where_their_running_pods_are() {
        let directory = Directory::default();
        let cart = NamespacedName::new("shop", "cart");
        let (n1, n2): (Arc<str>, Arc<str>) = ("n1".into(), "n2".into());
        let apply = |name: &str, node: &str, phase: &str| {
            directory.learn(&pod(&manifest(name, "u", "cart", node, phase)));
        };
        apply("a", "n1", "Running");
        apply("b", "n1", "Pending");
        assert!(directory.runs_on(&n1, &cart) && !directory.runs_on(&n2, &cart));
        apply("a", "n2", "Running");
        assert!(directory.runs_on(&n1, &cart) && directory.runs_on(&n2, &cart));
        for ended in ["Failed", "Succeeded"] {
            apply("b", "n1", ended);
            assert!(!directory.runs_on(&n1, &cart), "{ended}");
        }
        let key = ambit_kube::ObjectKey::new(Kind::Pod, "shop", "a");
        let gone = directory.learn(&[Change::Delete(key)]);
        assert_eq!(gone, [NamespacedName::new("shop", "a")]);
        assert!(!directory.runs_on(&n2, &cart));
        assert!(directory.pod(&gone[0]).is_none());
    }

    #[test]
    fn a_pod_without_an_account_has_the_default_one() {
        let directory = Directory::default();
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\nspec: {nodeName: n1, containers: [{name: c, image: c}]}\n";
        directory.learn(&pod(text));
        assert!(directory.runs_on(&"n1".into(), &NamespacedName::new("shop", "default")));
        let facts = directory.pod(&NamespacedName::new("shop", "p")).unwrap();
        assert_eq!(&*facts.uid, "");
    }
}
