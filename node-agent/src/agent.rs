//! Keeps the inventory, and one worker for each pod.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ambit_kube::Change;
use ambit_runtime::Scope;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::board::PodStatus;
use crate::finder::FindError;
use crate::inventory::{
    Admission, Inventory, Observed, PodId, PodName, PodSpec, SandboxPlace, Wish,
};
use crate::worker::{StepError, Tools, Worker};

/// The agent's state. Clones share it.
#[derive(Clone)]
pub(crate) struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    tools: Tools,
    scope: Scope,
    /// Counts batches of changes.
    applied: watch::Sender<u64>,
}

struct State {
    inventory: Inventory,
    workers: HashMap<PodId, watch::Sender<Option<Wish>>>,
    /// Until everything that was there at the start is known, nothing is done:
    /// a pod without its namespace's label would look like one that left.
    synced: bool,
    /// Held by the workers of the pods that were there at the start.
    settling: Option<mpsc::Sender<()>>,
}

impl Agent {
    /// The receiver ends when every pod that was there at the start has been
    /// looked at.
    pub(crate) fn new(
        inventory: Inventory,
        tools: Tools,
        scope: Scope,
    ) -> (Self, mpsc::Receiver<()>) {
        let (settling, settled) = mpsc::channel(1);
        let state = State {
            inventory,
            workers: HashMap::new(),
            synced: false,
            settling: Some(settling),
        };
        let state = Mutex::new(state);
        let inner = Arc::new(Inner {
            state,
            tools,
            scope,
            applied: watch::Sender::new(0),
        });
        (Self { inner }, settled)
    }

    /// Takes a batch of changes.
    pub(crate) fn apply(&self, changes: Vec<Change>) {
        let mut state = self.state();
        for change in changes {
            state.synced |= change == Change::Synced;
            state.inventory.apply(change);
        }
        self.reconcile(&mut state);
        drop(state);
        self.inner.applied.send_modify(|count| *count += 1);
    }

    /// Hears of every batch of changes.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.inner.applied.subscribe()
    }

    /// What the annotation says of each pod that may be written to.
    pub(crate) fn annotated(&self) -> Vec<Observed> {
        self.state().inventory.annotated()
    }

    /// The CNI plugin made a pod's namespace.
    pub(crate) fn sandbox_added(&self, pod: &PodName, sandbox: SandboxPlace) {
        let mut state = self.state();
        state.inventory.sandbox_added(pod, sandbox);
        self.reconcile(&mut state);
    }

    /// The CNI plugin takes a pod's namespace away.
    pub(crate) fn sandbox_removed(&self, pod: &PodName, container: Option<&str>) {
        let mut state = self.state();
        state.inventory.sandbox_removed(pod, container);
        self.reconcile(&mut state);
    }

    /// Whether a pod that starts must be held.
    pub(crate) fn admission(&self, pod: &PodName, uid: Option<&str>) -> (Admission, Option<PodId>) {
        let state = self.state();
        if !state.synced {
            return (Admission::Unknown, None);
        }
        state.inventory.admission(pod, uid)
    }

    /// Waits until a pod's status is as asked.
    pub(crate) async fn until(&self, id: &PodId, reached: impl Fn(&PodStatus) -> bool) {
        let mut changes = self.inner.tools.board.changes();
        while !self.status(id).is_some_and(|status| reached(&status)) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    pub(crate) fn status(&self, id: &PodId) -> Option<PodStatus> {
        self.inner.tools.board.status(id)
    }

    /// Ends at once what the workers, which have ended, had begun: takes the
    /// rules out of pods that were leaving. For an agent without a successor;
    /// pods that are enrolled stay closed.
    pub(crate) async fn finish_leaving(&self) {
        let wishes = self.state().inventory.wishes();
        for wish in wishes.into_values() {
            let Wish::Leave(spec) = wish else { continue };
            if let Err(error) = self.leave_at_once(&spec).await {
                warn!(pod = %spec.pod, error = %error, "its rules stay");
            }
        }
    }

    async fn leave_at_once(&self, spec: &PodSpec) -> Result<(), StepError> {
        let tools = &self.inner.tools;
        let place = match tools.finder.find(spec).await {
            Ok(Some(place)) => place,
            Ok(None) | Err(FindError::Unnamed | FindError::HostNamespace) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if tools.redirector.any(&place.ns).await? {
            tools.redirector.remove(&place.ns).await?;
            info!(pod = %spec.pod, "left at once; nothing of ours is in it");
        }
        Ok(())
    }

    fn reconcile(&self, state: &mut State) {
        if !state.synced {
            return;
        }
        let mut wishes: BTreeMap<PodId, Wish> = state.inventory.wishes();
        for (id, worker) in &state.workers {
            let wish = wishes.remove(id);
            worker.send_if_modified(|current| {
                let news = *current != wish;
                *current = wish;
                news
            });
        }
        for (id, wish) in wishes {
            let (sender, receiver) = watch::channel(Some(wish));
            let settled = state.settling.clone();
            let worker = Worker::new(Arc::clone(&id), self.inner.tools.clone(), settled);
            let agent = self.clone();
            let task = worker.run(receiver, move |id| agent.retire(id));
            self.inner.scope.spawn("pod", task);
            state.workers.insert(id, sender);
        }
        state.settling = None;
    }

    /// True if a pod that was over still is; its worker may end.
    fn retire(&self, id: &PodId) -> bool {
        let mut state = self.state();
        let over = state
            .workers
            .get(id)
            .is_none_or(|wish| wish.borrow().is_none());
        if over {
            state.workers.remove(id);
        }
        over
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
