//! Last step of every path: one record of each request and connection, shown
//! to metrics, the access log, traces and the recorder (`waypoint-contract` 6).

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_hbone::Baggage;
use ambit_net::Transfer;
use ambit_observe::{
    Ends, IstioTags, Record, Recorder, RequestMetrics, RequestProtocol, ResponseFlags, SeriesCache,
    SpanExport, SpanQueue, TcpGuard, Telemetry, client_span, server_span, span_queue,
};
use ambit_telemetry::logging::{Flush, LogWriter};
use ambit_telemetry::{EndLabels, Metrics, ServiceLabels};
use ambit_types::SpiffeId;
use ambit_upstream::Endpoint;
use http::{HeaderMap, StatusCode, Version};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Frontend, Target};
use crate::destination::Found;
use crate::http::{Exchange, Flag, Inner, Try};
use crate::tcp::Way;

/// Where records go.
pub(crate) struct Observer {
    metrics: RequestMetrics,
    pub(crate) recorder: Recorder,
    pub(crate) spans: SpanQueue,
    log: LogWriter,
    _flush: Flush,
    refused: Counter,
}

/// What one data thread remembers so that a record costs little.
pub(crate) struct Watch(Mutex<Known>);

struct Known {
    series: SeriesCache,
    /// By the endpoint's address; the endpoint is kept so that it stays its.
    endpoints: HashMap<usize, (Arc<Endpoint>, Arc<EndLabels>)>,
    peers: HashMap<PeerKey, Arc<EndLabels>>,
    nobody: Arc<EndLabels>,
}

type PeerKey = (SpiffeId, String, String);

/// What is remembered of peers and endpoints before it is forgotten.
const MAX_KNOWN: usize = 4096;
/// Requests that the recorder holds.
const RECENT: usize = 256;

impl Observer {
    /// Starts the access log's writer.
    pub(crate) fn start() -> std::io::Result<(Self, SpanExport)> {
        let (log, flush) = LogWriter::start(std::io::stdout())?;
        let (spans, export) = span_queue();
        let observer = Self {
            metrics: RequestMetrics::default(),
            recorder: Recorder::new(RECENT),
            spans,
            log,
            _flush: flush,
            refused: Counter::default(),
        };
        Ok((observer, export))
    }

    /// What a data thread needs.
    pub(crate) fn watch(&self) -> Watch {
        Watch(Mutex::new(Known {
            series: SeriesCache::new(self.metrics.clone()),
            endpoints: HashMap::new(),
            peers: HashMap::new(),
            nobody: Arc::default(),
        }))
    }

    /// Registers what is counted.
    pub(crate) fn register(&self, metrics: &mut Metrics) {
        metrics.register_collector(self.metrics.clone());
        metrics.register(
            "ambit_waypoint_connects_refused",
            "CONNECTs that were answered with an error",
            self.refused.clone(),
        );
    }

    /// What the mesh wants of the metrics; to be said before they are shown.
    pub(crate) fn report_destination(&self, yes: bool) {
        self.metrics.report_destination(yes);
    }

    /// Forgets series of what is gone.
    pub(crate) fn sweep(&self) {
        self.metrics.sweep();
    }

    /// A request has ended.
    pub(crate) fn request(&self, exchange: &Exchange) {
        let inner = &exchange.inner;
        let mut known = inner.worker.watch.0.lock();
        let ends = Ends {
            source: Arc::clone(&inner.labels),
            destination: known.endpoint(exchange.endpoint.as_ref()),
            service: service(exchange.target.as_deref(), exchange.frontend.as_deref()),
            mutual_tls: true,
            overrides: exchange.telemetry.metrics.clone(),
        };
        let authority = exchange.authority.to_str().unwrap_or_default();
        let record = Record {
            start: exchange.wall,
            duration: exchange.started.elapsed(),
            protocol: if exchange.grpc {
                RequestProtocol::Grpc
            } else {
                RequestProtocol::Http
            },
            version: match exchange.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            method: exchange.method.as_str(),
            path: exchange.path.as_ref().map_or("", |path| path.as_str()),
            authority,
            request_headers: &exchange.request_headers,
            response_headers: exchange.response_headers.as_ref(),
            response_trailers: exchange.response_trailers.as_ref(),
            status: exchange.status.map_or(0, |status| status.as_u16()),
            grpc_status: exchange.grpc_status.and_then(|s| u16::try_from(s).ok()),
            flags: flags(&exchange.flags),
            details: exchange.details.as_deref().unwrap_or("via_upstream"),
            termination: "",
            transport_failure: exchange.transport_failure.as_deref().unwrap_or_default(),
            bytes_received: exchange.received,
            bytes_sent: exchange.sent,
            request_messages: exchange.request_messages,
            response_messages: exchange.responses(),
            upstream_service_time: exchange.upstream_time,
            upstream_host: exchange.upstream,
            upstream_cluster: exchange.target.as_ref().map_or("", |target| &*target.name),
            upstream_local: None,
            downstream_local: Some(inner.dialled),
            downstream_remote: Some(inner.source),
            peer: Some(&inner.peer),
            sni: None,
            route: exchange.route.as_deref().unwrap_or_default(),
            ends: &ends,
            trace_id: exchange.context.as_ref().map(|context| context.trace),
        };
        known.series.series(&record).count(&record);
        drop(known);
        self.recorder.record(&record);
        self.write(&exchange.telemetry, &record);
        self.span(exchange, &record);
    }

