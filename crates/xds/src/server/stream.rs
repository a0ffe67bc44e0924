//! One stream's side of the conversation. No I/O: requests and publications
//! in, responses out, time as an argument.
//!
//! A stream works in turns. A turn pins one snapshot and delivers everything
//! that is due of it in the order of design D5: what comes first in the
//! publisher's order (policies) is sent first, its removals go last, and each
//! step waits until the one before has been answered or has waited long
//! enough. Whatever happens meanwhile is merged into what the next turn has to
//! deliver, so that a slow client costs a set of names and no queue.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use ambit_proto::discovery::DeltaDiscoveryRequest;

use super::audience::{Admitted, Standpoint, Visible};
use super::body::Outgoing;
use super::bundle::Resources;
use super::interest::{Due, Interest};
use super::publish::Publication;
use super::resource::{Resource, Snapshot, TypeView};
use super::status::{TypeStatus, TypeSync};

/// See the module.
pub(super) struct Stream {
    /// The node's name, for what belongs to it.
    node: Option<Arc<str>>,
    admitted: Admitted,
    opened: Instant,
    latest: Arc<Snapshot>,
    /// The publisher's types in its order, then unknown ones as they come.
    types: Vec<TypeState>,
    turn: Option<Turn>,
    /// Oldest publication that is due and not in the turn.
    due_since: Option<Instant>,
    /// Distinguishes this stream's nonces from an earlier one's.
    salt: u64,
    nonces: u64,
}

struct TypeState {
    type_url: Arc<str>,
    /// `None` until the client asks for the type.
    interest: Option<Interest>,
    due: Due,
    /// And everything else: the client holds nothing so far.
    everything: bool,
    /// An answer is owed even if it is empty.
    owed: bool,
    sent_nonce: String,
    acked_nonce: String,
    nack: Option<String>,
}

struct Turn {
    snapshot: Arc<Snapshot>,
    steps: VecDeque<Step>,
    /// The step that was sent: its type, and when its answer isn't waited for
    /// any longer.
    waits_for: Option<(usize, Instant)>,
    published: Option<Instant>,
}

struct Step {
    at: usize,
    resources: Resources,
    removed: Vec<Arc<str>>,
}

/// What to do next.
pub(super) enum Next {
    Send(Outgoing),
    /// Nothing before that moment, unless something happens.
    Idle(Option<Instant>),
}

/// What a request turned out to be, for counting.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Ack,
    /// The reason in the client's words.
    Nack(String),
    StaleNonce,
    /// A first request or a change of subscription.
    Subscription,
}

impl Stream {
    pub(super) fn new(
        snapshot: Arc<Snapshot>,
        node: Option<Arc<str>>,
        admitted: Admitted,
        salt: u64,
        now: Instant,
    ) -> Self {
        let types = snapshot.types.iter();
        let types = types.map(|(url, _)| TypeState::new(Arc::clone(url)));
        Self {
            node,
            admitted,
            opened: now,
            types: types.collect(),
            latest: snapshot,
            turn: None,
            due_since: None,
            salt,
            nonces: 0,
        }
    }

    /// A request arrived.
    ///
    /// # Errors
    /// The client asks for a type that isn't its to read, or for more types
    /// than there can be.
    pub(super) fn on_request(&mut self, request: &DeltaDiscoveryRequest) -> Result<Heard, Status> {
        if !self.admitted.may_read(&request.type_url) {
            return Err(Status::permission_denied("not a type for this caller"));
        }
        let at = self.type_index(&request.type_url)?;
        let empty = TypeView::default();
        let view = self.latest.view(&request.type_url).unwrap_or(&empty);
        let from = standpoint(self.node.as_ref(), &self.admitted);
        let view = Visible::new(view, from);
        let Some(state) = self.types.get_mut(at) else {
            return Err(Status::internal("type index"));
        };
        let Some(interest) = &mut state.interest else {
            let opened = Interest::open(request, view);
            state.interest = Some(opened.interest);
            state.due = opened.due;
            state.everything = opened.everything;
            state.owed = true;
            return Ok(Heard::Subscription);
        };
        // Subscriptions count whatever the nonce: a lost one would leave the
        // client waiting for ever.
        let due = interest.change(request, view);
        state.due.extend(due);
        if request.response_nonce.is_empty() {
            return Ok(Heard::Subscription);
        }
        if request.response_nonce != state.sent_nonce {
            return Ok(Heard::StaleNonce);
        }
        state.acked_nonce.clone_from(&state.sent_nonce);
        if let Some(turn) = &mut self.turn {
            turn.waits_for = turn.waits_for.filter(|(waits_for, _)| *waits_for != at);
        }
        state.nack = request.error_detail.as_ref().map(|e| e.message.clone());
        Ok(state.nack.clone().map_or(Heard::Ack, Heard::Nack))
    }

