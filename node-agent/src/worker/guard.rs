//! Keeps a pod's rules as they must be, whatever else happens to them.

use std::time::Duration;

use ambit_netns::NetNs;
use ambit_redirect::{Changes, Ensured, RuleSet};
use ambit_runtime::Backoff;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::{PRESENCE_POLL, StepError, Tools};
use crate::finder::Place;
use crate::inventory::PodSpec;
use crate::metrics::Event;

/// Keeps a rule set in force.
pub(super) struct Guard {
    tools: Tools,
    place: Place,
    wanted: RuleSet,
    kernel: Changes,
    look_again: Instant,
    pace: Backoff,
    repaired: Instant,
}

impl Guard {
    pub(super) fn new(tools: &Tools, place: Place, wanted: RuleSet, kernel: Changes) -> Self {
        let now = Instant::now();
        Self {
            tools: tools.clone(),
            place,
            wanted,
            kernel,
            look_again: now + slow_poll(),
            pace: Backoff::new(FIRST_PACE, MAX_PACE),
            repaired: now,
        }
    }

    /// Waits for something to look at, and looks. False if the pod's namespace
    /// is another one, or gone.
    ///
    /// Cancel safe: what a dropped call didn't look at is looked at by the
    /// next, since it begins with the poll that is due.
    pub(super) async fn watch(&mut self, spec: &PodSpec) -> Result<bool, StepError> {
        let look_again = self.look_again;
        tokio::select! {
            heard = self.kernel.next() => heard.map_err(StepError::Watch)?,
            () = sleep_until(look_again) => {}
            () = sleep(PRESENCE_POLL) => return Ok(self.is_there(spec).await),
        }
        self.look_again = Instant::now();
        if self
            .tools
            .redirector
            .ensure(&self.place.ns, &self.wanted)
            .await?
            == Ensured::Written
        {
            warn!(pod = %spec.pod, "something had changed the rules; they are repaired");
            self.tools.metrics.reconciled(Event::Repaired);
            self.slow_down().await;
        }
        self.look_again = Instant::now() + slow_poll();
        Ok(self.is_there(spec).await)
    }

    /// Whoever fights over the rules gets an answer at once, then at a pace.
    async fn slow_down(&mut self) {
        let now = Instant::now();
        if now - self.repaired > CALM {
            self.pace.reset();
        }
        self.repaired = now;
        sleep(self.pace.next_wait()).await;
    }

    /// A path that was named goes with the namespace. A process may end and
    /// leave it: only another namespace says that this one is over.
    async fn is_there(&mut self, spec: &PodSpec) -> bool {
        let opened = NetNs::open(&self.place.path);
        if opened.is_ok_and(|ns| ns.id() == self.place.ns.id()) {
            return true;
        }
        if !self.place.by_process {
            return false;
        }
        match self.tools.finder.find(spec).await {
            Ok(Some(place)) if place.ns.id() == self.place.ns.id() => {
                self.place = place;
                true
            }
            Ok(Some(_)) => false,
            Ok(None) | Err(_) => true,
        }
    }
}

/// Spread, so that a node's pods aren't all looked at in one moment.
fn slow_poll() -> Duration {
    Backoff::new(SLOW_POLL, SLOW_POLL).jitter(0.3).next_wait()
}

/// Besides notifications, which the kernel may drop.
const SLOW_POLL: Duration = Duration::from_secs(30);
const FIRST_PACE: Duration = Duration::from_millis(5);
const MAX_PACE: Duration = Duration::from_secs(1);
const CALM: Duration = Duration::from_secs(10);
