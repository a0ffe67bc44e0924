//! The agent's half of ZDS: listens for proxies and keeps each one told.
//!
//! Level-triggered: callers say which pods must be served and read how far
//! proxies have come. Order, retries, upgrades and fallbacks are the
//! table's; this module moves its bytes.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ambit_netns::NetNs;
use ambit_runtime::Scope;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::socket::{Datagram, ReceiveError, SeqListener, SeqPacket};
use super::table::{ProxyState, Step, Table};
use super::{WireError, WorkloadInfo, closed, decode};

/// Deadlines and bounds of the agent's half.
#[derive(Debug, Clone)]
pub struct ZdsConfig {
    /// How long a new connection has to say hello.
    pub hello: Duration,
    /// How long one message may take to be sent, and its answer to come.
    pub exchange: Duration,
    /// Accepted connections a second.
    pub accepts_per_second: u32,
    /// Connections at one time; an upgrade needs two.
    pub connections: usize,
}

impl Default for ZdsConfig {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(5),
            exchange: Duration::from_secs(5),
            accepts_per_second: 5,
            connections: 16,
        }
    }
}

/// A listening agent.
#[derive(Debug)]
pub struct ZdsServer {
    listener: SeqListener,
    config: ZdsConfig,
    shared: Arc<Shared>,
}

/// Says which pods proxies must serve. Clones share the table.
#[derive(Debug, Clone)]
pub struct ZdsHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    /// Grows with every change of the table.
    version: watch::Sender<u64>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("connection to the proxy")]
    Io(#[from] io::Error),
    #[error("message of the proxy")]
    Wire(#[from] WireError),
    #[error("the proxy took longer than {0:?}")]
    Deadline(Duration),
    #[error("the proxy sent a message that nothing asked for")]
    Unsolicited,
}

impl From<ReceiveError> for ConnectionError {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Io(e) => Self::Io(e),
            ReceiveError::Wire(e) => Self::Wire(e),
        }
    }
}

impl ZdsServer {
    /// Listens on a path, readable for its owner only; a socket file that an
    /// earlier process left there is replaced.
    ///
    /// # Errors
    /// If the path can't be bound.
    pub fn bind(path: impl AsRef<Path>, config: ZdsConfig) -> io::Result<Self> {
        let shared = Shared {
            table: Mutex::default(),
            version: watch::Sender::new(0),
        };
        Ok(Self {
            listener: SeqListener::bind(path.as_ref())?,
            config,
            shared: Arc::new(shared),
        })
    }

    /// A handle on the table of pods.
    pub fn handle(&self) -> ZdsHandle {
        let shared = Arc::clone(&self.shared);
        ZdsHandle { shared }
    }

    /// Serves proxies until the scope is cancelled. Insert the pods that are
    /// known before: a proxy ends those that its first snapshot doesn't name.
    pub async fn run(self, scope: Scope) {
        let slots = Arc::new(Semaphore::new(self.config.connections));
        let pause = Duration::from_secs(1) / self.config.accepts_per_second.max(1);
        let mut id = 0;
        let mut earliest = Instant::now();
        loop {
            sleep_until(earliest).await;
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let socket = match self.listener.accept().await {
                Ok(socket) => socket,
                Err(error) => {
                    warn!(%error, "accepting a proxy");
                    earliest = Instant::now() + pause;
                    continue;
                }
            };
            earliest = Instant::now() + pause;
            id += 1;
            let connection = Connection {
                id,
                socket,
                config: self.config.clone(),
                shared: Arc::clone(&self.shared),
            };
            scope.spawn("zds connection", async move {
                connection.serve().await;
                drop(slot);
            });
        }
    }
}

impl ZdsHandle {
    /// This pod must be served. Without a namespace at hand it is only kept by
    /// a proxy that has it.
    pub fn insert(&self, uid: &str, info: WorkloadInfo, netns: Option<NetNs>) {
        if self.shared.table().insert(uid, info, netns) {
            self.shared.changed();
        }
    }

    /// This pod must not be served any more.
    pub fn remove(&self, uid: &str) {
        if self.shared.table().remove(uid) {
            self.shared.changed();
        }
    }

    /// How far proxies have come with a pod.
    pub fn state(&self, uid: &str) -> ProxyState {
        self.shared.table().state(uid)
    }

    /// True while a removed pod may still be served by a connected proxy.
    pub fn removal_pending(&self, uid: &str) -> bool {
        self.shared.table().removal_pending(uid)
    }

    /// Proxies that are connected and have said hello.
    pub fn connections(&self) -> usize {
        self.shared.table().connections()
    }

    /// Changes whenever a state may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Every method leaves the table whole, so a panic elsewhere is no reason to stop.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }
}

