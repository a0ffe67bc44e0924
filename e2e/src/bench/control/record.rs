//! What has arrived where, and when.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// Shared by every stream and the one who changes objects.
pub(super) struct Record {
    /// Resources of a full state.
    full: usize,
    streams: usize,
    began: Instant,
    /// Changes that not every stream has, by resource.
    expected: Mutex<HashMap<String, Expected>>,
    /// There are any.
    expecting: AtomicUsize,
    delays: Mutex<(Vec<Duration>, Vec<Duration>)>,
    firsts: Mutex<Vec<Duration>>,
    bytes: AtomicU64,
    failure: Mutex<Option<anyhow::Error>>,
    told: Notify,
}

struct Expected {
    /// Its commit was asked for.
    asked: Instant,
    /// Its commit was confirmed.
    committed: Option<Instant>,
    /// When each stream had it.
    by: Vec<Option<Instant>>,
    missing: usize,
}

/// How long changes took to each stream.
pub(super) struct Arrivals {
    /// From the moment that the commit was asked for.
    pub(super) asked: Delays,
    /// From the moment that it was confirmed; what was there before, at once.
    pub(super) committed: Delays,
}

/// How long something took, many times, sorted.
pub(super) struct Delays(Vec<Duration>);

impl Delays {
    /// A percentile in milliseconds.
    pub(super) fn at(&self, share: usize) -> f64 {
        let index = (self.0.len() * share).div_ceil(100).saturating_sub(1);
        self.0
            .get(index)
            .map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
    }
}

impl Record {
    pub(super) fn new(full: usize, streams: usize) -> Self {
        Self {
            full,
            streams,
            began: Instant::now(),
            expected: Mutex::default(),
            expecting: AtomicUsize::new(0),
            delays: Mutex::default(),
            firsts: Mutex::default(),
            bytes: AtomicU64::new(0),
            failure: Mutex::default(),
            told: Notify::new(),
        }
    }

    /// Resources that make a state full.
    pub(super) fn full(&self) -> usize {
        self.full
    }

    /// A resource is about to change.
    pub(super) fn expect(&self, resource: &str) {
        let expected = Expected {
            asked: Instant::now(),
            committed: None,
            by: vec![None; self.streams],
            missing: self.streams,
        };
        let mut all = self.expected.lock();
        all.insert(resource.to_owned(), expected);
        self.expecting.store(all.len(), Ordering::Relaxed);
    }

    /// Whether names have to be looked at.
    pub(super) fn is_expecting(&self) -> bool {
        self.expecting.load(Ordering::Relaxed) > 0
    }

    /// Its change is committed.
    pub(super) fn committed(&self, resource: &str, at: Instant) {
        let mut all = self.expected.lock();
        if let Some(expected) = all.get_mut(resource) {
            expected.committed = Some(at);
            self.settle(&mut all, resource);
        }
    }

    /// A stream has a resource.
    pub(super) fn seen(&self, stream: usize, resource: &str) {
        let mut all = self.expected.lock();
        let Some(expected) = all.get_mut(resource) else {
            return;
        };
        let Some(seen) = expected.by.get_mut(stream).filter(|seen| seen.is_none()) else {
            return;
        };
        *seen = Some(Instant::now());
        expected.missing -= 1;
        self.settle(&mut all, resource);
    }

    /// Takes a change off the list, if it is committed and everywhere.
    fn settle(&self, all: &mut HashMap<String, Expected>, resource: &str) {
        let over = all
            .get(resource)
            .is_some_and(|expected| expected.missing == 0 && expected.committed.is_some());
        let Some(expected) = over.then(|| all.remove(resource)).flatten() else {
            return;
        };
        let mut delays = self.delays.lock();
        let committed = expected.committed.unwrap_or(expected.asked);
        for arrived in expected.by.into_iter().flatten() {
            delays.0.push(arrived.duration_since(expected.asked));
            delays.1.push(arrived.saturating_duration_since(committed));
        }
        self.expecting.store(all.len(), Ordering::Relaxed);
        if all.is_empty() {
            self.told.notify_one();
        }
    }

    /// Bytes came in.
    pub(super) fn received(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that came in so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A stream has everything.
    pub(super) fn is_complete(&self) {
        self.firsts.lock().push(self.began.elapsed());
        self.told.notify_one();
    }

    /// A change wasn't committed.
    pub(super) fn failed(&self, why: anyhow::Error) {
        let failure = why.context("a change wasn't committed");
        self.failure.lock().get_or_insert(failure);
        self.told.notify_one();
    }

    /// A stream has ended, which none should.
    pub(super) fn ended(&self, why: Option<anyhow::Error>) {
        let why = why.unwrap_or_else(|| anyhow!("without an error"));
        let failure = why.context("a stream has ended");
        self.failure.lock().get_or_insert(failure);
        self.told.notify_one();
    }

    /// When every stream has everything: how long each took.
    pub(super) async fn complete(&self) -> Result<Delays> {
        loop {
            self.check()?;
            let firsts = self.firsts.lock().clone();
            if firsts.len() >= self.streams {
                return Ok(sorted(firsts));
            }
            self.told.notified().await;
        }
    }

    /// When every stream has every change: how long each took to each stream.
    pub(super) async fn arrived(&self) -> Result<Arrivals> {
        loop {
            self.check()?;
            if self.expected.lock().is_empty() {
                let (asked, committed) = std::mem::take(&mut *self.delays.lock());
                return Ok(Arrivals {
                    asked: sorted(asked),
                    committed: sorted(committed),
                });
            }
            self.told.notified().await;
        }
    }

    /// When fewer changes than that are on their way.
    pub(super) async fn below(&self, few: usize) -> Result<()> {
        while self.expected.lock().len() >= few {
            self.check()?;
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Some of what isn't everywhere.
    pub(super) fn missing(&self) -> String {
        let all = self.expected.lock();
        let some = all.iter().take(3);
        let some: Vec<String> = some
            .map(|(resource, expected)| format!("{resource} at {} streams", expected.missing))
            .collect();
        format!("{} changes, {}", all.len(), some.join(", "))
    }

    fn check(&self) -> Result<()> {
        self.failure.lock().take().map_or(Ok(()), Err)
    }
}

fn sorted(mut delays: Vec<Duration>) -> Delays {
    delays.sort_unstable();
    Delays(delays)
}
