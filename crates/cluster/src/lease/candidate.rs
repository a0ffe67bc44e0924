//! What a candidate knows of a Lease and what follows from it; no clock and no connection of its own.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use tokio::time::Instant;

use super::now;

/// One of those who compete.
pub(super) struct Candidate {
    identity: String,
    /// The Lease as it was last seen, if that may still be how it is.
    known: Option<Option<Seen>>,
    /// The last record of another holder, and when we first saw it.
    rival: Option<(LeaseSpec, Instant)>,
}

struct Seen {
    spec: LeaseSpec,
    version: String,
}

/// What to do now.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Another holds it.
    Wait,
    /// There is none.
    Create(LeaseSpec),
    /// Take or renew it, unless it has changed since this version.
    Write(LeaseSpec, String),
}

impl Candidate {
    pub(super) fn new(identity: String) -> Self {
        Self {
            identity,
            known: None,
            rival: None,
        }
    }

    /// Whether the Lease needn't be looked at first.
    pub(super) fn knows(&self) -> bool {
        self.known.is_some()
    }

    pub(super) fn forget(&mut self) {
        self.known = None;
    }

    /// The Lease was just seen like this.
    pub(super) fn observe(&mut self, lease: Option<Lease>, now: Instant) {
        let seen = lease.map(|lease| Seen {
            spec: lease.spec.unwrap_or_default(),
            version: lease.metadata.resource_version.unwrap_or_default(),
        });
        let other = seen.as_ref().map(|seen| &seen.spec);
        match other.filter(|spec| self.is_held_by_another(spec)) {
            None => self.rival = None,
            Some(spec) if self.rival.as_ref().is_some_and(|(same, _)| same == spec) => {}
            Some(spec) => self.rival = Some((spec.clone(), now)),
        }
        self.known = Some(seen);
    }

    /// We wrote it, and this is what came of it.
    pub(super) fn wrote(&mut self, lease: Lease) {
        self.rival = None;
        self.known = Some(Some(Seen {
            spec: lease.spec.unwrap_or_default(),
            version: lease.metadata.resource_version.unwrap_or_default(),
        }));
    }

    /// `term` is what we ask for; a holder has asked for its own.
    pub(super) fn step(&self, at: Instant, term: Duration) -> Step {
        let Some(seen) = self.known.as_ref().and_then(Option::as_ref) else {
            return Step::Create(self.taken(&LeaseSpec::default(), term));
        };
        if holder(&seen.spec) == Some(&*self.identity) {
            let mut spec = seen.spec.clone();
            spec.renew_time = Some(now());
            spec.lease_duration_seconds = Some(seconds(term));
            return Step::Write(spec, seen.version.clone());
        }
        let over = self.rival.as_ref().is_none_or(|(spec, since)| {
            let theirs = spec.lease_duration_seconds.and_then(|s| s.try_into().ok());
            at >= *since + theirs.map_or(term, Duration::from_secs)
        });
        if over {
            Step::Write(self.taken(&seen.spec, term), seen.version.clone())
        } else {
            Step::Wait
        }
    }

    /// How the Lease is given back; none if it isn't ours.
    pub(super) fn release(&self) -> Option<(LeaseSpec, String)> {
        let seen = self.known.as_ref()?.as_ref()?;
        if holder(&seen.spec) != Some(&*self.identity) {
            return None;
        }
        let mut spec = seen.spec.clone();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(now());
        Some((spec, seen.version.clone()))
    }

    fn taken(&self, before: &LeaseSpec, term: Duration) -> LeaseSpec {
        let now = now();
        let transitions = before.lease_transitions.unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds(term)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(if holder(before).is_some() {
                transitions.saturating_add(1)
            } else {
                transitions
            }),
            ..before.clone()
        }
    }

    fn is_held_by_another(&self, spec: &LeaseSpec) -> bool {
        holder(spec).is_some_and(|holder| holder != self.identity)
    }
}

fn holder(spec: &LeaseSpec) -> Option<&str> {
    let holder = spec.holder_identity.as_deref();
    holder.filter(|holder| !holder.is_empty())
}

/// At least one: the API server refuses less.
fn seconds(term: Duration) -> i32 {
    i32::try_from(term.as_secs()).unwrap_or(i32::MAX).max(1)
}
