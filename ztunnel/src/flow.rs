//! The connections that run: each is registered before its first policy check,
//! can be cut from outside, and ends in exactly one record.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ambit_net::{Meter, Transfer};
use ambit_telemetry::{RefusalMetrics, Series, TrafficMetrics};
use ambit_types::Direction;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::FlowError;
use crate::report::{self, Facts};

/// A connection whose two ends are known.
pub(crate) struct Flow {
    pub(crate) facts: Facts,
    /// Bytes, counted by the relay.
    pub(crate) meter: Meter,
    series: Arc<Series>,
    started: Instant,
    // What the series has been told of the meter so far.
    told: [AtomicU64; 2],
    cut: Notify,
}

/// What every record of a thread goes through.
#[derive(Clone, Default)]
pub(crate) struct Telling {
    pub(crate) traffic: TrafficMetrics,
    pub(crate) refusals: RefusalMetrics,
}

/// The flows of one pod on one data thread. The lock is taken by that thread,
/// when a flow opens and ends, and by the admin server's dump.
#[derive(Default)]
pub(crate) struct Flows {
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    next: u64,
    flows: HashMap<u64, Arc<Flow>>,
}

impl Flows {
    /// Opens a flow: counted as opened, registered, visible to re-evaluation.
    pub(crate) fn open(self: &Arc<Self>, facts: Facts, telling: &Telling) -> OpenFlow {
        let series = telling.traffic.open(report::labels(&facts));
        let flow = Arc::new(Flow {
            meter: Meter::default(),
            series,
            started: facts.accepted,
            told: [AtomicU64::new(0), AtomicU64::new(0)],
            cut: Notify::new(),
            facts,
        });
        report::opened(&flow.facts);
        let mut running = self.running.lock();
        let id = running.next;
        running.next += 1;
        running.flows.insert(id, Arc::clone(&flow));
        drop(running);
        OpenFlow {
            id,
            flow,
            registry: Arc::clone(self),
            refusals: telling.refusals.clone(),
            ended: false,
        }
    }

    /// Every flow that runs.
    pub(crate) fn running(&self) -> Vec<Arc<Flow>> {
        self.running.lock().flows.values().cloned().collect()
    }

    /// Brings the byte counters up to now, for a scrape.
    pub(crate) fn tell_bytes(&self) {
        for flow in self.running.lock().flows.values() {
            flow.tell_bytes();
        }
    }
}

impl Flow {
    /// Ends it from outside: policy turned against it.
    pub(crate) fn cut(&self) {
        self.cut.notify_one();
    }

    /// Pending until [`cut`](Self::cut).
    ///
    /// # Cancel safety
    /// Safe: a cut that comes while nobody waits is kept.
    pub(crate) async fn was_cut(&self) {
        self.cut.notified().await;
    }

    fn tell_bytes(&self) -> Transfer {
        let now = self.meter.transfer();
        let since =
            |told: &AtomicU64, now: u64| now.saturating_sub(told.swap(now, Ordering::Relaxed));
        let [received, sent] = &self.told;
        self.series.add_received(since(received, now.received));
        self.series.add_sent(since(sent, now.sent));
        now
    }
}

/// A flow's own hold on its registration. Its end is its record: one access
/// log line and one metric update, also when its task is dropped.
pub(crate) struct OpenFlow {
    id: u64,
    flow: Arc<Flow>,
    registry: Arc<Flows>,
    refusals: RefusalMetrics,
    ended: bool,
}

impl OpenFlow {
    /// The shared half.
    pub(crate) fn flow(&self) -> &Arc<Flow> {
        &self.flow
    }

    /// The one record.
    pub(crate) fn end(mut self, result: Result<(), FlowError>) {
        self.record(result.err());
    }

    fn record(&mut self, error: Option<FlowError>) {
        self.ended = true;
        self.registry.running.lock().flows.remove(&self.id);
        let transfer = self.flow.tell_bytes();
        self.flow
            .series
            .closed(error.as_ref().map(FlowError::reason));
        if let Some(error) = &error {
            self.refusals
                .count_as(self.flow.facts.direction, error.name());
        }
        report::complete(
            &self.flow.facts,
            transfer,
            self.flow.started.elapsed(),
            error.as_ref(),
        );
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        if !self.ended {
            self.record(Some(FlowError::Drained));
        }
    }
}

/// A connection that is refused before its ends are known: no traffic series
/// (`ztunnel-contract` 3.2), but a line, and a count by reason.
pub(crate) fn refuse(
    telling: &Telling,
    direction: Direction,
    src: SocketAddr,
    dst: SocketAddr,
    error: &FlowError,
) {
    telling.refusals.count_as(direction, error.name());
    report::failed(src, dst, direction, error);
}

#[cfg(test)]
mod tests;
