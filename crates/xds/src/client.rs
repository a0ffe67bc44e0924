//! The client half: what a node holds of each type, and its conversation.

mod demand;
mod run;
mod session;

use bytes::Bytes;

use ambit_proto::discovery::Node;

pub use demand::{Demand, DemandQueue, demand};
pub use run::run_client;
pub use session::{Reply, Session};

/// Who the client says it is, and what it wants.
#[derive(Debug)]
pub struct ClientConfig {
    /// Sent with the first request of each type.
    pub node: Node,
    /// Types, in the order in which they are asked for.
    pub types: Vec<TypeSub>,
    /// Names asked for one by one, of the types in [`TypeMode::OnDemand`].
    pub demand: Option<DemandQueue>,
}

/// One type that the client subscribes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeSub {
    /// For example `type.googleapis.com/istio.workload.Address`.
    pub type_url: String,
    /// All of it, or by name.
    pub mode: TypeMode,
}

impl TypeSub {
    /// Everything of this type.
    pub fn wildcard(type_url: impl Into<String>) -> Self {
        Self {
            type_url: type_url.into(),
            mode: TypeMode::Wildcard,
        }
    }

    /// Only what is asked for by name, see [`demand()`].
    pub fn on_demand(type_url: impl Into<String>) -> Self {
        Self {
            type_url: type_url.into(),
            mode: TypeMode::OnDemand,
        }
    }
}

/// How much of a type is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeMode {
    /// Everything; gates readiness.
    Wildcard,
    /// What is asked for by name; doesn't gate readiness.
    OnDemand,
}

/// One resource as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedResource {
    /// Name on the wire.
    pub name: String,
    /// Version on the wire; may be empty.
    pub version: String,
    /// The encoded message, of the type of its response.
    pub body: Bytes,
}

/// One resource that the sink refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Name of the resource.
    pub name: String,
    /// Why, for the control plane's operator.
    pub reason: String,
}

/// Where resources go.
pub trait ResourceSink: Send {
    /// Applies one response whole. Resources that can't be used are returned;
    /// the others are applied, and what a rejected one replaces stays as it
    /// was. Must be quick: the session waits for it.
    fn apply(
        &mut self,
        type_url: &str,
        changed: Vec<ReceivedResource>,
        removed: Vec<String>,
    ) -> Vec<Rejection>;
}

/// Why a stream ended; the label of `istio_xds_connection_terminations_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Termination {
    /// The control plane couldn't be reached, or refused the stream.
    ConnectionError,
    /// The stream failed.
    Error,
    /// The control plane asked for another connection.
    Reconnect,
    /// The stream ended cleanly.
    Complete,
}

impl Termination {
    /// The value of the `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::ConnectionError => "ConnectionError",
            Self::Error => "Error",
            Self::Reconnect => "Reconnect",
            Self::Complete => "Complete",
        }
    }
}

/// What the client counts.
pub trait ClientMetrics: Send + Sync {
    /// A stream ended (`istio_xds_connection_terminations_total`).
    fn terminated(&self, reason: Termination);
    /// A response arrived (`istio_xds_message_total`,
    /// `istio_xds_message_bytes_total`).
    fn message(&self, type_url: &str, bytes: usize);
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMetrics;

impl ClientMetrics for NoMetrics {
    fn terminated(&self, _reason: Termination) {}
    fn message(&self, _type_url: &str, _bytes: usize) {}
}