    fn write(&self, telemetry: &Telemetry, record: &Record<'_>) {
        if let Some(log) = &telemetry.access_log
            && let Some(line) = log.line(record)
        {
            // A closed standard output is no reason to fail requests.
            let _ = self.log.make_writer().write_all(line.as_bytes());
        }
    }

    fn span(&self, exchange: &Exchange, record: &Record<'_>) {
        let (Some(context), Some(tracing)) = (&exchange.context, &exchange.telemetry.tracing)
        else {
            return;
        };
        if !context.sampled {
            return;
        }
        let frontend = exchange.frontend.as_deref();
        let host = frontend.map_or(record.authority, |frontend| &*frontend.message.hostname);
        let operation = format!("{host}:{}/*", exchange.inner.dialled.port());
        let istio = tracing.istio_tags.then(|| IstioTags { own: Vec::new() });
        let mut tags = tracing.tags_of(record);
        tags.extend(exchange.dry_run.iter().cloned());
        self.spans.push(server_span(
            record,
            context,
            &operation,
            istio.as_ref(),
            &tags,
        ));
    }

    /// A try has ended: its span.
    pub(crate) fn attempt(
        &self,
        exchange: &Exchange,
        one: &Try,
        status: Result<StatusCode, &'static str>,
    ) {
        let Some(context) = &exchange.context else {
            return;
        };
        let cluster = exchange.target.as_ref().map_or("", |target| &*target.name);
        let mut tags = vec![
            ("component", "proxy".to_owned()),
            ("upstream_cluster", cluster.to_owned()),
            (
                "retry_count",
                exchange.attempts.saturating_sub(1).to_string(),
            ),
        ];
        if let Some(address) = exchange.upstream {
            tags.push(("upstream_address", address.to_string()));
        }
        let error = match status {
            Ok(status) => {
                tags.push(("http.status_code", status.as_str().to_owned()));
                status.is_server_error().then_some("server error")
            }
            Err(reason) => Some(reason),
        };
        if error.is_some() {
            tags.push(("error", "true".to_owned()));
        }
        let operation = format!("router {cluster} egress");
        let time = (one.begun, SystemTime::now());
        let span = client_span(context, one.span, &operation, time, &tags, error);
        self.spans.push(span);
    }

    /// An opaque connection has reached its endpoint: from here on its bytes
    /// are counted as it goes.
    pub(crate) fn opened(&self, inner: &Inner, flow: &TcpFlow) -> TcpGuard {
        let mut known = inner.worker.watch.0.lock();
        let ends = known.ends(inner, flow);
        known.series.tcp_opened(&ends, ResponseFlags::NONE)
    }

    /// A connection has ended.
    pub(crate) fn connection(&self, inner: &Inner, flow: &TcpFlow) {
        let mut known = inner.worker.watch.0.lock();
        let ends = known.ends(inner, flow);
        let flags: ResponseFlags = flow.flag.map(Into::into).into();
        if flow.counted.is_none() {
            // It never got through: counted with the reason.
            drop(known.series.tcp_opened(&ends, flags));
        }
        drop(known);
        let none = HeaderMap::new();
        let record = Record {
            start: flow.started,
            duration: flow.duration,
            protocol: RequestProtocol::Tcp,
            version: "",
            method: "",
            path: "",
            authority: "",
            request_headers: &none,
            response_headers: None,
            response_trailers: None,
            status: 0,
            grpc_status: None,
            flags,
            details: flow.details.as_deref().unwrap_or_default(),
            termination: "",
            transport_failure: "",
            bytes_received: flow.transfer.received,
            bytes_sent: flow.transfer.sent,
            request_messages: 0,
            response_messages: 0,
            upstream_service_time: None,
            upstream_host: flow.upstream,
            upstream_cluster: flow.target.as_ref().map_or("", |target| &*target.name),
            upstream_local: None,
            downstream_local: Some(inner.dialled),
            downstream_remote: Some(inner.source),
            peer: Some(&inner.peer),
            sni: inner.sni.as_deref(),
            route: "",
            ends: &ends,
            trace_id: None,
        };
        self.recorder.record(&record);
        self.write(&flow.telemetry, &record);
    }

    /// A CONNECT was refused.
    pub(crate) fn connect_refused(&self) {
        self.refused.inc();
    }
}

