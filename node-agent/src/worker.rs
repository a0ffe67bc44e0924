//! Brings one pod to where it must be, step by step, and keeps it there.
//!
//! `Pending → ProxyListening → Redirected → Draining → Gone`. Each step is
//! level-triggered: it looks at what is there and does what is missing, so it
//! may be dropped and begun again at any point, also by the agent's successor.

mod guard;
mod leave;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ambit_kube::Redirection;
use ambit_netns::NetNs;
use ambit_redirect::zds::{ProxyState, ZdsHandle};
use ambit_redirect::{Changes, Ensured, Found, RedirectError, Redirector, RuleSet};
use ambit_runtime::Backoff;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use self::guard::Guard;
use crate::board::{Board, Phase, PodStatus};
use crate::finder::{FindError, Finder};
use crate::inventory::{PodId, PodSpec, Wish};
use crate::metrics::{AgentMetrics, Event};

/// What all workers share.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) zds: ZdsHandle,
    pub(crate) redirector: Redirector,
    pub(crate) board: Board,
    pub(crate) metrics: AgentMetrics,
    pub(crate) finder: Finder,
    pub(crate) drain_bound: Duration,
}

/// One pod's worker.
pub(crate) struct Worker {
    id: PodId,
    tools: Tools,
    /// Dropped after the first look; see [`Worker::new`].
    settled: Option<mpsc::Sender<()>>,
    /// Rules that are found at the first look were put in by a predecessor.
    adopting: bool,
    /// A proxy has confirmed the pod since it was enrolled.
    confirmed: bool,
    /// When carried connections are cut, once it leaves.
    drain_until: Option<Instant>,
    backoff: Backoff,
}

