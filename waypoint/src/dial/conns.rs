//! HTTP connections that are kept for further requests, on one data thread.
//!
//! HTTP/1: a connection carries one request at a time and comes back when its
//! response has been read to the end; one that isn't ready is never used, so
//! no request meets the rest of another; how many are kept is a matter of how
//! many were needed lately ([`Need`]). HTTP/2: connections are shared up to a
//! number of streams.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ambit_runtime::Scope;
use ambit_types::SpiffeId;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;
use tracing::debug;

use super::need::Need;
use super::{DialFailure, Dialer, Hop, TlsOrigin};
use crate::http::UpBody;
use crate::spawn::OnScope;

/// What is spoken to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// Who may share a connection: the whole identity and address, and what is put
/// around it. Hashed by address alone, compared whole.
#[derive(Debug, Clone)]
pub(crate) struct ConnKey {
    pub(crate) address: SocketAddr,
    pub(crate) hbone: Option<Arc<[SpiffeId]>>,
    pub(crate) tls: Option<Arc<TlsOrigin>>,
    pub(crate) version: Version,
    /// Set where a PROXY header names the client: then it is that client's own.
    pub(crate) client: Option<SocketAddr>,
}

impl PartialEq for ConnKey {
    fn eq(&self, other: &Self) -> bool {
        let tls = match (&self.tls, &other.tls) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        tls && self.address == other.address
            && self.version == other.version
            && self.client == other.client
            && self.hbone == other.hbone
    }
}

impl Eq for ConnKey {}

impl Hash for ConnKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
        self.version.hash(state);
    }
}

/// A connection for one request.
pub(crate) enum Sender {
    Http1(Http1),
    Http2(Http2),
}

/// An HTTP/1 connection that is this request's alone until it is given back.
pub(crate) struct Http1 {
    pub(crate) send: http1::SendRequest<UpBody>,
    uses: u32,
    born: Instant,
}

/// A place on a shared HTTP/2 connection; dropping it frees the place.
pub(crate) struct Http2 {
    pub(crate) send: http2::SendRequest<UpBody>,
    shared: Arc<Shared>,
}

struct Shared {
    send: http2::SendRequest<UpBody>,
    active: AtomicUsize,
    uses: AtomicUsize,
    last_used: Mutex<Instant>,
    born: Instant,
    inner: Weak<Inner>,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.shared.active.fetch_sub(1, Ordering::Relaxed);
        *self.shared.last_used.lock() = Instant::now();
        if let Some(inner) = self.shared.inner.upgrade() {
            inner.tell();
        }
    }
}

/// What a pool of one key may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolLimits {
    /// An idle connection is closed after this; `None`: never.
    pub(crate) idle: Option<Duration>,
    /// Requests that one connection carries; `None`: any number.
    pub(crate) uses: Option<u32>,
    /// Streams of an HTTP/2 connection.
    pub(crate) streams: usize,
    /// Nothing new is sent on a connection that is older.
    pub(crate) life: Option<Duration>,
}

impl PoolLimits {
    fn outlived(&self, born: Instant) -> bool {
        self.life.is_some_and(|life| born.elapsed() >= life)
    }

    fn worn(&self, uses: usize) -> bool {
        let max = self
            .uses
            .map(|max| usize::try_from(max).unwrap_or(usize::MAX));
        max.is_some_and(|max| uses >= max)
    }
}

/// The connections of one data thread. Clones share them.
#[derive(Clone)]
pub(crate) struct Conns {
    inner: Arc<Inner>,
}

struct Inner {
    scope: Scope,
    entries: Mutex<HashMap<ConnKey, Entry>>,
    /// Told when a place may have become free, while somebody waits.
    freed: Notify,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Entry {
    idle: Vec<Idle>,
    shared: Vec<Arc<Shared>>,
    limit: Option<Duration>,
    /// Connections that exist, whatever is done on them.
    open: usize,
    /// Of them, those that were let go and haven't ended yet.
    ending: usize,
    /// Of HTTP/1.
    need: Need,
}

impl Entry {
    /// HTTP/1 connections with a request.
    fn in_use(&self) -> usize {
        self.open.saturating_sub(self.idle.len() + self.ending)
    }

    /// A connection has been taken into use.
    fn taken(&mut self) {
        self.need.in_use(self.in_use());
    }

