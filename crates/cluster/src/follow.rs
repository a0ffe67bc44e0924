//! One resource: its list, its watch from there on, and the list again when
//! the watch can't go on.
//!
//! `resource` and `wire` know the requests and the answers, `known` what was
//! told; `several` follows a few resources for one listener.
//!
//! What was told stays told while the server is away. A list is believed
//! whole, whatever events said before, with one exception: if more than half
//! of the objects are gone at once, a second list has to agree.
//!
//! What the API server can do without harm: go away, for however long; end a
//! watch, or forget what comes after our version; say things twice, late or
//! out of order; come back with an older history.

mod known;
mod resource;
mod several;
mod slices;
mod state;
mod timing;
mod wire;

use std::collections::HashSet;
use std::sync::Arc;

use ambit_runtime::Backoff;
use futures::FutureExt;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

pub use known::Name;
use known::{Deletions, Known, Verdict, is_mass};
pub(crate) use resource::Resource;
pub(crate) use several::Following;
pub use state::{Stage, WatchState, Watches};
pub use timing::Timing;
use wire::{Fault, Head, Line, Lines, Page, fetch};

/// What a follower says.
#[derive(Debug, PartialEq)]
pub(crate) enum Told<T> {
    /// In their order.
    Events(Vec<Event<T>>),
    /// Everything that is there was told; after the first and every later list.
    Listed,
    /// The resource is no more, and nothing follows.
    Gone,
}

/// What happened to one object.
#[derive(Debug, PartialEq)]
pub(crate) enum Event<T> {
    Applied(Name, T),
    Deleted(Name),
}

/// What a follower is to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Order {
    /// Follow this resource.
    Follow(Resource),
    /// Tell that everything is gone, and end.
    Forget,
}

/// Makes something of an object's text.
pub(crate) type Reader<T> = Box<dyn Fn(&[u8]) -> T + Send + Sync>;

/// Follows one resource.
pub(crate) struct Follower<T> {
    /// Whom it asks.
    pub(crate) client: Client,
    /// What for.
    pub(crate) resource: Resource,
    /// Makes something of an object's text.
    pub(crate) read: Reader<T>,
    /// How long everything takes.
    pub(crate) timing: Timing,
    /// Where it says how it fares, and what it is called there.
    pub(crate) watches: Watches,
    pub(crate) label: Arc<str>,
    /// Where it tells, and as whom.
    pub(crate) told: mpsc::Sender<(usize, Told<T>)>,
    pub(crate) id: usize,
    pub(crate) memory: Memory,
}

/// What a follower remembers; nothing in the beginning.
#[derive(Default)]
pub(crate) struct Memory {
    known: Known,
    deletions: Deletions,
    /// Faults since something worked.
    faults: u32,
}

/// Nobody listens any more.
struct Deaf;

/// Why a watch ended.
enum End {
    /// What is known holds, and only a list tells more.
    Over,
    /// The watch didn't end in its time. Whoever answers next may have been
    /// restored from an older snapshot, and its versions may have caught up with
    /// ours. No watch would ever tell: only a list does, believed whatever its
    /// versions are.
    Doubt,
    Fault(Fault),
    /// The server's history is another one.
    OtherHistory,
    /// More was deleted than is believed at once.
    Mass,
    Deaf,
}

/// Why a list is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    First,
    Again,
    /// To see whether a mass deletion is true.
    Confirm,
}

impl<T> Follower<T> {
    /// Follows until it is told to forget, or nobody listens.
    pub(crate) async fn run(mut self, mut orders: watch::Receiver<Order>) {
        loop {
            let order = orders.borrow_and_update().clone();
            match order {
                Order::Follow(resource) => self.resource = resource,
                Order::Forget => return self.forget().await,
            }
            tokio::select! {
                changed = orders.changed() => if changed.is_err() {
                    return;
                },
                _deaf = self.follow() => return,
            }
        }
    }

    /// Follows until nobody listens.
    pub(crate) async fn run_for_ever(mut self) {
        let _deaf = self.follow().await;
    }

    async fn forget(mut self) {
        self.watches.remove(&self.label);
        let gone = self.memory.known.drain();
        info!(resource = %self.resource, objects = gone.len(), "no longer there");
        let events = gone.into_iter().map(Event::Deleted).collect();
        // Whoever doesn't listen doesn't miss it either.
        let _ = self.told.send((self.id, Told::Events(events))).await;
        let _ = self.told.send((self.id, Told::Gone)).await;
    }

    /// Lists and watches for ever.
    async fn follow(&mut self) -> Deaf {
        let mut why = Why::First;
        // Of watches that don't last; what is listed between them is no success.
        let mut backoff = self.timing.backoff();
        loop {
            let from = match self.list_until_done(why).await {
                Ok(from) => from,
                Err(deaf) => return deaf,
            };
            why = match self.watch_from(from, &mut backoff).await {
                End::Mass => Why::Confirm,
                End::OtherHistory => {
                    error!(
                        resource = %self.resource,
                        "the API server's history isn't the one that was read; everything is read again"
                    );
                    self.memory.known.distrust();
                    Why::Again
                }
                End::Doubt => {
                    self.memory.known.distrust();
                    Why::Again
                }
                End::Deaf => return Deaf,
                End::Over | End::Fault(_) => Why::Again,
            };
            self.watches.resynced(&self.label);
        }
    }