/// A step that failed; it's tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Namespace(#[from] FindError),
    #[error("the pod's redirection")]
    Redirect(#[from] RedirectError),
    #[error("hear of changes of the pod's rules")]
    Watch(#[source] io::Error),
    #[error("the rules aren't what was just written")]
    NotVerified,
}

/// Why a step ended without an error.
enum Ended {
    /// What was wished is done.
    Done,
    /// The namespace is another one now, or is back.
    Again,
}

impl Worker {
    /// A worker of the first `settled` pods drops its sender when it has told
    /// the table of proxies and the board what it found.
    pub(crate) fn new(id: PodId, tools: Tools, settled: Option<mpsc::Sender<()>>) -> Self {
        Self {
            id,
            tools,
            adopting: settled.is_some(),
            settled,
            confirmed: false,
            drain_until: None,
            backoff: Backoff::new(FIRST_RETRY, MAX_RETRY).jitter(0.2),
        }
    }

    /// Follows the wish until the pod is over, which `None` says, and `retire`
    /// confirms: a pod may come back at that moment.
    pub(crate) async fn run(
        mut self,
        mut wish: watch::Receiver<Option<Wish>>,
        retire: impl Fn(&PodId) -> bool,
    ) {
        loop {
            let Some(current) = wish.borrow_and_update().clone() else {
                self.over();
                if retire(&self.id) {
                    return;
                }
                continue;
            };
            let pursued = tokio::select! {
                changed = wish.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                pursued = self.pursue(&current) => pursued,
            };
            let pause = match pursued {
                Ok(Ended::Again) => continue,
                Ok(Ended::Done) => None,
                Err(error) => {
                    self.failed(&current, &error);
                    Some(self.backoff.next_wait())
                }
            };
            tokio::select! {
                changed = wish.changed() => match changed {
                    Ok(()) => self.backoff.reset(),
                    Err(_) => return,
                },
                () = pause_for(pause) => {}
            }
        }
    }

    /// The pod is over, and its namespace with it: proxies drop it at once. Its
    /// rules stay to the end: what still runs in it is not let past policy.
    fn over(&mut self) {
        self.confirmed = false;
        self.drain_until = None;
        self.tools.zds.remove(&self.id);
        self.tools.board.wipe(&self.id);
        self.tools.metrics.reconciled(Event::Deleted);
        self.settle();
    }

    async fn pursue(&mut self, wish: &Wish) -> Result<Ended, StepError> {
        match wish {
            Wish::Serve(spec) => {
                self.drain_until = None;
                self.serve(spec).await
            }
            Wish::Leave(spec) => self.leave(spec).await,
        }
    }

    async fn serve(&mut self, spec: &PodSpec) -> Result<Ended, StepError> {
        let Some(place) = self.tools.finder.find(spec).await? else {
            return Ok(self.until_there(spec).await);
        };
        let ns = place.ns.clone();
        let wanted = RuleSet::Capture(spec.capture.clone());
        let mut changes = self.tools.zds.changes();
        let kernel = Changes::of(&ns).map_err(StepError::Watch)?;
        let captured = self.captured(&ns, &wanted).await?;
        self.confirmed |= std::mem::take(&mut self.adopting) && captured;
        let zds = &self.tools.zds;
        zds.insert(&self.id, spec.info.clone(), Some(ns.clone()));
        let (phase, redirection) = match (captured, self.confirmed) {
            (true, true) => (Phase::Redirected, Redirection::Enabled),
            (true, false) => (Phase::Redirected, Redirection::Pending),
            (false, _) => (Phase::Pending, Redirection::None),
        };
        self.post(spec, phase, redirection, None);
        self.settle();
        // Rules that are there already stay: closed while no proxy listens.
        if !captured {
            self.confirmed = false;
            self.until_listening(spec).await;
            self.post(spec, Phase::ProxyListening, Redirection::None, None);
        }
        let ensured = self.tools.redirector.ensure(&ns, &wanted).await?;
        if self.tools.redirector.look(&ns, &wanted).await? != Found::Wanted {
            return Err(StepError::NotVerified);
        }
        self.tools.metrics.reconciled(match (captured, ensured) {
            (false, _) => Event::Enrolled,
            (true, Ensured::Intact) => Event::Adopted,
            (true, Ensured::Written) => Event::Repaired,
        });
        self.backoff.reset();
        info!(pod = %spec.pod, adopted = captured, "redirected");
        let mut guard = Guard::new(&self.tools, place, wanted, kernel);
        loop {
            let proxy = self.tools.zds.state(&self.id);
            self.confirmed |= proxy == ProxyState::Listening;
            // Once confirmed it stays so: a proxy that is away for a moment is
            // no reason for its peers to fall back to plaintext.
            let redirection = if self.confirmed {
                Redirection::Enabled
            } else {
                Redirection::Pending
            };
            self.post(spec, Phase::Redirected, redirection, trouble(&proxy));
            let same = tokio::select! {
                watched = guard.watch(spec) => watched?,
                _ = changes.changed() => true,
            };
            if !same {
                self.confirmed = false;
                return Ok(Ended::Again);
            }
        }
    }

    /// Whether new connections are redirected already.
    async fn captured(&self, ns: &NetNs, wanted: &RuleSet) -> Result<bool, StepError> {
        let redirector = &self.tools.redirector;
        Ok(match redirector.look(ns, wanted).await? {
            Found::Wanted => true,
            Found::Nothing => false,
            // Either it was leaving, or the rules are damaged or of another shape.
            Found::Different => redirector.look(ns, &RuleSet::Drain).await? != Found::Wanted,
        })
    }

    async fn until_listening(&self, spec: &PodSpec) {
        let mut changes = self.tools.zds.changes();
        loop {
            let state = self.tools.zds.state(&self.id);
            if state == ProxyState::Listening {
                return;
            }
            self.post(spec, Phase::Pending, Redirection::None, trouble(&state));
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// No namespace, no pod: proxies drop it, and nothing is tried until there
    /// is one.
    async fn until_there(&mut self, spec: &PodSpec) -> Ended {
        self.confirmed = false;
        self.tools.zds.remove(&self.id);
        let named = spec.netns.as_deref().unwrap_or(Path::new(""));
        let missing = format!("no network namespace at {}", named.display());
        self.trouble(spec, Phase::Pending, missing);
        self.settle();
        while let Ok(None) = self.tools.finder.find(spec).await {
            sleep(PRESENCE_POLL).await;
        }
        Ended::Again
    }

    fn failed(&mut self, wish: &Wish, error: &StepError) {
        let (Wish::Serve(spec) | Wish::Leave(spec)) = wish;
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        self.tools.metrics.reconciled(Event::Retried);
        let known = self.tools.board.status(&self.id);
        if known.is_none() && matches!(wish, Wish::Serve(_)) {
            // A proxy that has the pod keeps it; its descriptor isn't at hand.
            self.tools.zds.insert(&self.id, spec.info.clone(), None);
        }
        let phase = known.map_or(Phase::Pending, |status| status.phase);
        self.trouble(spec, phase, text);
        self.settle();
    }

    fn trouble(&self, spec: &PodSpec, phase: Phase, text: String) {
        let before = self.tools.board.status(&self.id);
        if before.as_ref().and_then(|s| s.trouble.as_ref()) != Some(&text) {
            warn!(pod = %spec.pod, phase = phase.as_str(), trouble = text, "enrolment waits");
        }
        let redirection = match phase {
            Phase::Redirected => before.map_or(Redirection::None, |s| s.redirection),
            _ => Redirection::None,
        };
        self.post(spec, phase, redirection, Some(text));
    }

    fn post(
        &self,
        spec: &PodSpec,
        phase: Phase,
        redirection: Redirection,
        trouble: Option<String>,
    ) -> u64 {
        let status = PodStatus {
            pod: spec.pod.clone(),
            uid: Arc::clone(&spec.uid),
            phase,
            redirection,
            ips: spec.ips.clone(),
            trouble,
        };
        self.tools.board.post(&self.id, status)
    }

    fn settle(&mut self) {
        self.settled = None;
    }
}

fn trouble(state: &ProxyState) -> Option<String> {
    match state {
        ProxyState::Listening => None,
        ProxyState::Refused(why) => Some(format!("the proxy refused the pod: {why}")),
        ProxyState::Unreachable | ProxyState::Unknown => {
            Some("no proxy has confirmed the pod yet".to_owned())
        }
    }
}

async fn pause_for(pause: Option<Duration>) {
    match pause {
        Some(pause) => sleep(pause).await,
        None => std::future::pending().await,
    }
}

const FIRST_RETRY: Duration = Duration::from_millis(50);
const MAX_RETRY: Duration = Duration::from_secs(5);
/// How often the path of a namespace is looked at.
const PRESENCE_POLL: Duration = Duration::from_secs(1);
