//! The L7 metrics of a waypoint (`waypoint-contract` 6.1): names, labels,
//! buckets, and a bound on how many series there can be.
//!
//! A request resolves its [`Series`] once, at its end, through a [`SeriesCache`]
//! of its thread: known combinations cost one look-up of a few numbers.

mod encode;
mod series;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ambit_telemetry::{EndLabels, ServiceLabels};
use parking_lot::RwLock;

use crate::flags::ResponseFlags;
use crate::overrides::MetricOverrides;
use crate::record::{Record, RequestProtocol};

pub(crate) use encode::is_metric;
pub use series::{Series, TcpGuard};

/// Upper bounds of the histograms, milliseconds and bytes.
pub const BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5,
    1.8e6, 3.6e6,
];

/// Series of all kinds, where nothing else is configured.
pub const DEFAULT_LIMIT: usize = 5_000;

/// Entries of a thread's cache.
const CACHE_LIMIT: usize = 4_096;

/// Who talks to whom. Each part is shared by all requests with it, and is
/// compared by its address.
#[derive(Debug, Clone, Default)]
pub struct Ends {
    /// Who opened the connection.
    pub source: Arc<EndLabels>,
    /// The **chosen endpoint**; its default where none was picked.
    pub destination: Arc<EndLabels>,
    /// The service that was routed to.
    pub service: Option<Arc<ServiceLabels>>,
    /// The client came over mutual TLS.
    pub mutual_tls: bool,
    /// What the Telemetry API changes for this frontend.
    pub overrides: Option<Arc<MetricOverrides>>,
}

/// What a series is labelled with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Labels {
    pub(crate) source: Arc<EndLabels>,
    pub(crate) destination: Arc<EndLabels>,
    pub(crate) service: Option<Arc<ServiceLabels>>,
    pub(crate) mutual_tls: bool,
    pub(crate) protocol: RequestProtocol,
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u16>,
    pub(crate) flags: ResponseFlags,
    pub(crate) overrides: Option<Arc<MetricOverrides>>,
    /// Values of the overrides' expressions, in their order.
    pub(crate) extra: Box<[Arc<str>]>,
    /// This is the one for everything beyond the bound.
    pub(crate) overflow: bool,
}

/// The metrics of a waypoint. Clones share them.
#[derive(Debug, Clone)]
pub struct RequestMetrics {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) series: RwLock<HashMap<Labels, Arc<Series>>>,
    pub(crate) buckets: Arc<[f64]>,
    pub(crate) destination_reporter: AtomicBool,
    limit: usize,
    overflowed: AtomicU64,
    /// Changes when series are dropped: caches forget then.
    epoch: AtomicU64,
}

/// How metrics are kept.
#[derive(Debug, Clone)]
pub struct MetricOptions {
    /// Upper bounds of the histograms; [`BUCKETS`] by default.
    pub buckets: Vec<f64>,
    /// Also series with `reporter="destination"` (CLI contract 6.1).
    pub destination_reporter: bool,
    /// Most label sets; the rest is counted in one that says `overflow`.
    pub limit: usize,
}

impl Default for MetricOptions {
    fn default() -> Self {
        Self {
            buckets: BUCKETS.to_vec(),
            destination_reporter: false,
            limit: DEFAULT_LIMIT,
        }
    }
}

impl Default for RequestMetrics {
    fn default() -> Self {
        Self::new(MetricOptions::default())
    }
}

impl RequestMetrics {
    /// Empty metrics, to be registered as a collector.
    pub fn new(options: MetricOptions) -> Self {
        let mut buckets = options.buckets;
        buckets.retain(|bound| bound.is_finite());
        buckets.sort_by(f64::total_cmp);
        buckets.dedup();
        Self {
            inner: Arc::new(Inner {
                series: RwLock::default(),
                buckets: buckets.into(),
                destination_reporter: AtomicBool::new(options.destination_reporter),
                limit: options.limit.max(1),
                overflowed: AtomicU64::new(0),
                epoch: AtomicU64::new(0),
            }),
        }
    }

    /// Whether there are also series with `reporter="destination"`, from the
    /// next exposition on. The counts are the same ones.
    pub fn report_destination(&self, yes: bool) {
        self.inner
            .destination_reporter
            .store(yes, Ordering::Relaxed);
    }

