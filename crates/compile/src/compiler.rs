//! The compiler: changes in, deltas out, and questions about what is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ambit_kube::{Change, Kind, Located, Object, ObjectKey, Problem};
use ambit_types::NamespacedName;

use crate::derive::{self, Derived, claims};
use crate::dirty::{Dirty, Sending, Unit};
use crate::facts::Facts;
use crate::ingest::{Ingest, Spread};
use crate::outputs::{Output, Outputs};
use crate::reads::{Read, Readers};
use crate::store::{Space, Store};
use crate::view::View;
use crate::vips::Vips;
use crate::waypoint::{Audiences, GATEWAY_NAME};
use crate::{Delta, Diagnostic, Rendered, Settings, Snapshot, Status};

/// Turns objects into what proxies need, one change at a time.
///
/// Every output is a function of the objects that are in force, so any order of changes ends in the same state. The
/// exceptions are deliberate: a policy, and a mesh configuration, that can't be used keeps its last good form, and
/// that depends on what was there before.
#[derive(Debug)]
pub struct Compiler {
    store: Store,
    facts: Facts,
    readers: Readers,
    audiences: Audiences,
    outputs: Outputs,
    derived: u64,
    vips: Vips,
    problems: Vec<Problem>,
    /// What was learnt and isn't derived yet.
    learnt: Dirty,
    new_problems: bool,
}

/// What is known of a pod, for whoever must judge its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRecord {
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `default` where the manifest names none.
    pub service_account: Arc<str>,
    /// Empty until it is scheduled.
    pub node: Arc<str>,
    /// Phase `Succeeded` or `Failed`.
    pub terminal: bool,
}

