//! The proxy's half of ZDS.
//!
//! It reads requests and checks their order. It doesn't start proxies, and it
//! doesn't reconnect: its caller knows what a lost agent means.

use std::io;
use std::path::Path;
use std::time::Duration;

use ambit_netns::NetNs;
use tracing::warn;

use super::decode::{self, Request};
use super::socket::{ReceiveError, SeqPacket};
use super::{WireError, WorkloadInfo, closed};

/// What the agent wants.
#[derive(Debug)]
pub enum ZdsRequest {
    /// Serve this pod. The same uid again: in the same namespace it changes
    /// nothing, in another one the proxy is replaced.
    Add {
        /// The pod's uid.
        uid: String,
        /// Who runs there.
        info: WorkloadInfo,
        /// The pod's network namespace.
        netns: NetNs,
    },
    /// Go on serving a pod that the agent can't hand over again. Only before
    /// the snapshot ends.
    Keep {
        /// The pod's uid.
        uid: String,
    },
    /// Serve this pod no longer.
    Del {
        /// The pod's uid.
        uid: String,
    },
    /// Every pod has been named; proxies of others end.
    SnapshotSent,
}

/// A request that can't be served, or a connection that can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ZdsError {
    /// The agent can't be reached, or is gone.
    #[error("connection to the node agent")]
    Connection(#[from] io::Error),
    /// The agent doesn't read what is sent.
    #[error("the node agent took longer than {WRITE_DEADLINE:?} to read")]
    Deadline,
    /// What came isn't a message.
    #[error("message of the node agent")]
    Wire(#[from] WireError),
    /// An add that doesn't say who runs in the pod.
    #[error("pod {uid} was added without workload_info")]
    MissingInfo {
        /// The pod's uid.
        uid: String,
    },
    /// A keep after the snapshot had ended.
    #[error("pod {uid} was kept after the snapshot had ended")]
    KeepAfterSnapshot {
        /// The pod's uid.
        uid: String,
    },
    /// A second end of the snapshot.
    #[error("the snapshot ended twice")]
    SecondSnapshot,
}

/// What must follow an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZdsFault {
    /// Connect again.
    Reconnect,
    /// Acknowledge with the error's text, disconnect, connect again.
    RefuseAndReconnect,
    /// Acknowledge with the error's text; the process ends with status 1.
    RefuseAndExit,
}

impl ZdsError {
    /// What must follow this error.
    pub fn fault(&self) -> ZdsFault {
        match self {
            Self::Connection(_) | Self::Deadline => ZdsFault::Reconnect,
            Self::Wire(_) => ZdsFault::RefuseAndReconnect,
            Self::MissingInfo { .. } | Self::KeepAfterSnapshot { .. } | Self::SecondSnapshot => {
                ZdsFault::RefuseAndExit
            }
        }
    }
}

/// A connection to the node agent.
#[derive(Debug)]
pub struct ZdsClient {
    socket: SeqPacket,
    snapshot_ended: bool,
}

impl ZdsClient {
    /// Connects. The agent waits 5 s for the [`hello`](Self::hello).
    ///
    /// # Errors
    /// If nobody listens there, or the listener's backlog is full.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ZdsError> {
        Ok(Self {
            socket: SeqPacket::connect(path.as_ref())?,
            snapshot_ended: false,
        })
    }

    /// Says hello; the snapshot follows.
    ///
    /// # Errors
    /// If the agent is gone or doesn't read.
    pub async fn hello(&mut self) -> Result<(), ZdsError> {
        self.send(&decode::hello()).await
    }

    /// The next request. Each one must be acknowledged before the next comes.
    ///
    /// An add whose descriptor isn't a network namespace is refused here.
    ///
    /// # Errors
    /// See [`ZdsError::fault`] for what to do then.
    ///
    /// # Cancel safety
    /// Safe: a request that isn't returned stays in the socket.
    pub async fn next(&mut self) -> Result<ZdsRequest, ZdsError> {
        loop {
            let datagram = self.socket.recv().await.map_err(|e| match e {
                ReceiveError::Io(e) => ZdsError::Connection(e),
                ReceiveError::Wire(e) => ZdsError::Wire(e),
            })?;
            if datagram.is_end() {
                return Err(ZdsError::Connection(closed()));
            }
            if let Some(request) = self.on_request(Request::try_from(datagram)?).await? {
                return Ok(request);
            }
        }
    }

    async fn on_request(&mut self, request: Request) -> Result<Option<ZdsRequest>, ZdsError> {
        match request {
            Request::Add { uid, info, netns } => {
                let Some(info) = info else {
                    return Err(ZdsError::MissingInfo { uid });
                };
                match NetNs::from_fd(netns) {
                    Ok(netns) => Ok(Some(ZdsRequest::Add { uid, info, netns })),
                    Err(error) => {
                        warn!(uid, %error, "the descriptor that came with a pod is no network namespace");
                        let text = format!("descriptor of {uid} is no network namespace: {error}");
                        self.ack(Some(&text)).await?;
                        Ok(None)
                    }
                }
            }
            Request::Keep(uid) if self.snapshot_ended => Err(ZdsError::KeepAfterSnapshot { uid }),
            Request::Keep(uid) => Ok(Some(ZdsRequest::Keep { uid })),
            Request::Del(uid) => Ok(Some(ZdsRequest::Del { uid })),
            Request::SnapshotSent if self.snapshot_ended => Err(ZdsError::SecondSnapshot),
            Request::SnapshotSent => {
                self.snapshot_ended = true;
                Ok(Some(ZdsRequest::SnapshotSent))
            }
        }
    }

    /// Answers the last request: accepted, or refused with a text.
    ///
    /// # Errors
    /// If the agent is gone or doesn't read.
    pub async fn ack(&mut self, error: Option<&str>) -> Result<(), ZdsError> {
        self.send(&decode::ack(error)).await
    }

    async fn send(&self, bytes: &[u8]) -> Result<(), ZdsError> {
        match tokio::time::timeout(WRITE_DEADLINE, self.socket.send(bytes, None)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(ZdsError::Deadline),
        }
    }
}

/// Far beyond what an agent needs to empty its socket.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
