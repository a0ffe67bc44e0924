//! What is fetched when: pure state, with the time as an argument.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_runtime::Backoff;
use ambit_types::SpiffeId;
use rand::RngExt;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::dump::{CertDump, CertificateText};
use crate::signer::FetchError;
use crate::svid::Svid;

/// CA calls at a time.
pub(super) const CONCURRENT: usize = 8;
/// Prefetches that may wait for their turn.
pub(super) const MAX_PREFETCH: usize = 256;
/// A caller waits for a retry that is this near, instead of being refused.
pub(super) const NEAR: Duration = Duration::from_secs(2);
/// Renewal comes at half of the life, up to this share of the whole life earlier
/// or later, so that a node's certificates don't stay in step.
pub(super) const RENEWAL_JITTER: f64 = 0.05;
/// How long the wall clock goes unwatched; it may be set while we sleep.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(60);

/// Both clocks: waits count on the monotonic one, certificates on the wall's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
}

/// Why a fetch is wanted; the greater goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Priority {
    /// Renewal.
    Background,
    /// Prefetch.
    Warmup,
    /// A connection waits.
    RealTime,
}

/// What one identity is waiting for.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Queued {
        priority: Priority,
        since: Instant,
    },
    Fetching,
    /// The last fetch failed.
    Resting {
        until: Instant,
    },
    Holding {
        renew_at: SystemTime,
    },
}

/// What is known of one identity; callers watch it.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    svid: Option<Arc<Svid>>,
    /// The failure since the last success.
    error: Option<Arc<FetchError>>,
}

impl Known {
    pub(super) fn valid_at(&self, now: SystemTime) -> Option<Arc<Svid>> {
        self.svid.as_ref().filter(|s| !s.expired_at(now)).cloned()
    }

    pub(super) fn error(&self) -> Option<Arc<FetchError>> {
        self.error.clone()
    }

    fn state(&self, now: SystemTime) -> String {
        match (self.valid_at(now), &self.error) {
            (Some(_), _) => "Available".to_owned(),
            (None, Some(error)) => format!("Unavailable: {error}"),
            (None, None) => "Initializing".to_owned(),
        }
    }
}

struct Entry {
    /// Tells this entry from a forgotten one of the same identity.
    number: u64,
    stage: Stage,
    known: watch::Sender<Known>,
    backoff: Backoff,
}

/// The right to fetch one certificate; it comes back with [`Book::finish`].
pub(super) struct Ticket {
    id: SpiffeId,
    number: u64,
}

impl Ticket {
    pub(super) fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub(super) fn finish(self, result: Result<Svid, FetchError>) -> Finished {
        Finished {
            ticket: self,
            result,
        }
    }
}

/// A fetch that ended.
pub(super) struct Finished {
    ticket: Ticket,
    result: Result<Svid, FetchError>,
}

/// What became of a fetch, for the log.
pub(super) enum Outcome {
    Renewed {
        id: SpiffeId,
        not_after: SystemTime,
    },
    Failed {
        id: SpiffeId,
        error: Arc<FetchError>,
        retry: Duration,
    },
    /// The identity was forgotten meanwhile.
    NotNeeded,
}

/// What a caller is told.
pub(super) enum Answer {
    Ready(Arc<Svid>),
    Refused(Arc<FetchError>),
    Wait(watch::Receiver<Known>),
}

/// All identities.
#[derive(Default)]
pub(super) struct Book {
    entries: HashMap<SpiffeId, Entry>,
    fetching: usize,
    numbers: u64,
}

impl Book {
    /// A connection needs the certificate of `id`.
    pub(super) fn ask(&mut self, id: &SpiffeId, now: &Now) -> Answer {
        let real_time = Stage::Queued {
            priority: Priority::RealTime,
            since: now.instant,
        };
        let Some(entry) = self.entries.get_mut(id) else {
            return Answer::Wait(self.insert(id, real_time));
        };
        let known = entry.known.borrow();
        if let Some(svid) = known.valid_at(now.wall) {
            return Answer::Ready(svid);
        }
        match (entry.stage, known.error()) {
            (Stage::Resting { until }, Some(error)) if until > now.instant + NEAR => {
                return Answer::Refused(error);
            }
            // The retry is near: worth waiting for, but not worth hurrying, or
            // callers would turn the backoff into a storm.
            (Stage::Resting { .. } | Stage::Fetching, _) => {}
            (Stage::Queued { since, .. }, _) => {
                entry.stage = Stage::Queued {
                    priority: Priority::RealTime,
                    since,
                };
            }
            // Expired unseen: the machine slept, or its clock was set.
            (Stage::Holding { .. }, _) => entry.stage = real_time,
        }
        drop(known);
        Answer::Wait(entry.known.subscribe())
    }

    /// A workload of `id` has come. Whether there is something to fetch.
    pub(super) fn prefetch(&mut self, id: &SpiffeId, now: &Now) -> bool {
        let waiting = |entry: &&Entry| {
            let priority = Priority::Warmup;
            matches!(entry.stage, Stage::Queued { priority: p, .. } if p == priority)
        };
        if self.entries.contains_key(id)
            || self.entries.values().filter(waiting).count() >= MAX_PREFETCH
        {
            return false;
        }
        self.insert(
            id,
            Stage::Queued {
                priority: Priority::Warmup,
                since: now.instant,
            },
        );
        true
    }