impl Watch {
    /// Labels of a peer, shared by all its connections.
    pub(crate) fn peer(&self, peer: &SpiffeId, baggage: Option<&Baggage>) -> Arc<EndLabels> {
        let mut known = self.0.lock();
        let text = |of: fn(&Baggage) -> &String| baggage.map(of).cloned().unwrap_or_default();
        let key = (
            peer.clone(),
            text(|baggage| &baggage.workload_name),
            text(|baggage| &baggage.canonical_revision),
        );
        if let Some(labels) = known.peers.get(&key) {
            return Arc::clone(labels);
        }
        let shared = |of: fn(&Baggage) -> &String| Arc::from(text(of));
        let labels = Arc::new(EndLabels {
            workload: shared(|baggage| &baggage.workload_name),
            canonical_service: shared(|baggage| &baggage.canonical_name),
            canonical_revision: shared(|baggage| &baggage.canonical_revision),
            // What TLS proved, not what was said.
            namespace: Arc::clone(peer.namespace()),
            principal: Some(peer.clone()),
            cluster: shared(|baggage| &baggage.cluster_id),
            region: shared(|baggage| &baggage.region),
            zone: shared(|baggage| &baggage.zone),
        });
        if known.peers.len() >= MAX_KNOWN {
            known.peers.clear();
        }
        known.peers.insert(key, Arc::clone(&labels));
        labels
    }
}

impl Known {
    fn ends(&mut self, inner: &Inner, flow: &TcpFlow) -> Ends {
        Ends {
            source: Arc::clone(&inner.labels),
            destination: self.endpoint(flow.endpoint.as_ref()),
            service: service(flow.target.as_deref(), flow.frontend.as_deref()),
            mutual_tls: true,
            overrides: flow.telemetry.metrics.clone(),
        }
    }

    fn endpoint(&mut self, endpoint: Option<&Arc<Endpoint>>) -> Arc<EndLabels> {
        let Some(endpoint) = endpoint else {
            return Arc::clone(&self.nobody);
        };
        let at = Arc::as_ptr(endpoint).addr();
        if let Some((_, labels)) = self.endpoints.get(&at) {
            return Arc::clone(labels);
        }
        let workload = &endpoint.workload;
        let labels = Arc::new(EndLabels {
            workload: Arc::clone(&workload.name),
            canonical_service: Arc::clone(&workload.canonical_name),
            canonical_revision: Arc::clone(&workload.canonical_revision),
            namespace: Arc::clone(&workload.namespace),
            principal: endpoint.identity.clone(),
            cluster: Arc::clone(&endpoint.cluster_id),
            region: Arc::clone(&endpoint.locality.region),
            zone: Arc::clone(&endpoint.locality.zone),
        });
        if self.endpoints.len() >= MAX_KNOWN {
            self.endpoints.clear();
        }
        let kept = (Arc::clone(endpoint), Arc::clone(&labels));
        self.endpoints.insert(at, kept);
        labels
    }
}

/// The service that was routed to, else the one that was meant.
fn service(target: Option<&Target>, frontend: Option<&Frontend>) -> Option<Arc<ServiceLabels>> {
    match (target, frontend) {
        (Some(target), _) => Some(Arc::clone(&target.labels)),
        (None, Some(frontend)) => Some(Arc::clone(&frontend.labels)),
        (None, None) => None,
    }
}

fn flags(flags: &[Flag]) -> ResponseFlags {
    let all = flags.iter();
    all.fold(ResponseFlags::NONE, |set, flag| set.with((*flag).into()))
}

/// What is known of an opaque connection.
pub(crate) struct TcpFlow {
    pub(crate) started: SystemTime,
    pub(crate) frontend: Option<Arc<Frontend>>,
    pub(crate) target: Option<Arc<Target>>,
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) flag: Option<Flag>,
    pub(crate) details: Option<String>,
    pub(crate) duration: Duration,
    pub(crate) transfer: Transfer,
    /// Once it has reached its endpoint.
    counted: Option<TcpGuard>,
}

impl TcpFlow {
    pub(crate) fn new(inner: &Inner) -> Self {
        let config = inner.worker.node.config.load();
        Self {
            started: SystemTime::now(),
            frontend: None,
            target: None,
            endpoint: None,
            upstream: None,
            telemetry: Arc::clone(&config.gateway.telemetry),
            flag: None,
            details: None,
            duration: Duration::ZERO,
            transfer: Transfer::default(),
            counted: None,
        }
    }

    /// It has reached its endpoint.
    pub(crate) fn opened(&mut self, inner: &Inner) {
        let guard = inner.worker.node.observer.opened(inner, self);
        self.counted = Some(guard);
    }

    /// What it has moved until now.
    pub(crate) fn moved(&mut self, now: Transfer) {
        if let Some(guard) = &self.counted {
            guard.add_received(now.received.saturating_sub(self.transfer.received));
            guard.add_sent(now.sent.saturating_sub(self.transfer.sent));
        }
        self.transfer = now;
    }

    pub(crate) fn note(&mut self, found: &Found<'_>, way: &Way) {
        if let Found::Service { frontend, .. } = found {
            self.frontend = Some(Arc::clone(frontend));
            self.telemetry = Arc::clone(&frontend.telemetry);
        }
        self.target.clone_from(&way.target);
    }
}
