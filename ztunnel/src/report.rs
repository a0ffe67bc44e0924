//! Last step of every path: what a flow's record says, to the metrics and to
//! the access log (`ztunnel-contract` 9.3, 9.4).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_net::Transfer;
use ambit_state::{Service, Workload};
use ambit_telemetry::access::{self, Access, End, Outcome};
use ambit_telemetry::{EndLabels, ServiceLabels, TrafficLabels};
use ambit_types::{Direction, SpiffeId};

use crate::enrol::session::Chain;
use crate::error::FlowError;

/// Everything about a connection that stays as it is while it runs.
pub(crate) struct Facts {
    /// Which side of the pod.
    pub(crate) direction: Direction,
    /// How it is carried between the proxies.
    pub(crate) carrier: Carrier,
    /// The TCP peer.
    pub(crate) src: SocketAddr,
    /// Next hop, own HBONE address, or original destination: what the log calls `dst.addr`.
    pub(crate) dst: SocketAddr,
    /// Where the bytes go in the end; what policies see.
    pub(crate) actual: SocketAddr,
    /// What the client meant.
    pub(crate) original: Original,
    /// Authority of the CONNECT.
    pub(crate) authority: Option<Box<str>>,
    /// Who opened it.
    pub(crate) source: Source,
    /// The identity that TLS proved of the source; our own on outbound.
    pub(crate) source_id: Option<SpiffeId>,
    /// The next hop, where it is known.
    pub(crate) destination: Option<Arc<Workload>>,
    /// The service that the client meant, where it is known.
    pub(crate) service: Option<Arc<Service>>,
    /// When it was accepted.
    pub(crate) accepted: Instant,
}

/// How a connection travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// As it is.
    Tcp,
    /// In a tunnel with mutual TLS.
    Hbone,
}

impl Carrier {
    /// As `workloadState` has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Hbone => "HBONE",
        }
    }
}

/// What the client meant, before any translation.
#[derive(Debug, Clone)]
pub(crate) enum Original {
    /// It didn't say.
    Unknown,
    /// `host` of its `forwarded` header.
    Host(Box<str>),
    /// The address that the application dialled.
    Addr(SocketAddr),
}

/// Who opened a connection.
pub(crate) enum Source {
    /// A workload of the view.
    Known(Arc<Workload>),
    /// What its own proxy says of it.
    Claimed(Box<Claimed>),
    /// Nobody we know.
    Unknown,
}

/// A source that only its baggage describes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Claimed {
    pub(crate) cluster: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) workload: Arc<str>,
    pub(crate) service: Arc<str>,
    pub(crate) revision: Arc<str>,
    pub(crate) region: Arc<str>,
    pub(crate) zone: Arc<str>,
}

/// The series that a flow counts on.
pub(crate) fn labels(facts: &Facts) -> TrafficLabels {
    let mut source = match &facts.source {
        Source::Known(workload) => end_labels(workload),
        Source::Claimed(claimed) => claimed_labels(claimed),
        Source::Unknown => EndLabels::default(),
    };
    source.principal.clone_from(&facts.source_id);
    let destination = facts.destination.as_deref().map(|workload| EndLabels {
        principal: workload.identity().cloned(),
        ..end_labels(workload)
    });
    TrafficLabels {
        reporter: facts.direction,
        source,
        destination: destination.unwrap_or_default(),
        service: facts.service.as_deref().map(|service| ServiceLabels {
            hostname: Arc::clone(&service.key.hostname),
            namespace: Arc::clone(&service.key.namespace),
            name: Arc::clone(&service.name),
        }),
        mutual_tls: facts.carrier == Carrier::Hbone,
    }
}

fn end_labels(workload: &Workload) -> EndLabels {
    EndLabels {
        workload: Arc::clone(&workload.workload_name),
        canonical_service: Arc::clone(&workload.canonical_name),
        canonical_revision: Arc::clone(&workload.canonical_revision),
        namespace: Arc::clone(&workload.namespace),
        principal: None,
        cluster: Arc::clone(&workload.cluster_id),
        region: Arc::clone(&workload.locality.region),
        zone: Arc::clone(&workload.locality.zone),
    }
}

fn claimed_labels(claimed: &Claimed) -> EndLabels {
    EndLabels {
        workload: Arc::clone(&claimed.workload),
        canonical_service: Arc::clone(&claimed.service),
        canonical_revision: Arc::clone(&claimed.revision),
        namespace: Arc::clone(&claimed.namespace),
        principal: None,
        cluster: Arc::clone(&claimed.cluster),
        region: Arc::clone(&claimed.region),
        zone: Arc::clone(&claimed.zone),
    }
}

/// "connection opened", where somebody listens.
pub(crate) fn opened(facts: &Facts) {
    if tracing::enabled!(target: "access", tracing::Level::DEBUG) {
        access::opened(&line(facts));
    }
}

/// "connection complete".
pub(crate) fn complete(
    facts: &Facts,
    transfer: Transfer,
    duration: Duration,
    error: Option<&FlowError>,
) {
    // From the viewpoint of the pod whose proxy logs.
    let (bytes_sent, bytes_recv) = match facts.direction {
        Direction::Outbound => (transfer.received, transfer.sent),
        Direction::Inbound => (transfer.sent, transfer.received),
    };
    let error = error.map(|error| Chain(error));
    let error = error.as_ref().map(|error| error as &dyn std::fmt::Display);
    access::complete(
        &line(facts),
        &Outcome {
            bytes_sent,
            bytes_recv,
            duration,
            error,
        },
    );
}

/// "connection failed", before the ends were known.
pub(crate) fn failed(src: SocketAddr, dst: SocketAddr, direction: Direction, error: &FlowError) {
    access::failed(src, dst, direction, &Chain(error));
}

fn line(facts: &Facts) -> Access<'_> {
    let mut src = match &facts.source {
        Source::Known(workload) => end(workload),
        Source::Claimed(claimed) => End {
            workload: named(&claimed.workload),
            namespace: named(&claimed.namespace),
            identity: None,
            cluster: named(&claimed.cluster),
        },
        Source::Unknown => End::default(),
    };
    let mut dst = facts.destination.as_deref().map(end).unwrap_or_default();
    if facts.carrier == Carrier::Hbone {
        src.identity = facts.source_id.as_ref();
        dst.identity = facts.destination.as_deref().and_then(Workload::identity);
    }
    Access {
        src_addr: facts.src,
        src,
        dst_addr: facts.dst,
        hbone_addr: facts.authority.as_deref(),
        dst_service: facts
            .service
            .as_deref()
            .map(|service| &*service.key.hostname),
        dst,
        direction: facts.direction,
    }
}

fn end(workload: &Workload) -> End<'_> {
    End {
        workload: named(&workload.name).or_else(|| named(&workload.canonical_name)),
        namespace: named(&workload.namespace),
        identity: None,
        cluster: named(&workload.cluster_id),
    }
}

fn named(text: &Arc<str>) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
