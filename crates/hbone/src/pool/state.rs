//! The pool's book-keeping: no I/O, no waiting.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::key::PoolKey;
use super::link::{Conn, Lease, Link};
use crate::config::HboneConfig;
use crate::error::{DialError, OpenError};

/// All connections and dials.
#[derive(Default)]
pub(super) struct State {
    closed: bool,
    sweeping: bool,
    next_dial: u64,
    /// Connections and dials under way: what the budget counts.
    count: usize,
    entries: HashMap<PoolKey, Entry>,
}

#[derive(Default)]
struct Entry {
    conns: Vec<Arc<Conn>>,
    dials: Vec<Dial>,
}

/// A dial under way and those who wait for it, at most as many as one
/// connection can carry.
struct Dial {
    id: u64,
    waiters: Vec<oneshot::Sender<Outcome>>,
}

/// What a waiter gets.
pub(super) enum Outcome {
    Leased(Arc<Conn>, Lease),
    Failed(Arc<DialError>),
    /// The peer takes fewer streams than was assumed: look again.
    Again,
}

/// Where a request finds its connection.
pub(super) enum Found {
    Connection(Arc<Conn>, Lease),
    /// Another request's dial.
    Dial(oneshot::Receiver<Outcome>),
    /// A dial that the caller has to start.
    Start(u64, oneshot::Receiver<Outcome>),
}

impl State {
    pub(super) fn find(&mut self, key: &PoolKey, config: &HboneConfig) -> Result<Found, OpenError> {
        if self.closed {
            return Err(OpenError::Closed);
        }
        if let Some(entry) = self.entries.get_mut(key) {
            if let Some((conn, lease)) = entry.lease(config, &mut self.count) {
                return Ok(Found::Connection(conn, lease));
            }
            if let Some(waiting) = entry.join(config) {
                return Ok(Found::Dial(waiting));
            }
        }
        if self.count >= config.max_connections && !self.evict_idle() {
            let limit = config.max_connections;
            return Err(OpenError::Limit { limit });
        }
        let (sender, waiting) = oneshot::channel();
        let id = self.next_dial;
        self.next_dial += 1;
        self.count += 1;
        let waiters = vec![sender];
        let entry = self.entries.entry(key.clone()).or_default();
        entry.dials.push(Dial { id, waiters });
        Ok(Found::Start(id, waiting))
    }

