//! `istio_tcp_*`: one series set per label set, resolved when a flow opens, so
//! that nothing is looked up or formatted while it runs.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use ambit_types::{Direction, FlowReason, ResponseFlag};
use parking_lot::{Mutex, RwLock};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::labels::{Flagged, TrafficLabels};

/// Counters of all flows with one label set. Shared by those flows.
#[derive(Debug, Default)]
pub struct Series {
    opened: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    // Few flags ever occur on one label set.
    closed: Mutex<Vec<(ResponseFlag, u64)>>,
    failed: Mutex<Vec<(ResponseFlag, u64)>>,
}

impl Series {
    /// Adds bytes that went from the client to the server.
    pub fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes that went from the server to the client.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The flow ended, with the reason if it was refused or cut.
    pub fn closed(&self, reason: Option<FlowReason>) {
        let flag = reason.map_or(ResponseFlag::None, FlowReason::flag);
        bump(&self.closed, flag);
        if flag != ResponseFlag::None {
            bump(&self.failed, flag);
        }
    }
}

fn bump(counts: &Mutex<Vec<(ResponseFlag, u64)>>, flag: ResponseFlag) {
    let mut counts = counts.lock();
    match counts.iter_mut().find(|(f, _)| *f == flag) {
        Some((_, count)) => *count += 1,
        None => counts.push((flag, 1)),
    }
}

/// The traffic metrics of a proxy. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct TrafficMetrics {
    series: Arc<RwLock<HashMap<TrafficLabels, Arc<Series>>>>,
}

impl TrafficMetrics {
    /// Counts a flow as opened and returns its series. The flow must call
    /// [`Series::closed`] once.
    pub fn open(&self, labels: TrafficLabels) -> Arc<Series> {
        let known = self.series.read().get(&labels).cloned();
        let series =
            known.unwrap_or_else(|| Arc::clone(self.series.write().entry(labels).or_default()));
        series.opened.fetch_add(1, Ordering::Relaxed);
        series
    }
}

type Rows = Vec<(TrafficLabels, Vec<(ResponseFlag, u64)>)>;

impl TrafficMetrics {
    fn rows(&self, of: impl Fn(&Series) -> Vec<(ResponseFlag, u64)>) -> Rows {
        let series = self.series.read();
        series
            .iter()
            .map(|(labels, s)| (labels.clone(), of(s)))
            .collect()
    }
}

impl Collector for TrafficMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let plain = |value: &AtomicU64| vec![(ResponseFlag::None, value.load(Ordering::Relaxed))];
        let families: [(&str, &str, Rows); 5] = [
            (
                "istio_tcp_connections_opened",
                "The total number of TCP connections opened",
                self.rows(|s| plain(&s.opened)),
            ),
            (
                "istio_tcp_connections_closed",
                "The total number of TCP connections closed",
                self.rows(|s| s.closed.lock().clone()),
            ),
            (
                "istio_tcp_received_bytes",
                "The size of total bytes received during request in case of a TCP connection",
                self.rows(|s| plain(&s.received)),
            ),
            (
                "istio_tcp_sent_bytes",
                "The size of total bytes sent during response in case of a TCP connection",
                self.rows(|s| plain(&s.sent)),
            ),
            (
                "istio_tcp_connections_failed",
                "The total number of TCP connections that failed (unstable)",
                self.rows(|s| s.failed.lock().clone()),
            ),
        ];
        for (name, help, rows) in families {
            if rows.iter().all(|(_, counts)| counts.is_empty()) {
                continue;
            }
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, counts) in &rows {
                for (flag, count) in counts {
                    family
                        .encode_family(&Flagged(labels, *flag))?
                        .encode_counter::<NoLabelSet, _, u64>(count, None)?;
                }
            }
        }
        Ok(())
    }
}

/// `istio_tcp_sockets_open`: accepted sockets of each side.
#[derive(Debug, Clone, Default)]
pub struct SocketsOpen {
    inbound: Arc<AtomicI64>,
    outbound: Arc<AtomicI64>,
}

/// Counts one accepted socket while it lives.
#[derive(Debug)]
pub struct SocketGuard(Arc<AtomicI64>);

impl SocketsOpen {
    /// Counts a socket until the guard is dropped.
    pub fn accepted(&self, direction: Direction) -> SocketGuard {
        let gauge = match direction {
            Direction::Inbound => Arc::clone(&self.inbound),
            Direction::Outbound => Arc::clone(&self.outbound),
        };
        gauge.fetch_add(1, Ordering::Relaxed);
        SocketGuard(gauge)
    }
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Collector for SocketsOpen {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "istio_tcp_sockets_open",
            "The number of sockets that are open (unstable)",
            None,
            MetricType::Gauge,
        )?;
        for (direction, gauge) in [
            (Direction::Inbound, &self.inbound),
            (Direction::Outbound, &self.outbound),
        ] {
            family
                .encode_family(&[("reporter", direction.reporter())])?
                .encode_gauge(&gauge.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}

/// `ambit_refusals_total`: every refused or cut flow and handshake, by reason,
/// those that have no traffic series included. Upstream has no such metric.
#[derive(Debug, Clone, Default)]
pub struct RefusalMetrics {
    counts: Arc<RwLock<HashMap<(Direction, &'static str), AtomicU64>>>,
}

impl RefusalMetrics {
    /// Counts one, under the reason's name.
    pub fn count(&self, direction: Direction, reason: FlowReason) {
        self.count_as(direction, reason.as_str());
    }

    /// Counts one under a finer name, which must come from a closed list.
    pub fn count_as(&self, direction: Direction, reason: &'static str) {
        let key = (direction, reason);
        if let Some(count) = self.counts.read().get(&key) {
            count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.counts
            .write()
            .entry(key)
            .or_default()
            .fetch_add(1, Ordering::Relaxed);
    }

    /// How many were counted under a name.
    pub fn value(&self, direction: Direction, reason: &'static str) -> u64 {
        let counts = self.counts.read();
        counts
            .get(&(direction, reason))
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl Collector for RefusalMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.counts.read();
        if counts.is_empty() {
            return Ok(());
        }
        let mut family = encoder.encode_descriptor(
            "ambit_refusals",
            "Flows and handshakes that were refused or cut, by reason (unstable)",
            None,
            MetricType::Counter,
        )?;
        for ((direction, reason), count) in counts.iter() {
            family
                .encode_family(&[("reporter", direction.reporter()), ("reason", *reason)])?
                .encode_counter::<NoLabelSet, _, u64>(&count.load(Ordering::Relaxed), None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
