//! Connections that are shared by the tunnels of one pod on one data thread.
//!
//! Rules (`ztunnel-contract` 2.7, and better where it says to avoid upstream's):
//! a connection serves whoever has the same whole key; it carries at most the
//! smaller of our cap and the peer's limit at a time, and is used again when it
//! empties; N simultaneous requests share ceil(N / cap) dials; each dial's result
//! goes to those who wait for that dial, at once and to nobody else; an idle
//! connection is closed after a while; one that the peer is leaving is dropped
//! and the request tried elsewhere, a few times; so is a dial whose handshake the
//! peer ended without a word, as one does that closes its port.

mod key;
mod link;
mod state;

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ambit_identity::{CertError, Svid, TlsFault};
use ambit_net::PodSockets;
use ambit_runtime::Scope;
use http::{Request, StatusCode};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::baggage::Baggage;
use crate::config::HboneConfig;
use crate::dial::{Dialled, dial};
use crate::engine::{ClientDriver, DriverEnd};
use crate::error::{DialError, OpenError};
use crate::handshake::Side;
use crate::request::ConnectRequest;
use crate::tunnel::Tunnel;

pub use key::PoolKey;
pub(crate) use link::Lease;
use link::{Conn, Link};
use state::{Found, Outcome, State};

/// Opens tunnels. A clone is another handle on the same pool; when the last one
/// is dropped, connections end with their last tunnel.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    config: HboneConfig,
    sockets: PodSockets,
    scope: Scope,
    state: Mutex<State>,
}

/// How often a request is tried elsewhere that its peer hasn't touched.
const ELSEWHERE: usize = 3;
/// Before each further try of a handshake that ended without a word.
const REDIAL: [Duration; DIALS - 1] = [Duration::from_millis(10), Duration::from_millis(50)];
const DIALS: usize = 3;
/// How often a request that waited for a dial in vain looks again.
const TRIES: usize = 8;
/// How long those who come second to a new connection wait for the peer's
/// settings, which say how many of them it takes. One round trip, as a rule.
const SETTLE: Duration = Duration::from_secs(1);
/// The sweep for idle connections runs at most this often.
const SWEEP: Duration = Duration::from_secs(1);