    /// Lets idle connections go that weren't needed lately. The latest are at
    /// the end, where the next request looks first.
    fn prune(&mut self) {
        let kept = self.need.tick(self.in_use());
        let surplus = self.idle.len().saturating_sub(kept);
        self.idle.drain(..surplus);
        self.ending += surplus;
    }
}

/// A connection exists until this is dropped.
struct Opened<H> {
    inner: Weak<Inner>,
    key: ConnKey,
    held: Option<H>,
}

impl<H> Drop for Opened<H> {
    fn drop(&mut self) {
        self.held = None;
        let Some(inner) = self.inner.upgrade() else {
            return;
        };
        if let Some(entry) = inner.entries.lock().get_mut(&self.key) {
            entry.open = entry.open.saturating_sub(1);
            entry.ending = entry.ending.saturating_sub(1);
        }
        inner.tell();
    }
}

/// Somebody waits for a place.
pub(crate) struct Waiting<'c>(&'c Inner);

impl Waiting<'_> {
    /// Until a place may have become free. To be made, and enabled, before one
    /// is looked for.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.0.freed.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Idle {
    send: http1::SendRequest<UpBody>,
    uses: u32,
    since: Instant,
    born: Instant,
}

/// Idle connections of one key. More are closed.
const MAX_IDLE: usize = 1024;
const SWEEP: Duration = Duration::from_secs(1);

impl Conns {
    /// No connections; their tasks belong to `scope`.
    pub(crate) fn new(scope: &Scope) -> Self {
        let inner = Arc::new(Inner {
            scope: scope.child("upstream connections"),
            entries: Mutex::default(),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
        });
        let weak = Arc::downgrade(&inner);
        scope.spawn("sweep upstream connections", async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(inner) = weak.upgrade() else { return };
                inner.sweep(Instant::now());
            }
        });
        Self { inner }
    }

    /// Whether there is a connection of this key, busy or not.
    pub(crate) fn any(&self, key: &ConnKey) -> bool {
        let entries = self.inner.entries.lock();
        entries.get(key).is_some_and(|entry| entry.open > 0)
    }

    /// Waits for a place from now on.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.inner.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.inner)
    }

    /// A kept connection, if one can be used now.
    pub(crate) fn reuse(&self, key: &ConnKey, limits: PoolLimits) -> Option<Sender> {
        let mut entries = self.inner.entries.lock();
        let entry = entries.get_mut(key)?;
        entry.limit = limits.idle;
        match key.version {
            Version::Http1 => {
                // The latest first: it is the least likely to have been closed.
                let mut index = entry.idle.len();
                while index > 0 {
                    index -= 1;
                    let idle = entry.idle.get(index)?;
                    if idle.send.is_closed() || limits.outlived(idle.born) {
                        entry.idle.remove(index);
                    } else if idle.send.is_ready() {
                        let idle = entry.idle.remove(index);
                        entry.taken();
                        return Some(Sender::Http1(Http1 {
                            send: idle.send,
                            uses: idle.uses,
                            born: idle.born,
                        }));
                    }
                }
                None
            }
            Version::Http2 => {
                // What is let go of here ends with its last request.
                entry.shared.retain(|shared| {
                    let uses = shared.uses.load(Ordering::Relaxed);
                    !(shared.send.is_closed() || limits.worn(uses) || limits.outlived(shared.born))
                });
                let free = entry
                    .shared
                    .iter()
                    .find(|shared| shared.active.load(Ordering::Relaxed) < limits.streams.max(1))?;
                Some(Sender::Http2(place(free)))
            }
        }
    }

    /// A new connection. An HTTP/2 one is shared from now on. `held` is kept
    /// for as long as the connection lives: its place in a limit.
    ///
    /// # Errors
    /// See [`DialFailure`].
    pub(crate) async fn open<H: Send + 'static>(
        &self,
        dialer: &Dialer,
        key: &ConnKey,
        hop: &Hop,
        held: H,
    ) -> Result<Sender, DialFailure> {
        let held = self.opened(key, held);
        let io = TokioIo::new(dialer.dial(hop).await?);
        let scope = &self.inner.scope;
        match key.version {
            Version::Http1 => {
                let (send, connection) = http1::Builder::new()
                    .max_headers(MAX_RESPONSE_FIELDS)
                    .max_buf_size(MAX_RESPONSE_HEAD)
                    .handshake(io)
                    .await
                    .map_err(DialFailure::Http)?;
                scope.spawn("upstream http1", async move {
                    let _held = held;
                    if let Err(error) = connection.with_upgrades().await {
                        debug!(%error, "upstream connection ended");
                    }
                });
                Ok(Sender::Http1(Http1 {
                    send,
                    uses: 0,
                    born: Instant::now(),
                }))
            }
            Version::Http2 => {
                let (send, connection) = http2::Builder::new(OnScope(scope.clone()))
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .max_header_list_size(HEADER_LIST)
                    .max_send_buf_size(SEND_BUFFER)
                    .keep_alive_interval(PING)
                    .keep_alive_timeout(PONG)
                    .handshake(io)
                    .await
                    .map_err(DialFailure::Http)?;
                scope.spawn("upstream http2", async move {
                    let _held = held;
                    if let Err(error) = connection.await {
                        debug!(%error, "upstream connection ended");
                    }
                });
                let shared = Arc::new(Shared {
                    send,
                    active: AtomicUsize::new(0),
                    uses: AtomicUsize::new(0),
                    born: Instant::now(),
                    inner: Arc::downgrade(&self.inner),
                    last_used: Mutex::new(Instant::now()),
                });
                let place = place(&shared);
                let mut entries = self.inner.entries.lock();
                entries.entry(key.clone()).or_default().shared.push(shared);
                drop(entries);
                self.inner.tell();
                Ok(Sender::Http2(place))
            }
        }
    }

    fn opened<H>(&self, key: &ConnKey, held: H) -> Opened<H> {
        let mut entries = self.inner.entries.lock();
        let entry = match entries.get_mut(key) {
            Some(entry) => entry,
            None => entries.entry(key.clone()).or_default(),
        };
        entry.open += 1;
        entry.taken();
        Opened {
            inner: Arc::downgrade(&self.inner),
            key: key.clone(),
            held: Some(held),
        }
    }

    /// Gives an HTTP/1 connection back, once its response has been read.
    pub(crate) fn give_back(&self, key: &ConnKey, connection: Http1, limits: PoolLimits) {
        let uses = connection.uses.saturating_add(1);
        let worn = limits.worn(usize::try_from(uses).unwrap_or(usize::MAX));
        if worn || limits.outlived(connection.born) || connection.send.is_closed() {
            return;
        }
        let mut entries = self.inner.entries.lock();
        let entry = match entries.get_mut(key) {
            Some(entry) => entry,
            None => entries.entry(key.clone()).or_default(),
        };
        entry.limit = limits.idle;
        if entry.idle.len() < MAX_IDLE {
            entry.idle.push(Idle {
                send: connection.send,
                uses,
                since: Instant::now(),
                born: connection.born,
            });
        }
        drop(entries);
        self.inner.tell();
    }
}

