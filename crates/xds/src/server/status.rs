//! What operators can see of streams (`/debug/syncz`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::audience::Admitted;

/// One stream.
#[derive(Debug, Clone)]
pub struct ConnectionStatus {
    /// Unique within this server's life.
    pub id: u64,
    /// As the node calls itself.
    pub node: Arc<str>,
    /// Who it proved to be.
    pub caller: Arc<str>,
    /// The audience that it belongs to.
    pub audience: Option<Arc<str>>,
    /// When it came.
    pub since: SystemTime,
    /// The types that it asked for.
    pub types: Vec<TypeStatus>,
}

/// One type of one stream.
#[derive(Debug, Clone)]
pub struct TypeStatus {
    /// The type.
    pub type_url: Arc<str>,
    /// Where it stands.
    pub sync: TypeSync,
    /// Everything, or on demand.
    pub wildcard: bool,
    /// Nonce of the last response.
    pub sent_nonce: String,
    /// Nonce of the last answered response.
    pub acked_nonce: String,
    /// What the client rejected last, in its words.
    pub error: Option<String>,
}

/// Where one type of one stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeSync {
    /// The client has what there is.
    Synced,
    /// A response is due or isn't answered yet.
    Stale,
    /// Nothing was sent so far.
    NotSent,
    /// The client rejected something of the last response.
    Error,
}

impl TypeSync {
    /// As `istioctl proxy-status` writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Synced => "SYNCED",
            Self::Stale => "STALE",
            Self::NotSent => "NOT_SENT",
            Self::Error => "ERROR",
        }
    }
}

/// The streams that are open.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    last_id: u64,
    streams: BTreeMap<u64, ConnectionStatus>,
}

impl Connections {
    /// `None` if there are as many as there may be.
    pub(super) fn enter(
        self: &Arc<Self>,
        node: Arc<str>,
        admitted: &Admitted,
        limit: usize,
    ) -> Option<Connection> {
        let mut open = self.open.lock();
        if open.streams.len() >= limit {
            return None;
        }
        open.last_id += 1;
        let id = open.last_id;
        let status = ConnectionStatus {
            id,
            node,
            caller: Arc::clone(&admitted.caller),
            audience: admitted.audience.clone(),
            since: SystemTime::now(),
            types: Vec::new(),
        };
        open.streams.insert(id, status);
        Some(Connection {
            id,
            connections: Arc::clone(self),
        })
    }

    pub(super) fn all(&self) -> Vec<ConnectionStatus> {
        self.open.lock().streams.values().cloned().collect()
    }
}

/// An open stream's place among the connections; given up on drop.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    connections: Arc<Connections>,
}

impl Connection {
    pub(super) fn update(&self, types: Vec<TypeStatus>) {
        if let Some(status) = self.connections.open.lock().streams.get_mut(&self.id) {
            status.types = types;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.open.lock().streams.remove(&self.id);
    }
}