impl Pool {
    /// A pool without connections, whose tasks belong to a child of `scope`.
    pub fn new(config: HboneConfig, sockets: PodSockets, scope: &Scope) -> Self {
        let shared = Shared {
            config,
            sockets,
            scope: scope.child("hbone pool"),
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Opens a tunnel on a connection of this key, old or new. `svid` is asked
    /// only when a connection has to be made, and again if that one goes away
    /// before it took the request, as in a peer's drain; a dial goes on if the request
    /// that caused it is dropped, for those who wait with it.
    ///
    /// # Errors
    /// See [`OpenError`]. Every wait has a deadline.
    ///
    /// # Cancel safety
    /// Dropping the future gives its place up and resets its stream.
    pub async fn open<F, Fut>(
        &self,
        key: &PoolKey,
        svid: F,
        request: &ConnectRequest,
    ) -> Result<Tunnel, OpenError>
    where
        F: FnOnce() -> Fut + Clone + Send + Sync,
        Fut: Future<Output = Result<Arc<Svid>, CertError>> + Send + 'static,
    {
        let head = request.to_http()?;
        let mut tried = 0;
        loop {
            let place = self.checkout(key, &svid).await?;
            match self.connect(key, place, head.clone()).await {
                Ok(tunnel) => return Ok(tunnel),
                Err(Failure { retry: true, .. }) if tried < ELSEWHERE => tried += 1,
                Err(failure) => return Err(failure.error),
            }
        }
    }

    /// Ends everything now: the pod is gone.
    pub fn close(&self) {
        self.shared.state.lock().close();
        self.shared.scope.cancel();
    }

    /// Connections that the pool holds.
    pub fn connections(&self) -> usize {
        self.shared.state.lock().connections()
    }

    /// A place on a connection.
    async fn checkout<F, Fut>(&self, key: &PoolKey, svid: &F) -> Result<Place, OpenError>
    where
        F: FnOnce() -> Fut + Clone + Send + Sync,
        Fut: Future<Output = Result<Arc<Svid>, CertError>> + Send + 'static,
    {
        let config = &self.shared.config;
        for _ in 0..TRIES {
            let found = self.shared.state.lock().find(key, config)?;
            let waiting = match found {
                Found::Connection(conn, lease) => {
                    let fresh = false;
                    return Ok(Place { conn, lease, fresh });
                }
                Found::Dial(waiting) => waiting,
                Found::Start(id, waiting) => {
                    // Not asked unless a dial gets that far.
                    let svids = [svid.clone()(), svid.clone()(), svid.clone()()];
                    self.start(key.clone(), id, svids);
                    waiting
                }
            };
            match waiting.await {
                Ok(Outcome::Leased(conn, lease)) => {
                    let fresh = true;
                    return Ok(Place { conn, lease, fresh });
                }
                Ok(Outcome::Failed(error)) => return Err(OpenError::Dial(error)),
                Ok(Outcome::Again) => {}
                Err(_) => return Err(OpenError::Closed),
            }
        }
        Err(OpenError::Dial(Arc::new(DialError::Abandoned)))
    }

    fn start<Fut>(&self, key: PoolKey, id: u64, svids: [Fut; DIALS])
    where
        Fut: Future<Output = Result<Arc<Svid>, CertError>> + Send + 'static,
    {
        let shared = Arc::downgrade(&self.shared);
        let config = self.shared.config.clone();
        let sockets = self.shared.sockets.clone();
        let task = async move {
            let result = dial_again(&config, &sockets, &key, svids).await;
            let Some(shared) = shared.upgrade() else {
                return;
            };
            match result {
                Ok(dialled) => shared.on_dialled(key, id, dialled).await,
                Err(error) => {
                    debug!(peer = %key.peer, reason = ?error.reason(), %error, "dial failed");
                    shared.state.lock().on_dial_failed(&key, id, error);
                }
            }
        };
        self.shared.scope.spawn("hbone dial", task);
    }

    /// Sends the CONNECT and waits for the answer.
    async fn connect(
        &self,
        key: &PoolKey,
        place: Place,
        head: Request<()>,
    ) -> Result<Tunnel, Failure> {
        let Place { conn, lease, fresh } = place;
        let peer = key.peer;
        let mut opener = conn.opener.clone();
        drop(conn);
        let answer = timeout(self.shared.config.connect_timeout, opener.connect(head)).await;
        match answer {
            Err(_) => Err(Failure::last(OpenError::Timeout { peer })),
            Ok(Err(failure)) => {
                // Nothing more is opened here. What never reached the peer, or
                // died with a connection that had been idle, is tried again.
                lease.retire();
                let retry = failure.untouched || !fresh;
                let error = match lease.fault() {
                    Some(fault) => OpenError::Refused { peer, fault },
                    None => OpenError::Http2 {
                        peer,
                        source: failure.source,
                    },
                };
                Err(Failure { error, retry })
            }
            Ok(Ok((response, stream))) if response.status() == StatusCode::OK => {
                let baggage = Baggage::from_headers(response.headers());
                Ok(Tunnel::dialled(stream, lease, baggage))
            }
            Ok(Ok((response, _))) => Err(Failure::last(OpenError::Rejected {
                status: response.status(),
            })),
        }
    }
}

/// A place on a connection for one tunnel.
struct Place {
    conn: Arc<Conn>,
    lease: Lease,
    /// The connection was made for this request.
    fresh: bool,
}

struct Failure {
    error: OpenError,
    retry: bool,
}

impl Failure {
    fn last(error: OpenError) -> Self {
        Self {
            error,
            retry: false,
        }
    }
}

impl Shared {
    /// Puts a new connection to use.
    async fn on_dialled(self: Arc<Self>, key: PoolKey, id: u64, dialled: Dialled) {
        let link = Arc::new(Link::new(dialled.peer, dialled.fault));
        let conn = Conn::new(dialled.opener, Arc::clone(&link), dialled.expires);
        let conn = Arc::new(conn);
        let driver = drive(dialled.driver, Arc::downgrade(&self), key.clone(), link);
        self.scope.spawn("hbone connection", driver);
        let more = {
            let mut state = self.state.lock();
            if state.sweep_needed() {
                let weak = Arc::downgrade(&self);
                self.scope.spawn("hbone pool sweep", sweep(weak));
            }
            state.on_dialled(&key, id, &conn)
        };
        if more {
            let _ = timeout(SETTLE, conn.link.settled()).await;
            self.state.lock().on_settled(&key, id, &conn, &self.config);
        }
    }
}

/// Dials; again if the handshake ended without a word. Nothing was asked of
/// the peer yet: its port may be somebody else's by now.
async fn dial_again<Fut>(
    config: &HboneConfig,
    sockets: &PodSockets,
    key: &PoolKey,
    svids: [Fut; DIALS],
) -> Result<Dialled, DialError>
where
    Fut: Future<Output = Result<Arc<Svid>, CertError>>,
{
    let [first, second, third] = svids;
    for (svid, wait) in [first, second].into_iter().zip(REDIAL) {
        match dial(config, sockets, key, svid).await {
            Err(DialError::Tls {
                fault: TlsFault::Closed,
                ..
            }) => sleep(wait).await,
            result => return result,
        }
    }
    dial(config, sockets, key, third).await
}

/// Runs a connection to its end.
async fn drive<S: Side>(
    mut driver: ClientDriver<S>,
    pool: Weak<Shared>,
    key: PoolKey,
    link: Arc<Link>,
) {
    let end = std::future::poll_fn(|cx| {
        let end = driver.poll_turn(cx);
        if driver.settled() {
            link.on_settled();
        }
        end
    })
    .await;
    match end {
        DriverEnd::Closed => {}
        DriverEnd::Silent => debug!(peer = %key.peer, "no answer to pings"),
        DriverEnd::Failed(error) => debug!(peer = %key.peer, %error, "connection failed"),
    }
    link.on_ended();
    if let Some(pool) = pool.upgrade() {
        pool.state.lock().on_ended(&key, &link);
    }
}

/// Closes idle connections when their time is up; ends when none is left.
async fn sweep(pool: Weak<Shared>) {
    let mut wait = Duration::ZERO;
    loop {
        sleep(wait.max(SWEEP)).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.state.lock();
        match state.sweep(Instant::now(), pool.config.unused_release) {
            Some(next) => wait = next,
            None => return,
        }
    }
}