    /// Something was published.
    ///
    /// # Errors
    /// The client is so far behind that starting over is cheaper.
    pub(super) fn on_publication(&mut self, publication: &Publication) -> Result<(), Status> {
        let from = standpoint(self.node.as_ref(), &self.admitted);
        let empty = TypeView::default();
        let published = publication.snapshot.types.iter();
        for ((type_url, view), names) in published.zip(publication.touched.iter()) {
            let state = self.types.iter_mut().find(|t| t.type_url == *type_url);
            let Some(state) = state else { continue };
            let Some(interest) = &state.interest else {
                continue;
            };
            let before = self.latest.view(type_url).unwrap_or(&empty);
            let before = Visible::new(before, from);
            let due = interest.due(names, before, Visible::new(view, from));
            if !due.is_empty() {
                self.due_since.get_or_insert(publication.at);
            }
            state.due.extend(due);
            if state.due.len() > MAX_DUE {
                return Err(Status::resource_exhausted("too far behind, start over"));
            }
        }
        self.latest = Arc::clone(&publication.snapshot);
        Ok(())
    }

    /// The next response, or how long there is none. The second value is the
    /// age of the configuration that a client has just taken completely.
    pub(super) fn next(&mut self, now: Instant) -> (Next, Option<Duration>) {
        let mut converged = None;
        loop {
            let Some(turn) = &mut self.turn else {
                match self.begin_turn(now) {
                    Some(turn) => self.turn = Some(turn),
                    None => return (Next::Idle(self.order_deadline(now)), converged),
                }
                continue;
            };
            if let Some((_, until)) = turn.waits_for
                && now < until
            {
                return (Next::Idle(Some(until)), converged);
            }
            if turn.waits_for.take().is_some() {
                turn.published = None; // given up on: not converged
            }
            if let Some(step) = turn.steps.pop_front() {
                return (Next::Send(self.send(step, now)), converged);
            }
            converged = turn.published.map(|at| now.duration_since(at));
            self.turn = None;
        }
    }

    /// Where each type stands.
    pub(super) fn status(&self) -> Vec<TypeStatus> {
        let asked = self.types.iter().filter_map(|state| {
            let interest = state.interest.as_ref()?;
            let sync = if state.nack.is_some() {
                TypeSync::Error
            } else if state.sent_nonce.is_empty() {
                TypeSync::NotSent
            } else if state.sent_nonce == state.acked_nonce && state.due.is_empty() {
                TypeSync::Synced
            } else {
                TypeSync::Stale
            };
            Some(TypeStatus {
                type_url: Arc::clone(&state.type_url),
                sync,
                wildcard: matches!(interest, Interest::Wildcard),
                sent_nonce: state.sent_nonce.clone(),
                acked_nonce: state.acked_nonce.clone(),
                error: state.nack.clone(),
            })
        });
        asked.collect()
    }

    fn type_index(&mut self, type_url: &str) -> Result<usize, Status> {
        let mut known = self.types.iter();
        if let Some(at) = known.position(|t| t.type_url.as_ref() == type_url) {
            return Ok(at);
        }
        if self.types.len() >= MAX_TYPES {
            return Err(Status::invalid_argument("too many types on one stream"));
        }
        // Answered as a type without resources, so that nobody waits for it.
        self.types.push(TypeState::new(type_url.into()));
        Ok(self.types.len() - 1)
    }

    /// A type isn't sent before the ones that come first have been asked for,
    /// for a moment at least: clients ask for workloads before policies.
    fn is_held_back(&self, at: usize, now: Instant) -> bool {
        let earlier = self.types.iter().take(at);
        let announced = self.latest.types.len();
        now < self.opened + ORDER_PATIENCE
            && at < announced
            && earlier
                .filter(|t| self.admitted.may_read(&t.type_url))
                .any(|t| t.interest.is_none())
    }

    fn order_deadline(&self, now: Instant) -> Option<Instant> {
        let held = self.types.iter().enumerate();
        held.into_iter()
            .any(|(at, t)| t.has_work() && self.is_held_back(at, now))
            .then(|| self.opened + ORDER_PATIENCE)
    }

    fn begin_turn(&mut self, now: Instant) -> Option<Turn> {
        let snapshot = Arc::clone(&self.latest);
        let empty = TypeView::default();
        let mut additions = VecDeque::new();
        let mut removals = VecDeque::new();
        for at in 0..self.types.len() {
            let held_back = self.is_held_back(at, now);
            let Some(state) = self.types.get_mut(at) else {
                continue;
            };
            if held_back || !state.has_work() {
                continue;
            }
            let view = snapshot.view(&state.type_url).unwrap_or(&empty);
            let view = Visible::new(view, standpoint(self.node.as_ref(), &self.admitted));
            let (resources, removed) = state.take(view);
            if state.owed || !resources.as_slice().is_empty() {
                state.owed = false;
                additions.extend(in_pieces(at, resources));
            }
            if !removed.is_empty() {
                removals.push_front(Step {
                    at,
                    resources: Resources::none(),
                    removed,
                });
            }
        }
        let published = self.due_since.take();
        // The last additions and the first removals are of one type if both
        // exist for it: one response then, so that a resource that changes its
        // name never leaves a gap.
        let same = additions.back().zip(removals.front());
        if same.is_some_and(|(a, r): (&Step, &Step)| a.at == r.at)
            && let (Some(last), Some(first)) = (additions.back_mut(), removals.pop_front())
        {
            last.removed = first.removed;
        }
        let steps: VecDeque<Step> = additions.into_iter().chain(removals).collect();
        if steps.is_empty() {
            return None;
        }
        Some(Turn {
            snapshot,
            steps,
            waits_for: None,
            published,
        })
    }

