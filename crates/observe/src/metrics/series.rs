//! The numbers of one label set.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::record::{Record, RequestProtocol};

/// Counters and histograms of all requests with one label set. Adding is a few
/// atomic operations.
#[derive(Debug)]
pub struct Series {
    pub(crate) requests: AtomicU64,
    pub(crate) duration: Histogram,
    pub(crate) request_bytes: Histogram,
    pub(crate) response_bytes: Histogram,
    pub(crate) request_messages: AtomicU64,
    pub(crate) response_messages: AtomicU64,
    pub(crate) opened: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    touched: AtomicBool,
    idle: AtomicBool,
}

impl Series {
    pub(super) fn new(buckets: Arc<[f64]>) -> Self {
        let histogram = || Histogram::new(Arc::clone(&buckets));
        Self {
            requests: AtomicU64::new(0),
            duration: histogram(),
            request_bytes: histogram(),
            response_bytes: histogram(),
            request_messages: AtomicU64::new(0),
            response_messages: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            touched: AtomicBool::new(true),
            idle: AtomicBool::new(false),
        }
    }

    /// Counts a request.
    pub fn count(&self, record: &Record<'_>) {
        self.touched.store(true, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.duration
            .observe(record.duration.as_secs_f64() * 1_000.0);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a histogram needs no exact bytes above 2^53"
        )]
        let bytes = |count: u64| count as f64;
        self.request_bytes.observe(bytes(record.bytes_received));
        self.response_bytes.observe(bytes(record.bytes_sent));
        if record.protocol == RequestProtocol::Grpc {
            self.request_messages
                .fetch_add(record.request_messages, Ordering::Relaxed);
            self.response_messages
                .fetch_add(record.response_messages, Ordering::Relaxed);
        }
    }

    pub(super) fn opened(self: Arc<Self>) -> TcpGuard {
        self.touched.store(true, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Relaxed);
        TcpGuard(self)
    }

    /// Whether it stays: it was used since the last call, or since the one
    /// before, or a connection is open.
    pub(super) fn survives(&self) -> bool {
        let open = self.opened.load(Ordering::Relaxed) > self.closed.load(Ordering::Relaxed);
        let touched = self.touched.swap(false, Ordering::Relaxed) || open;
        let was_idle = self.idle.swap(!touched, Ordering::Relaxed);
        touched || !was_idle
    }
}

/// An open TCP connection; dropping it counts the end.
#[derive(Debug)]
pub struct TcpGuard(Arc<Series>);

impl TcpGuard {
    /// Adds bytes from the client. Call it every few seconds, not per read.
    pub fn add_received(&self, bytes: u64) {
        self.0.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes to the client.
    pub fn add_sent(&self, bytes: u64) {
        self.0.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for TcpGuard {
    fn drop(&mut self) {
        self.0.touched.store(true, Ordering::Relaxed);
        self.0.closed.fetch_add(1, Ordering::Relaxed);
    }
}

/// A histogram without lock.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: Arc<[f64]>,
    /// One more than there are bounds.
    counts: Box<[AtomicU64]>,
    /// Thousandths.
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: Arc<[f64]>) -> Self {
        Self {
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            bounds,
            sum: AtomicU64::new(0),
        }
    }

    fn observe(&self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "durations and sizes aren't negative; saturates"
        )]
        let thousandths = (value * 1_000.0) as u64;
        self.sum.fetch_add(thousandths, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let counts = self.counts.iter().map(|one| one.load(Ordering::Relaxed));
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a sum needs no exact thousandths"
        )]
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1_000.0;
        Snapshot {
            buckets: bounds.zip(counts).collect(),
            sum,
        }
    }
}

/// A histogram at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) buckets: Vec<(f64, u64)>,
    pub(crate) sum: f64,
}

impl Snapshot {
    pub(crate) fn add(&mut self, other: &Self) {
        self.sum += other.sum;
        for ((_, mine), (_, more)) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += more;
        }
    }
}