struct Connection {
    id: u64,
    socket: SeqPacket,
    config: ZdsConfig,
    shared: Arc<Shared>,
}

/// Takes the connection out of the table however its task ends.
struct Connected<'a>(&'a Connection);

impl<'a> Connected<'a> {
    fn new(connection: &'a Connection) -> Self {
        connection.shared.table().connected(connection.id);
        connection.shared.changed();
        Self(connection)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.shared.table().disconnected(self.0.id);
        self.0.shared.changed();
    }
}

impl Connection {
    async fn serve(self) {
        if let Err(error) = self.hello().await {
            warn!(connection = self.id, %error, "a proxy connected and said no hello");
            return;
        }
        info!(connection = self.id, "proxy connected");
        let connected = Connected::new(&self);
        let ended = self.tell().await;
        drop(connected);
        match ended {
            Err(ConnectionError::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
                info!(connection = self.id, "proxy disconnected");
            }
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                warn!(connection = self.id, %error, source, "connection to a proxy ended");
            }
            Ok(never) => match never {},
        }
    }

    async fn hello(&self) -> Result<(), ConnectionError> {
        let datagram = self.recv(self.config.hello).await?;
        Ok(decode::decode_hello(&datagram)?)
    }

    async fn tell(&self) -> Result<std::convert::Infallible, ConnectionError> {
        let mut changes = self.shared.version.subscribe();
        loop {
            changes.mark_unchanged();
            let step = self.shared.table().next(self.id, Instant::now());
            if let Step::Idle(wake) = step {
                self.idle(&mut changes, wake).await?;
                continue;
            }
            let answer = self.exchange(&step).await?;
            self.log(&step, &answer);
            let now = Instant::now();
            self.shared.table().answered(self.id, &step, answer, now);
            self.shared.changed();
        }
    }

    /// Waits for something to tell. Nothing may come from the proxy meanwhile.
    async fn idle(
        &self,
        changes: &mut watch::Receiver<u64>,
        wake: Option<Instant>,
    ) -> Result<(), ConnectionError> {
        let wake = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Each arm is cancel safe.
        tokio::select! {
            _ = changes.changed() => Ok(()),
            () = wake => Ok(()),
            received = self.socket.recv() => Err(unasked(received)),
        }
    }

    async fn exchange(&self, step: &Step) -> Result<Result<(), String>, ConnectionError> {
        // An answer that lies there already isn't one to this request.
        if let Some(received) = self.socket.try_recv() {
            return Err(unasked(received));
        }
        let (bytes, netns) = match step {
            Step::Add { uid, pod } => (decode::add(uid, &pod.info), pod.netns.as_ref()),
            Step::Keep(uid) => (decode::keep(uid), None),
            Step::Del(uid) => (decode::del(uid), None),
            Step::SnapshotSent => (decode::snapshot_sent(), None),
            Step::Idle(_) => return Ok(Ok(())),
        };
        if bytes.len() > super::MAX_DATAGRAM {
            return Ok(Err("the pod's names don't fit one ZDS message".to_owned()));
        }
        let deadline = self.config.exchange;
        let sent = self.socket.send(&bytes, netns.map(AsFd::as_fd));
        timeout(deadline, sent)
            .await
            .map_err(|_| ConnectionError::Deadline(deadline))??;
        let datagram = self.recv(deadline).await?;
        Ok(decode::decode_ack(&datagram)?)
    }

    async fn recv(&self, deadline: Duration) -> Result<Datagram, ConnectionError> {
        let datagram = timeout(deadline, self.socket.recv())
            .await
            .map_err(|_| ConnectionError::Deadline(deadline))??;
        if datagram.is_end() {
            return Err(ConnectionError::Io(closed()));
        }
        Ok(datagram)
    }

    fn log(&self, step: &Step, answer: &Result<(), String>) {
        let connection = self.id;
        let what: (&str, Option<&str>) = match step {
            Step::Add { uid, .. } => ("add", Some(uid)),
            Step::Keep(uid) => ("keep", Some(uid)),
            Step::Del(uid) => ("del", Some(uid)),
            Step::SnapshotSent => ("snapshot sent", None),
            Step::Idle(_) => return,
        };
        match answer {
            Ok(()) => debug!(connection, message = what.0, uid = what.1, "accepted"),
            Err(refusal) => warn!(
                connection,
                message = what.0,
                uid = what.1,
                refusal,
                "refused by the proxy"
            ),
        }
    }
}

fn unasked(received: Result<Datagram, ReceiveError>) -> ConnectionError {
    match received {
        Ok(datagram) if datagram.is_end() => ConnectionError::Io(closed()),
        Ok(_) => ConnectionError::Unsolicited,
        Err(error) => error.into(),
    }
}

#[cfg(test)]
mod tests;