    fn send(&mut self, step: Step, now: Instant) -> Outgoing {
        self.nonces += 1;
        let version = self.turn.as_ref().map_or(0, |turn| turn.snapshot.version);
        let nonce = format!("{version}-{}-{:016x}", self.nonces, self.salt);
        let mut outgoing = Outgoing {
            type_url: Arc::from(""),
            version: version.to_string(),
            nonce: nonce.clone(),
            resources: step.resources,
            with_aliases: false,
            removed: step.removed,
        };
        if let Some(state) = self.types.get_mut(step.at) {
            outgoing.type_url = Arc::clone(&state.type_url);
            outgoing.with_aliases = matches!(state.interest, Some(Interest::Named { .. }));
            state.sent_nonce = nonce;
        }
        if let Some(turn) = &mut self.turn {
            turn.waits_for = Some((step.at, now + ACK_PATIENCE));
        }
        outgoing
    }
}

impl TypeState {
    fn new(type_url: Arc<str>) -> Self {
        Self {
            type_url,
            interest: None,
            due: Due::new(),
            everything: false,
            owed: false,
            sent_nonce: String::new(),
            acked_nonce: String::new(),
            nack: None,
        }
    }

    fn has_work(&self) -> bool {
        self.owed || self.everything || !self.due.is_empty()
    }

    /// What is due, resolved: to send, and to report as gone.
    fn take(&mut self, view: Visible<'_>) -> (Resources, Vec<Arc<str>>) {
        let due = std::mem::take(&mut self.due);
        let Some(interest) = &mut self.interest else {
            return (Resources::none(), Vec::new());
        };
        if std::mem::take(&mut self.everything) {
            let resources = match view.everything(MAX_RESPONSE) {
                Some(all) => Resources::All(all),
                None => Resources::Some(sorted(view.all().cloned().collect())),
            };
            return (resources, Vec::new()); // of what is gone it was never told
        }
        let mut resources = Vec::with_capacity(due.len());
        let mut removed = Vec::new();
        let mut seen: HashSet<Arc<str>> = HashSet::with_capacity(due.len());
        for name in due {
            let found = interest.resolve(&name, view);
            if found.is_empty() {
                removed.push(name);
                continue;
            }
            for resource in found {
                if seen.insert(Arc::clone(&resource.name)) {
                    resources.push(resource);
                }
            }
        }
        removed.sort_unstable();
        let resources = sorted(resources);
        interest.on_sent(resources.iter().map(|r| &r.name), &removed);
        (Resources::Some(resources), removed)
    }
}

fn sorted(mut resources: Vec<Arc<Resource>>) -> Vec<Arc<Resource>> {
    resources.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    resources
}

fn standpoint<'a>(node: Option<&'a Arc<str>>, admitted: &'a Admitted) -> Standpoint<'a> {
    Standpoint {
        node: node.map(AsRef::as_ref),
        audience: admitted.audience.as_deref(),
    }
}

/// One step, or several if the client couldn't take it in one message.
fn in_pieces(at: usize, resources: Resources) -> Vec<Step> {
    let step = |resources| Step {
        at,
        resources,
        removed: Vec::new(),
    };
    let resources = match resources {
        all @ Resources::All(_) => return vec![step(all)],
        Resources::Some(some) => some,
    };
    let mut pieces = vec![Vec::new()];
    let mut size = 0;
    for resource in resources {
        let bytes = resource.wire_len(false);
        if size > 0 && size + bytes > MAX_RESPONSE {
            size = 0;
            pieces.push(Vec::new());
        }
        size += bytes;
        if let Some(piece) = pieces.last_mut() {
            piece.push(resource);
        }
    }
    let pieces = pieces.into_iter();
    pieces.map(|some| step(Resources::Some(some))).collect()
}

/// How long workloads wait for the client to ask for policies.
pub(super) const ORDER_PATIENCE: Duration = Duration::from_secs(1);
/// How long a step waits for the answer to the one before.
pub(super) const ACK_PATIENCE: Duration = Duration::from_secs(5);
/// Types on one stream; nobody knows more than a handful.
const MAX_TYPES: usize = 16;
/// Names that a stream may have to be told about.
const MAX_DUE: usize = 4_000_000;
/// Well below the 200 MiB that clients take.
const MAX_RESPONSE: usize = 128 << 20;

#[cfg(test)]
#[path = "stream_audience_tests.rs"]
mod audience_tests;
#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