    fn insert(&mut self, id: &SpiffeId, stage: Stage) -> watch::Receiver<Known> {
        self.numbers += 1;
        let (known, watching) = watch::channel(Known::default());
        let entry = Entry {
            number: self.numbers,
            stage,
            known,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(150)).jitter(0.2),
        };
        self.entries.insert(id.clone(), entry);
        watching
    }

    pub(super) fn forget(&mut self, id: &SpiffeId) {
        self.entries.remove(id);
    }

    /// The next fetch to start; or, when none may, when to ask again.
    pub(super) fn start(&mut self, now: &Now) -> Result<Ticket, Instant> {
        let mut next = now.instant + LOOK_AT_CLOCK;
        for entry in self.entries.values_mut() {
            if let Some(at) = entry.wake(now) {
                next = next.min(at);
            }
        }
        // Whoever ends a fetch asks again.
        if self.fetching >= CONCURRENT {
            return Err(next);
        }
        let queued = self.entries.iter_mut().filter_map(|(id, entry)| {
            let Stage::Queued { priority, since } = entry.stage else {
                return None;
            };
            Some(((priority, Reverse(since), Reverse(entry.number)), id, entry))
        });
        let Some((_, id, entry)) = queued.max_by_key(|(rank, ..)| *rank) else {
            return Err(next);
        };
        entry.stage = Stage::Fetching;
        self.fetching += 1;
        Ok(Ticket {
            id: id.clone(),
            number: entry.number,
        })
    }

    /// Takes a fetch's result.
    pub(super) fn finish(&mut self, finished: Finished, now: &Now) -> Outcome {
        let Finished { ticket, result } = finished;
        self.fetching = self.fetching.saturating_sub(1);
        let entry = self.entries.get_mut(&ticket.id);
        let Some(entry) = entry.filter(|entry| entry.number == ticket.number) else {
            return Outcome::NotNeeded;
        };
        let result = result.and_then(|svid| match svid.expired_at(now.wall) {
            false => Ok(svid),
            true => Err(FetchError::AlreadyExpired),
        });
        match result {
            Ok(svid) => entry.succeeded(ticket.id, svid, now),
            Err(error) => entry.failed(ticket.id, error, now),
        }
    }

    pub(super) fn dump(&self, now: SystemTime) -> Vec<CertDump> {
        let mut all: Vec<CertDump> = self
            .entries
            .iter()
            .map(|(id, entry)| {
                let known = entry.known.borrow();
                let texts = |certs: &[_]| certs.iter().map(CertificateText::new).collect();
                CertDump {
                    cert_chain: known
                        .svid
                        .as_ref()
                        .map_or_else(Vec::new, |s| texts(s.chain())),
                    identity: id.clone(),
                    root_certs: known
                        .svid
                        .as_ref()
                        .map_or_else(Vec::new, |s| texts(s.roots())),
                    state: known.state(now),
                }
            })
            .collect();
        all.sort_by(|a, b| a.identity.cmp(&b.identity));
        all
    }
}

impl Entry {
    /// Queues what is due; otherwise says when it will be.
    fn wake(&mut self, now: &Now) -> Option<Instant> {
        let waits = match self.stage {
            Stage::Queued { .. } | Stage::Fetching => return None,
            Stage::Resting { until } => until.duration_since(now.instant),
            Stage::Holding { renew_at } => {
                renew_at.duration_since(now.wall).unwrap_or(Duration::ZERO)
            }
        };
        if !waits.is_zero() {
            return Some(now.instant + waits);
        }
        let priority = match self.known.borrow().valid_at(now.wall) {
            Some(_) => Priority::Background,
            None => Priority::Warmup,
        };
        self.stage = Stage::Queued {
            priority,
            since: now.instant,
        };
        None
    }

    fn succeeded(&mut self, id: SpiffeId, svid: Svid, now: &Now) -> Outcome {
        self.backoff.reset();
        self.stage = Stage::Holding {
            renew_at: renewal(&svid, now.wall),
        };
        let not_after = svid.not_after();
        self.known.send_replace(Known {
            svid: Some(Arc::new(svid)),
            error: None,
        });
        Outcome::Renewed { id, not_after }
    }

    fn failed(&mut self, id: SpiffeId, error: FetchError, now: &Now) -> Outcome {
        let error = Arc::new(error);
        let mut retry = self.backoff.next_wait();
        self.known.send_modify(|known| {
            // Try once more the moment that what we have ends.
            let left = known.valid_at(now.wall).map(|svid| svid.not_after());
            if let Some(Ok(left)) = left.map(|end| end.duration_since(now.wall)) {
                retry = retry.min(left.max(Duration::from_secs(1)));
            }
            known.error = Some(Arc::clone(&error));
        });
        self.stage = Stage::Resting {
            until: now.instant + retry,
        };
        Outcome::Failed { id, error, retry }
    }
}

/// Half of the life, give or take the jitter. A certificate that was issued with
/// most of its life in the past still gets a third of what is left, or a short
/// one would be renewed without end.
fn renewal(svid: &Svid, now: SystemTime) -> SystemTime {
    let life = svid.not_after().duration_since(svid.not_before());
    let share = 0.5 + rand::rng().random_range(-RENEWAL_JITTER..=RENEWAL_JITTER);
    let wanted = svid.not_before() + life.unwrap_or_default().mul_f64(share);
    let left = svid.not_after().duration_since(now).unwrap_or_default();
    wanted.max(now + (left / 3).max(Duration::from_secs(1)))
}