    /// Lists until a list is whole and believed; the version to watch from.
    async fn list_until_done(&mut self, mut why: Why) -> Result<String, Deaf> {
        let mut backoff = self.timing.backoff();
        loop {
            self.watches.stage(&self.label, Stage::Listing);
            let began = Instant::now();
            match self.list(why).await {
                Ok(Some(from)) => {
                    self.watches.listed(&self.label, self.memory.known.len());
                    debug!(
                        resource = %self.resource,
                        objects = self.memory.known.len(),
                        took = ?began.elapsed(),
                        "listed"
                    );
                    let told = self.told.send((self.id, Told::Listed)).await;
                    return told.map_err(|_| Deaf).map(|()| from);
                }
                Ok(None) => {
                    why = Why::Confirm;
                    sleep(self.timing.confirm).await;
                }
                Err(End::Deaf) => return Err(Deaf),
                Err(End::Fault(fault)) => self.pause(&fault, &mut backoff).await,
                Err(_) => {}
            }
        }
    }

    /// One list, page by page. None if it has to be confirmed.
    async fn list(&mut self, why: Why) -> Result<Option<String>, End> {
        let mut listed = HashSet::with_capacity(self.memory.known.len());
        let mut next: Option<String> = None;
        self.memory.known.begin_list();
        self.memory.deletions.forget();
        let version = loop {
            let request = self.resource.list(next.as_deref());
            let request = request.map_err(|cause| End::Fault(Fault::Request(cause)))?;
            let text = fetch(&self.client, request, self.timing.patience).await;
            let text = text.map_err(End::Fault)?;
            // Room first: what is known must be told.
            let room = self.told.reserve().await.map_err(|_| End::Deaf)?;
            let page = Page::read(&text).map_err(End::Fault)?;
            let heads: Result<Vec<_>, _> = page.items.iter().copied().map(Head::read).collect();
            let heads = heads.map_err(End::Fault)?;
            let mut events = Vec::new();
            for (head, item) in heads.iter().zip(page.items) {
                let name = Name::of(head);
                listed.insert(name.clone());
                if self.memory.known.listed(name.clone(), head.version) {
                    events.push(Event::Applied(name, (self.read)(item)));
                }
            }
            self.watches.applied(&self.label, events.len());
            if !events.is_empty() {
                room.send((self.id, Told::Events(events)));
            }
            match page.metadata.next {
                Some(more) if !more.is_empty() => next = Some(more),
                _ => break page.metadata.resource_version,
            }
        };
        let gone = self.memory.known.missing(&listed);
        if why != Why::Confirm && is_mass(gone.len(), self.memory.known.len()) {
            self.hold(gone.len(), self.memory.known.len());
            return Ok(None);
        }
        self.watches.held(&self.label, 0);
        if gone.is_empty() {
            return Ok(Some(version));
        }
        if why == Why::Confirm {
            warn!(resource = %self.resource, gone = gone.len(), "a second list agrees: they are gone");
        }
        let room = self.told.reserve().await.map_err(|_| End::Deaf)?;
        gone.iter().for_each(|name| self.memory.known.remove(name));
        self.watches.deleted(&self.label, gone.len());
        let events = gone.into_iter().map(Event::Deleted).collect();
        room.send((self.id, Told::Events(events)));
        Ok(Some(version))
    }

    /// Watches, again and again, until only a list can help.
    async fn watch_from(&mut self, mut from: String, backoff: &mut Backoff) -> End {
        loop {
            let began = Instant::now();
            let end = self.watch(&mut from).await;
            if began.elapsed() > self.timing.settled {
                backoff.reset();
            }
            match end {
                End::Over if began.elapsed() >= self.timing.shortest_watch() => {}
                // Before its time: so ends a server that is being stopped, and
                // the next one may be there before we have asked again.
                End::Over => {
                    sleep(backoff.next_wait()).await;
                    return End::Doubt;
                }
                End::Fault(Fault::Expired) => {
                    info!(resource = %self.resource, from, "our version is too old; listing again");
                    self.watches.fault(&self.label, &Fault::Expired);
                    return End::Over;
                }
                End::Fault(fault) => {
                    self.pause(&fault, backoff).await;
                    return End::Doubt;
                }
                other => return other,
            }
        }
    }