fn place(shared: &Arc<Shared>) -> Http2 {
    shared.active.fetch_add(1, Ordering::Relaxed);
    shared.uses.fetch_add(1, Ordering::Relaxed);
    Http2 {
        send: shared.send.clone(),
        shared: Arc::clone(shared),
    }
}

impl Inner {
    fn tell(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.freed.notify_waiters();
        }
    }

    fn sweep(&self, now: Instant) {
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| {
            let limit = entry.limit.unwrap_or(Duration::MAX);
            let stale = |since: Instant| now.saturating_duration_since(since) >= limit;
            entry
                .idle
                .retain(|idle| !idle.send.is_closed() && !stale(idle.since));
            entry.prune();
            entry.shared.retain(|shared| {
                let unused = shared.active.load(Ordering::Relaxed) == 0;
                !(shared.send.is_closed() || unused && stale(*shared.last_used.lock()))
            });
            !(entry.idle.is_empty() && entry.shared.is_empty() && entry.open == 0)
        });
    }
}

/// Response heads that are taken (7.2, towards the backend as well).
const MAX_RESPONSE_FIELDS: usize = 128;
/// Also the most that is read of a body at a time.
const MAX_RESPONSE_HEAD: usize = 64 << 10;
const HEADER_LIST: u32 = 64 << 10;
/// Unread bytes that one response, and one connection, may hold.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
const SEND_BUFFER: usize = 256 << 10;
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);