    /// A dial gave a connection. Its first waiter, who caused it, goes at once.
    /// True if there are more, who wait for the peer's settings.
    pub(super) fn on_dialled(&mut self, key: &PoolKey, id: u64, conn: &Arc<Conn>) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        entry.conns.push(Arc::clone(conn));
        // The dial's place in the budget is the connection's from now on.
        let Some(at) = entry.dials.iter().position(|dial| dial.id == id) else {
            return false;
        };
        let dial = entry.dials.remove(at);
        let mut waiters = dial.waiters.into_iter();
        // A waiter that is gone gives its lease back by dropping it.
        for first in waiters.by_ref() {
            let lease = conn.first_lease();
            if first.send(Outcome::Leased(Arc::clone(conn), lease)).is_ok() {
                break;
            }
        }
        let waiters: Vec<_> = waiters.collect();
        if waiters.is_empty() {
            return false;
        }
        entry.dials.insert(at, Dial { id, waiters });
        true
    }

    /// The peer's settings are known: whoever fits goes, the others look again.
    pub(super) fn on_settled(
        &mut self,
        key: &PoolKey,
        id: u64,
        conn: &Arc<Conn>,
        config: &HboneConfig,
    ) {
        for waiter in self.take_waiters(key, id) {
            let outcome = match conn.lease(config) {
                Some(lease) if conn.is_usable() => Outcome::Leased(Arc::clone(conn), lease),
                Some(_) | None => Outcome::Again,
            };
            let _ = waiter.send(outcome);
        }
    }

    pub(super) fn on_dial_failed(&mut self, key: &PoolKey, id: u64, error: DialError) {
        let error = Arc::new(error);
        for waiter in self.abandon(key, id) {
            let _ = waiter.send(Outcome::Failed(Arc::clone(&error)));
        }
    }

    /// Forgets a dial that gives no connection.
    fn abandon(&mut self, key: &PoolKey, id: u64) -> Vec<oneshot::Sender<Outcome>> {
        let waiters = self.take_waiters(key, id);
        self.count = self.count.saturating_sub(1);
        self.forget_if_empty(key);
        waiters
    }

    /// A connection is over.
    pub(super) fn on_ended(&mut self, key: &PoolKey, link: &Arc<Link>) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.retain(&mut self.count, |conn| !Arc::ptr_eq(&conn.link, link));
        }
        self.forget_if_empty(key);
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.count = 0;
        self.entries.clear();
    }

    pub(super) fn connections(&self) -> usize {
        self.entries.values().map(|entry| entry.conns.len()).sum()
    }

    /// True once, when a sweeper has to be started.
    pub(super) fn sweep_needed(&mut self) -> bool {
        !std::mem::replace(&mut self.sweeping, true)
    }

    /// Drops what is idle for long enough. Returns when the next one is due;
    /// `None` ends the sweeper.
    pub(super) fn sweep(&mut self, now: Instant, release: Duration) -> Option<Duration> {
        let mut next = release;
        let count = &mut self.count;
        self.entries.retain(|_, entry| {
            entry.retain(count, |conn| {
                if !conn.is_idle() {
                    return true;
                }
                let left = (conn.last_used() + release).saturating_duration_since(now);
                if !left.is_zero() {
                    next = next.min(left);
                }
                !left.is_zero()
            });
            !entry.is_empty()
        });
        self.sweeping = !self.entries.is_empty();
        self.sweeping.then_some(next)
    }

    /// Makes room in the budget by closing what was idle longest.
    fn evict_idle(&mut self) -> bool {
        let idle = self
            .entries
            .iter()
            .flat_map(|(key, entry)| entry.conns.iter().map(move |conn| (key, conn)))
            .filter(|(_, conn)| conn.is_idle())
            .min_by_key(|(_, conn)| conn.last_used())
            .map(|(key, conn)| (key.clone(), Arc::clone(&conn.link)));
        let Some((key, link)) = idle else {
            return false;
        };
        self.on_ended(&key, &link);
        true
    }

    fn take_waiters(&mut self, key: &PoolKey, id: u64) -> Vec<oneshot::Sender<Outcome>> {
        let Some(entry) = self.entries.get_mut(key) else {
            return Vec::new();
        };
        match entry.dials.iter().position(|dial| dial.id == id) {
            Some(at) => entry.dials.remove(at).waiters,
            None => Vec::new(),
        }
    }

    fn forget_if_empty(&mut self, key: &PoolKey) {
        if self.entries.get(key).is_some_and(Entry::is_empty) {
            self.entries.remove(key);
        }
    }
}

impl Entry {
    /// A place on the first connection that has one; drops those that are over.
    fn lease(&mut self, config: &HboneConfig, count: &mut usize) -> Option<(Arc<Conn>, Lease)> {
        let mut unusable = false;
        let found = self.conns.iter().find_map(|conn| {
            let lease = conn.lease(config)?;
            if conn.is_usable() {
                return Some((Arc::clone(conn), lease));
            }
            unusable = true;
            None
        });
        if unusable {
            self.retain(count, Conn::is_usable);
        }
        found
    }

    /// A place with a dial that has one.
    fn join(&mut self, config: &HboneConfig) -> Option<oneshot::Receiver<Outcome>> {
        let cap = config.max_streams_per_connection.max(1);
        let dial = self.dials.iter_mut().find(|d| d.waiters.len() < cap)?;
        let (sender, waiting) = oneshot::channel();
        dial.waiters.push(sender);
        Some(waiting)
    }

    fn retain(&mut self, count: &mut usize, mut keep: impl FnMut(&Conn) -> bool) {
        let before = self.conns.len();
        self.conns.retain(|conn| keep(conn));
        *count = count.saturating_sub(before - self.conns.len());
    }

    fn is_empty(&self) -> bool {
        self.conns.is_empty() && self.dials.is_empty()
    }
}
