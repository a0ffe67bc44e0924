//! What the rest of the process may see of the enrolled pods: `workloadState`
//! of `config_dump`, and the `workload_manager_*` metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_redirect::zds::WorkloadInfo;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use tokio::sync::watch;

/// Whether a pod's proxy listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodState {
    /// It doesn't yet; it is tried again.
    Pending,
    /// It does.
    Up,
}

impl PodState {
    /// As `workloadState` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Up => "Up",
        }
    }
}

/// The enrolled pods. Clones share them.
#[derive(Debug, Clone)]
pub struct Board {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<watch::Sender<()>>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            inner: Arc::default(),
            changed: Arc::new(watch::Sender::new(())),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    pods: BTreeMap<String, (WorkloadInfo, PodState)>,
    started: u64,
    stopped: u64,
}

/// Values of the `workload_manager_*` metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Proxies that listen.
    pub active: usize,
    /// Proxies that don't yet.
    pub pending: usize,
    /// Starts so far.
    pub started: u64,
    /// Stops so far.
    pub stopped: u64,
}

impl Board {
    pub(super) fn set(&self, uid: &str, info: &WorkloadInfo, state: PodState) {
        let mut inner = self.inner.lock();
        inner.started += u64::from(state == PodState::Up);
        inner.pods.insert(uid.to_owned(), (info.clone(), state));
        drop(inner);
        self.changed.send_replace(());
    }

    pub(super) fn remove(&self, uid: &str) {
        self.inner.lock().pods.remove(uid);
        self.changed.send_replace(());
    }

    pub(super) fn stopped(&self) {
        self.inner.lock().stopped += 1;
    }

    /// Tells of pods that come and go.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Every pod, by uid.
    pub fn pods(&self) -> Vec<(String, WorkloadInfo, PodState)> {
        let inner = self.inner.lock();
        inner
            .pods
            .iter()
            .map(|(uid, (info, state))| (uid.clone(), info.clone(), *state))
            .collect()
    }

    /// How many pods, and how many starts and stops.
    pub fn counts(&self) -> Counts {
        let inner = self.inner.lock();
        let active = inner
            .pods
            .values()
            .filter(|(_, state)| *state == PodState::Up)
            .count();
        Counts {
            active,
            pending: inner.pods.len() - active,
            started: inner.started,
            stopped: inner.stopped,
        }
    }
}

impl Collector for Board {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let counts = self.counts();
        let gauges = [
            (
                "workload_manager_active_proxy_count",
                "Active proxies (unstable)",
                counts.active,
            ),
            (
                "workload_manager_pending_proxy_count",
                "Pending proxies (unstable)",
                counts.pending,
            ),
        ];
        for (name, help, value) in gauges {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&value)?;
        }
        let counters = [
            (
                "workload_manager_proxies_started",
                "Proxies started (unstable)",
                counts.started,
            ),
            (
                "workload_manager_proxies_stopped",
                "Proxies stopped (unstable)",
                counts.stopped,
            ),
        ];
        for (name, help, value) in counters {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}