impl Compiler {
    /// A compiler that knows no object yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            store: Store::new(settings),
            facts: Facts::default(),
            readers: Readers::default(),
            audiences: Audiences::default(),
            outputs: Outputs::default(),
            derived: 0,
            vips: Vips::default(),
            problems: Vec::new(),
            learnt: Dirty::default(),
            new_problems: false,
        }
    }

    /// Takes changes in and gives what they make of the output, all at once.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Delta {
        self.learn(changes);
        self.derive_learnt();
        let mut delta = self.outputs.delta();
        delta.diagnostics |= std::mem::take(&mut self.new_problems);
        delta
    }

    /// Takes changes in for a later [`apply`](Self::apply): what is read of the objects is kept, and the objects
    /// themselves needn't be.
    pub fn learn(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            let mut ingest = Ingest {
                store: &mut self.store,
                dirty: &mut self.learnt,
                readers: &self.readers,
            };
            match change {
                Change::Apply(object) => ingest.apply(object),
                Change::Delete(key) => ingest.delete(&key),
                Change::Redirection {
                    namespace,
                    name,
                    uid,
                    state,
                } => ingest.redirection(NamespacedName::new(namespace, name), uid, state),
                Change::Problems(problems) => {
                    self.new_problems |= self.problems != problems;
                    self.problems = problems;
                }
                Change::Synced => {}
            }
        }
    }

    /// Derives what was learnt, so that [`wanted`](Self::wanted) says what that needs; the next
    /// [`apply`](Self::apply) gives what came of it.
    pub fn derive_learnt(&mut self) {
        let learnt = std::mem::take(&mut self.learnt);
        self.derive(learnt);
    }

    /// The Secrets and ConfigMaps that objects in force refer to, whether or not they are there.
    pub fn wanted(&self) -> &BTreeSet<ObjectKey> {
        self.readers.data()
    }

    fn derive(&mut self, mut dirty: Dirty) {
        while let Some((unit, sending)) = dirty.pop() {
            self.derived = self.derived.saturating_add(1);
            if let Unit::Host(host) = &unit {
                // Hosts sort before addresses, so each address is looked at once, after all of its hosts.
                for net in self.vips.replace(host, claims(&self.store, host)) {
                    dirty.mark(Unit::Vip(net));
                }
            }
            let view = View::new((&self.store, &self.facts), &self.vips, &self.audiences);
            let derived = derive::derive(&view, &self.outputs, &unit);
            self.readers.replace(&unit, view.into_reads());
            match derived {
                Derived::Output(output) => self.take(&unit, *output, sending, &mut dirty),
                Derived::Waypoint(at, fact) => {
                    if self.facts.replace_waypoint(&at, fact.map(|fact| *fact)) {
                        self.readers.touch(&Read::Waypoint(at.clone()), &mut dirty);
                        self.readers.touch(&Read::Waypoints, &mut dirty);
                        let (namespace, name) = (&*at.namespace, &*at.name);
                        dirty.object(ObjectKey::new(Kind::Gateway, namespace, name));
                        dirty.mark(Unit::Gateway(at));
                    }
                }
                Derived::Services(host, facts) => {
                    for difference in self.facts.replace_host(&host, facts) {
                        let mut spread = Spread {
                            store: &self.store,
                            readers: &self.readers,
                            dirty: &mut dirty,
                        };
                        spread.service(&host, &difference);
                    }
                }
            }
        }
    }

    /// Puts what a unit gives in its place, and marks what follows from resources rather than from objects.
    fn take(&mut self, unit: &Unit, mut output: Output, sending: Sending, dirty: &mut Dirty) {
        let uses = std::mem::take(&mut output.uses);
        let members = self.outputs.replace(unit, output, sending);
        for service in members {
            if self.audiences.has(&service) {
                dirty.mark(Unit::Endpoints(Arc::clone(&service)));
            }
            let known = service.split_once('/');
            let fact = known.and_then(|(namespace, host)| self.facts.service(namespace, host));
            if fact.is_some_and(|fact| fact.guarded) {
                dirty.mark(Unit::Guard(service));
            }
        }
        for service in self.audiences.replace(unit, uses) {
            dirty.mark(Unit::Backend(Arc::clone(&service)));
            dirty.mark(Unit::Endpoints(service));
        }
    }

    /// What would be said of an object if it were applied now, among all others; empty for kinds on which too much
    /// hangs. Nothing is changed by it, and its cost is that of the one object.
    pub fn preview(&mut self, object: Located<Object>) -> Vec<Diagnostic> {
        let key = object.object.key();
        if !Ingest::tries(key.kind) {
            return Vec::new();
        }
        let hosts = match &object.object {
            Object::ServiceEntry(entry) => entry.spec.hosts.clone(),
            _ => Vec::new(),
        };
        // Marks of the object's coming and going: nothing has changed once it is gone.
        let mut dirty = Dirty::default();
        let mut ingest = Ingest {
            store: &mut self.store,
            dirty: &mut dirty,
            readers: &self.readers,
        };
        let saved = ingest.save(&key);
        ingest.apply(object);
        let view = View::new((&self.store, &self.facts), &self.vips, &self.audiences);
        let hosts = hosts.iter().map(|host| Unit::Host(host.as_str().into()));
        let units = hosts.chain([Unit::Object(key.clone())]);
        let mut said: Vec<Diagnostic> = units
            .flat_map(|unit| match derive::derive(&view, &self.outputs, &unit) {
                Derived::Output(output) => output.diagnostics,
                Derived::Waypoint(..) | Derived::Services(..) => Vec::new(),
            })
            .filter(|told| told.key.as_ref() == Some(&key))
            .collect();
        drop(view);
        let mut ingest = Ingest {
            store: &mut self.store,
            dirty: &mut dirty,
            readers: &self.readers,
        };
        ingest.restore(&key, saved);
        said.dedup();
        said
    }

    /// Everything that is in force, by name.
    pub fn snapshot(&self) -> Snapshot {
        self.outputs.snapshot()
    }

    /// What is wrong or doubtful: the source's problems and the compiler's own, in the order of their places.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let own = self.outputs.diagnostics();
        let mut all: Vec<&Diagnostic> = self.problems.iter().chain(own).collect();
        all.sort_by(|a, b| {
            (&a.origin, &a.key, a.code, &a.field).cmp(&(&b.origin, &b.key, b.code, &b.field))
        });
        all.dedup();
        all.into_iter().cloned().collect()
    }

    /// The status of each object that has one.
    pub fn statuses(&self) -> &BTreeMap<ObjectKey, Arc<Status>> {
        self.outputs.statuses()
    }

    /// How many parts of the output were derived since the compiler began: what changes cost.
    pub fn derivations(&self) -> u64 {
        self.derived
    }

    /// How many objects were compared with labels or selectors since the compiler began, in the namespaces that there
    /// are: with [`derivations`](Self::derivations) what changes cost.
    pub fn comparisons(&self) -> u64 {
        let spaces = self.store.spaces.values();
        spaces.map(Space::comparisons).sum()
    }

    /// The trust domain that holds.
    pub fn trust_domain(&self) -> &Arc<str> {
        &self.store.mesh.trust_domain
    }

    /// The namespace whose policies hold for the whole mesh.
    pub fn root_namespace(&self) -> &Arc<str> {
        &self.store.mesh.root_namespace
    }

    /// What runs for each waypoint, by `namespace/gateway`.
    pub fn rendered(&self) -> &BTreeMap<Arc<str>, Arc<Rendered>> {
        self.outputs.rendered()
    }

    /// The waypoint that a pod is an instance of, as `namespace/gateway`: told by its label, if that Gateway is a
    /// waypoint. The audience of a stream is to be taken from here (ADR 0009).
    pub fn waypoint_of_pod(&self, namespace: &str, name: &str) -> Option<Arc<str>> {
        let pod = self.store.known_pod(namespace, name)?;
        let gateway = pod.labels.get(GATEWAY_NAME)?;
        let key = Arc::from(format!("{namespace}/{gateway}"));
        self.outputs.rendered().contains_key(&key).then_some(key)
    }

    /// The waypoint whose pods run under a service account, for callers that are known by no pod.
    pub fn waypoint_of_account(&self, namespace: &str, account: &str) -> Option<Arc<str>> {
        let of = |rendered: &Rendered| {
            *rendered.gateway.namespace == *namespace
                && rendered.service_account.metadata.name.as_deref() == Some(account)
        };
        let mut all = self.outputs.rendered().iter();
        all.find(|(_, rendered)| of(rendered))
            .map(|(key, _)| Arc::clone(key))
    }

    /// A pod, whether or not it has an address, and whether or not its namespace is discovered.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<PodRecord> {
        let pod = self.store.known_pod(namespace, name)?;
        Some(PodRecord {
            uid: Arc::clone(&pod.uid),
            service_account: pod.account().into(),
            node: Arc::clone(&pod.node),
            terminal: pod.terminal,
        })
    }

    /// Whether a pod of this identity runs, or is about to run, on a node.
    pub fn identity_runs_on_node(&self, namespace: &str, account: &str, node: &str) -> bool {
        let pods = self.store.pods_on_node.get(node).into_iter().flatten();
        let mut pods = pods.filter(|pod| *pod.namespace == *namespace);
        pods.any(|at| {
            let pod = self.store.known_pod(namespace, &at.name);
            pod.is_some_and(|pod| !pod.terminal && pod.account() == account)
        })
    }
}
