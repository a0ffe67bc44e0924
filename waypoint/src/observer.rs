//! Last step of every path: one record of each request and connection, by
//! which metrics and the access log are written.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_net::Transfer;
use ambit_telemetry::Metrics;
use ambit_types::SpiffeId;

use crate::config::{Frontend, Target};
use crate::destination::Found;
use crate::http::{Exchange, Flag, Inner};
use crate::tcp::Way;

/// Where records go.
#[derive(Default)]
pub(crate) struct Observer {}

/// What is known of an opaque connection.
pub(crate) struct TcpFlow {
    pub(crate) peer: Arc<SpiffeId>,
    pub(crate) source: SocketAddr,
    pub(crate) dialled: SocketAddr,
    pub(crate) frontend: Option<Arc<Frontend>>,
    pub(crate) target: Option<Arc<Target>>,
    pub(crate) endpoint: Option<Arc<ambit_upstream::Endpoint>>,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) flag: Option<Flag>,
    pub(crate) details: Option<String>,
    pub(crate) duration: Duration,
    pub(crate) transfer: Transfer,
}

impl TcpFlow {
    pub(crate) fn new(inner: &Inner) -> Self {
        Self {
            peer: Arc::clone(&inner.peer),
            source: inner.source,
            dialled: inner.dialled,
            frontend: None,
            target: None,
            endpoint: None,
            upstream: None,
            flag: None,
            details: None,
            duration: Duration::ZERO,
            transfer: Transfer::default(),
        }
    }

    pub(crate) fn note(&mut self, found: &Found<'_>, way: &Way) {
        if let Found::Service { frontend, .. } = found {
            self.frontend = Some(Arc::clone(frontend));
        }
        self.target.clone_from(&way.target);
    }
}

impl Observer {
    /// Registers what is counted.
    pub(crate) fn register(&self, _metrics: &mut Metrics) {}

    /// A request has ended.
    pub(crate) fn request(&self, exchange: &Exchange) {
        tracing::debug!(
            path = exchange.path,
            status = exchange.status.map_or(0, |status| status.as_u16()),
            flags = ?exchange.flags,
            details = exchange.details.as_deref(),
            "request"
        );
    }

    /// A connection has ended.
    pub(crate) fn connection(&self, flow: &TcpFlow) {
        tracing::debug!(source = %flow.source, dialled = %flow.dialled, "connection");
    }

    /// A CONNECT was refused.
    pub(crate) fn connect_refused(&self, status: u16) {
        tracing::debug!(status, "CONNECT refused");
    }
}