    /// Series that exist.
    pub fn len(&self) -> usize {
        self.inner.series.read().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Requests that were counted as `overflow`.
    pub fn overflowed(&self) -> u64 {
        self.inner.overflowed.load(Ordering::Relaxed)
    }

    /// Drops the series of pods that are gone: those that nothing was counted
    /// in since the last but one call. To be called now and then, say hourly.
    pub fn sweep(&self) {
        let mut series = self.inner.series.write();
        let before = series.len();
        series.retain(|_, one| one.survives());
        if series.len() != before {
            self.inner.epoch.fetch_add(1, Ordering::Release);
        }
    }

    fn resolve(&self, labels: Labels) -> Arc<Series> {
        if let Some(known) = self.inner.series.read().get(&labels) {
            return Arc::clone(known);
        }
        let mut series = self.inner.series.write();
        let labels = if series.len() < self.inner.limit || series.contains_key(&labels) {
            labels
        } else {
            self.inner.overflowed.fetch_add(1, Ordering::Relaxed);
            labels.overflowed()
        };
        let fresh = || Arc::new(Series::new(Arc::clone(&self.inner.buckets)));
        Arc::clone(series.entry(labels).or_insert_with(fresh))
    }
}

impl Labels {
    fn overflowed(self) -> Self {
        Self {
            source: Arc::default(),
            destination: Arc::default(),
            service: None,
            status: 0,
            grpc_status: None,
            flags: ResponseFlags::NONE,
            overrides: None,
            extra: Box::default(),
            overflow: true,
            mutual_tls: false,
            protocol: self.protocol,
        }
    }
}

/// The series that one thread has used. Not shared: no lock on the way.
#[derive(Debug)]
pub struct SeriesCache {
    metrics: RequestMetrics,
    epoch: u64,
    known: HashMap<CacheKey, (Ends, Arc<Series>)>,
    /// The one of the request before: often that of the next one.
    latest: Option<(CacheKey, Arc<Series>)>,
}

/// Addresses of the shared parts, and the rest packed.
type CacheKey = ([usize; 4], u16, Option<u16>, u32, (RequestProtocol, bool));

impl SeriesCache {
    /// An empty cache.
    pub fn new(metrics: RequestMetrics) -> Self {
        Self {
            metrics,
            epoch: 0,
            known: HashMap::new(),
            latest: None,
        }
    }

    /// The series of a request that has ended.
    pub fn series(&mut self, record: &Record<'_>) -> Arc<Series> {
        let ends = record.ends;
        let extra = match &ends.overrides {
            Some(overrides) if overrides.has_values() => overrides.values(record),
            _ => {
                return self.lookup(
                    ends,
                    record.protocol,
                    record.status,
                    record.grpc_status,
                    record.flags,
                );
            }
        };
        let labels = labels(
            ends,
            record.protocol,
            record.status,
            record.grpc_status,
            record.flags,
            extra,
        );
        self.metrics.resolve(labels)
    }

    /// Counts a TCP connection as opened. The guard counts its end.
    pub fn tcp_opened(&mut self, ends: &Ends, flags: ResponseFlags) -> TcpGuard {
        let series = self.lookup(ends, RequestProtocol::Tcp, 0, None, flags);
        series.opened()
    }

    fn lookup(
        &mut self,
        ends: &Ends,
        protocol: RequestProtocol,
        status: u16,
        grpc_status: Option<u16>,
        flags: ResponseFlags,
    ) -> Arc<Series> {
        let epoch = self.metrics.inner.epoch.load(Ordering::Acquire);
        if epoch != self.epoch || self.known.len() >= CACHE_LIMIT {
            self.known.clear();
            self.latest = None;
            self.epoch = epoch;
        }
        let address = |part: *const ()| part.addr();
        let key = (
            [
                address(Arc::as_ptr(&ends.source).cast()),
                address(Arc::as_ptr(&ends.destination).cast()),
                ends.service
                    .as_ref()
                    .map_or(0, |part| address(Arc::as_ptr(part).cast())),
                ends.overrides
                    .as_ref()
                    .map_or(0, |part| address(Arc::as_ptr(part).cast())),
            ],
            status,
            grpc_status,
            flags.bits(),
            (protocol, ends.mutual_tls),
        );
        if let Some((latest, series)) = &self.latest
            && *latest == key
        {
            return Arc::clone(series);
        }
        if let Some((_, series)) = self.known.get(&key) {
            self.latest = Some((key, Arc::clone(series)));
            return Arc::clone(series);
        }
        let labels = labels(ends, protocol, status, grpc_status, flags, Box::default());
        let series = self.metrics.resolve(labels);
        // The parts live as long as their addresses are keys.
        self.known.insert(key, (ends.clone(), Arc::clone(&series)));
        series
    }
}

fn labels(
    ends: &Ends,
    protocol: RequestProtocol,
    status: u16,
    grpc_status: Option<u16>,
    flags: ResponseFlags,
    extra: Box<[Arc<str>]>,
) -> Labels {
    Labels {
        source: Arc::clone(&ends.source),
        destination: Arc::clone(&ends.destination),
        service: ends.service.clone(),
        mutual_tls: ends.mutual_tls,
        overrides: ends.overrides.clone(),
        protocol,
        status,
        grpc_status,
        flags,
        extra,
        overflow: false,
    }
}

#[cfg(test)]
mod tests;
