//! A pod's way out: new connections go direct at once, those that the proxy
//! carries are carried to their end or to a bound, then no trace is left.

use ambit_kube::Redirection;
use ambit_netns::NetNs;
use ambit_redirect::{Changes, RuleSet, live_connections};
use ambit_runtime::Backoff;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::info;

use super::guard::Guard;
use super::{Ended, StepError, Worker};
use crate::board::Phase;
use crate::finder::FindError;
use crate::inventory::PodSpec;
use crate::metrics::Event;

impl Worker {
    pub(super) async fn leave(&mut self, spec: &PodSpec) -> Result<Ended, StepError> {
        self.confirmed = false;
        let place = match self.tools.finder.find(spec).await {
            Ok(Some(place)) => place,
            // Never enrolled, as far as anybody can tell, or gone with its namespace.
            Ok(None) | Err(FindError::Unnamed | FindError::HostNamespace) => {
                self.gone(spec);
                return Ok(Ended::Done);
            }
            Err(error) => return Err(error.into()),
        };
        let ns = place.ns.clone();
        if !self.tools.redirector.any(&ns).await? {
            self.gone(spec);
            return Ok(Ended::Done);
        }
        let now = Instant::now();
        let bound = self.tools.drain_bound;
        if self.drain_until.is_none() {
            self.tools.metrics.reconciled(Event::Draining);
            info!(pod = %spec.pod, ?bound, "leaves; connections that are carried have that long");
        }
        let until = *self.drain_until.get_or_insert(now + bound);
        // The proxy stays, also if it's told by this agent for the first time.
        let zds = &self.tools.zds;
        zds.insert(&self.id, spec.info.clone(), Some(ns.clone()));
        let version = self.post(spec, Phase::Draining, Redirection::None, None);
        let kernel = Changes::of(&ns).map_err(StepError::Watch)?;
        self.settle();
        self.tools.redirector.ensure(&ns, &RuleSet::Drain).await?;
        self.backoff.reset();

        let mut guard = Guard::new(&self.tools, place, RuleSet::Drain, kernel);
        let there = tokio::select! {
            drained = self.drained(&ns, version, until) => drained.map(|()| true),
            lost = guarded(&mut guard, spec) => lost.map(|()| false),
        };
        if !there? {
            self.gone(spec);
            return Ok(Ended::Done);
        }
        self.tools.zds.remove(&self.id);
        self.until_dropped().await;
        self.tools.redirector.remove(&ns).await?;
        self.tools.metrics.reconciled(Event::Left);
        info!(pod = %spec.pod, "left; nothing of ours is in it");
        self.gone(spec);
        Ok(Ended::Done)
    }

    /// Waits until peers know and nothing is carried, or for the bound.
    async fn drained(&self, ns: &NetNs, version: u64, until: Instant) -> Result<(), StepError> {
        // A peer that hasn't heard dials HBONE: the proxy must still be there.
        let heard = self.tools.board.acknowledged(version);
        if timeout_at(until, heard).await.is_ok() {
            sleep_until(until.min(Instant::now() + SETTLE)).await;
        }
        let mut pace = Backoff::new(FIRST_POLL, MAX_POLL);
        while Instant::now() < until {
            if live_connections(ns).await? == 0 {
                return Ok(());
            }
            sleep(pace.next_wait()).await;
        }
        let cut = live_connections(ns).await?;
        if cut > 0 {
            info!(
                cut,
                "connections that are still carried at the bound are cut"
            );
        }
        Ok(())
    }

    async fn until_dropped(&self) {
        let mut changes = self.tools.zds.changes();
        let dropped = async {
            while self.tools.zds.removal_pending(&self.id) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // A proxy that doesn't answer loses its connection in that time anyway.
        let _ = timeout(DROP_DEADLINE, dropped).await;
    }

    fn gone(&mut self, spec: &PodSpec) {
        self.drain_until = None;
        self.tools.zds.remove(&self.id);
        // A pod that was never enrolled isn't on the board.
        if self.tools.board.status(&self.id).is_some() {
            self.post(spec, Phase::Gone, Redirection::None, None);
        }
        self.settle();
    }
}

/// Returns when the namespace is gone.
async fn guarded(guard: &mut Guard, spec: &PodSpec) -> Result<(), StepError> {
    while guard.watch(spec).await? {}
    Ok(())
}

/// What peers' control plane needs to tell them, generously.
const SETTLE: Duration = Duration::from_secs(2);
const FIRST_POLL: Duration = Duration::from_millis(100);
const MAX_POLL: Duration = Duration::from_secs(2);
const DROP_DEADLINE: Duration = Duration::from_secs(10);