    async fn watch(&mut self, from: &mut String) -> End {
        let start = from.parse().unwrap_or(0);
        let seconds = self.timing.watch_seconds();
        let request = match self.resource.watch(from, seconds) {
            Ok(request) => request,
            Err(cause) => return End::Fault(Fault::Request(cause)),
        };
        let opened = Lines::open(&self.client, request, self.timing.patience).await;
        let mut lines = match opened {
            Ok(lines) => lines,
            Err(fault) => return End::Fault(fault),
        };
        self.watches.stage(&self.label, Stage::Watching);
        if self.memory.faults > 0 {
            info!(resource = %self.resource, faults = self.memory.faults, "followed again");
            self.memory.faults = 0;
        }
        loop {
            let batch = match self.gather(&mut lines).await {
                Ok(batch) if batch.is_empty() => return End::Over,
                Ok(batch) => batch,
                Err(fault) => return End::Fault(fault),
            };
            if let Err(end) = self.take(&batch, start, from).await {
                return end;
            }
        }
    }

    /// The next line and those that are there already; none at the end.
    async fn gather(&self, lines: &mut Lines) -> Result<Vec<Vec<u8>>, Fault> {
        let first = timeout(self.timing.silence, lines.next()).await;
        let Some(first) = first.map_err(|_| Fault::Silent)?? else {
            return Ok(Vec::new());
        };
        let mut batch = vec![first];
        while batch.len() < BATCH {
            match lines.next().now_or_never() {
                Some(Ok(Some(line))) => batch.push(line),
                // The end, or what is wrong, comes again.
                Some(Ok(None) | Err(_)) | None => break,
            }
        }
        Ok(batch)
    }

    /// Tells what is news among some lines.
    async fn take(&mut self, batch: &[Vec<u8>], start: u64, from: &mut String) -> Result<(), End> {
        let room = self.told.reserve().await.map_err(|_| End::Deaf)?;
        let (mut events, mut deleted) = (Vec::new(), Vec::new());
        let mut newest = from.parse().unwrap_or(0);
        let mut end = Ok(());
        for line in batch {
            let (verdict, head) = match Line::read(line) {
                Ok(None) => continue,
                Err(fault) => {
                    end = Err(End::Fault(fault));
                    break;
                }
                Ok(Some(Line::Bookmark(version, text))) => {
                    if version != 0 && version < start {
                        end = Err(End::OtherHistory);
                        break;
                    }
                    if version >= newest {
                        (newest, *from) = (version, text);
                    }
                    continue;
                }
                Ok(Some(Line::Applied(head, text))) => {
                    let name = Name::of(&head);
                    let verdict = self.memory.known.applied(&name, head.version, start);
                    if verdict == Verdict::News {
                        events.push(Event::Applied(name, (self.read)(text)));
                    }
                    (verdict, head)
                }
                Ok(Some(Line::Deleted(head))) => {
                    let name = Name::of(&head);
                    let verdict = self.memory.known.deleted(&name, head.version, start);
                    if verdict == Verdict::News {
                        deleted.push(name.clone());
                        events.push(Event::Deleted(name));
                    }
                    (verdict, head)
                }
            };
            if verdict == Verdict::OtherHistory {
                end = Err(End::OtherHistory);
                break;
            }
            if head.version >= newest {
                (newest, *from) = (head.version, head.resource_version);
            }
        }
        let left = self.memory.known.len();
        if self
            .memory
            .deletions
            .too_many(deleted.len(), left, self.timing.window)
        {
            self.hold(deleted.len(), left + deleted.len());
            deleted
                .into_iter()
                .for_each(|name| self.memory.known.restore(name));
            events.retain(|event| matches!(event, Event::Applied(..)));
            end = Err(End::Mass);
        } else {
            self.memory.deletions.told(deleted.len());
            self.watches.deleted(&self.label, deleted.len());
        }
        if !events.is_empty() {
            let applied = events
                .iter()
                .filter(|event| matches!(event, Event::Applied(..)));
            self.watches.applied(&self.label, applied.count());
            room.send((self.id, Told::Events(events)));
        }
        self.watches.objects(&self.label, self.memory.known.len());
        end
    }

    /// Says loudly that a mass deletion isn't believed yet.
    fn hold(&self, gone: usize, of: usize) {
        self.watches.held(&self.label, gone);
        error!(
            resource = %self.resource,
            gone,
            of,
            "more than half vanished at once: they stay in force until a second list agrees"
        );
    }

    async fn pause(&mut self, fault: &Fault, backoff: &mut Backoff) {
        self.watches.fault(&self.label, fault);
        self.memory.faults = self.memory.faults.saturating_add(1);
        let wait = backoff.next_wait();
        let wait = match fault {
            Fault::Refused {
                wait: Some(told), ..
            } => wait.max(*told),
            _ => wait,
        };
        if self.memory.faults.is_power_of_two() {
            warn!(
                resource = %self.resource,
                %fault,
                faults = self.memory.faults,
                "not followed at the moment; what is known stays in force"
            );
        }
        sleep(wait).await;
    }
}

/// Lines that are taken as one.
const BATCH: usize = 256;
