//! Spans on their way to a collector, which is a backend like any other: it is
//! found in the configuration and dialled as such, over HBONE where it has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_hbone::{HboneConfig, Pool};
use ambit_net::{PodSockets, Transparent};
use ambit_observe::{Collector, Post, SpanExport, exporter, http_exporter};
use ambit_runtime::Scope;
use ambit_upstream::PickContext;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use tracing::{debug, info, warn};

use crate::dial::{Dialer, UpstreamIo, Version};
use crate::http::hop_to;
use crate::node::Node;

/// Exports for as long as the scope lives, once a collector is configured.
pub(crate) fn start(node: &Arc<Node>, export: SpanExport, scope: &Scope) {
    let (node, own) = (Arc::clone(node), scope.clone());
    scope.spawn("spans", async move {
        let collector = loop {
            if let Some(collector) = collector(&node) {
                break collector;
            }
            tokio::time::sleep(LOOK).await;
        };
        info!(service = collector.service, "spans are exported");
        let dialer = dialer(&node, &own);
        let pod = &node.settings.pod;
        let resource = [
            ("service.name", pod.service_account.clone()),
            ("k8s.namespace.name", pod.namespace.clone()),
            ("k8s.pod.name", pod.name.clone()),
        ];
        let made = match &collector.http_path {
            Some(path) => Ok(http_exporter(post(&node, dialer, path.as_str()), &resource)),
            None => {
                let channel = channel(Arc::clone(&node), dialer);
                exporter(channel, collector.timeout, &collector.headers, &resource)
            }
        };
        match made {
            Ok(exporter) => drop(export.run(exporter, own.token()).await),
            Err(error) => warn!(%error, "spans can't be exported"),
        }
    });
}

/// The gateway's collector, else the first frontend's that has one.
fn collector(node: &Node) -> Option<Collector> {
    let config = node.config.load();
    let of = |telemetry: &ambit_observe::Telemetry| telemetry.tracing.as_ref()?.collector.clone();
    let mut frontends = config.frontends();
    of(&config.gateway.telemetry).or_else(|| frontends.find_map(|frontend| of(&frontend.telemetry)))
}

fn dialer(node: &Node, scope: &Scope) -> Arc<Dialer> {
    let sockets = PodSockets {
        transparent: Transparent::Never,
        ..PodSockets::default()
    };
    Arc::new(Dialer {
        pool: Pool::new(HboneConfig::default(), sockets.clone(), scope),
        certs: node.certs.clone(),
        id: node.id.clone(),
        own_ip: node.ip(),
        baggage: node.baggage(),
        sockets,
    })
}

fn channel(node: Arc<Node>, dialer: Arc<Dialer>) -> Channel {
    let connector = service_fn(move |_: http::Uri| {
        let (node, dialer) = (Arc::clone(&node), Arc::clone(&dialer));
        async move {
            connect(&node, &dialer, Version::Http2)
                .await
                .map(TokioIo::new)
        }
    });
    // The name is a formality: the connector knows where to go.
    Endpoint::from_static("http://collector").connect_with_connector_lazy(connector)
}

/// OTLP over HTTP: one POST a batch, on a connection of its own; there is a
/// batch a second at most.
fn post(node: &Arc<Node>, dialer: Arc<Dialer>, path: &str) -> Post {
    let (node, path) = (Arc::clone(node), Arc::<str>::from(path));
    Box::new(move |body| {
        let (node, dialer, path) = (Arc::clone(&node), Arc::clone(&dialer), Arc::clone(&path));
        Box::pin(async move {
            let bound = collector(&node).map_or(LOOK, |collector| collector.timeout);
            let sent = timeout(bound, send(&node, &dialer, &path, body)).await;
            match sent {
                Ok(Ok(status)) if status.is_success() => true,
                Ok(Ok(status)) => {
                    debug!(%status, "spans not exported");
                    false
                }
                Ok(Err(error)) => {
                    debug!(%error, "spans not exported");
                    false
                }
                Err(_) => {
                    debug!("spans not exported: timeout");
                    false
                }
            }
        })
    })
}

async fn send(
    node: &Node,
    dialer: &Dialer,
    path: &str,
    body: Bytes,
) -> Result<StatusCode, std::io::Error> {
    let other = std::io::Error::other::<Box<dyn std::error::Error + Send + Sync>>;
    let collector = collector(node).ok_or_else(|| std::io::Error::other("no collector"))?;
    let host = collector.service.split_once('/');
    let host = host.map_or("collector", |(_, host)| host);
    let mut request = Request::post(path)
        .header(HOST, format!("{host}:{}", collector.port))
        .header(CONTENT_TYPE, "application/x-protobuf");
    for (name, value) in &collector.headers {
        request = request.header(name.as_str(), value.as_str());
    }
    let request = request.body(Full::new(body));
    let request = request.map_err(|error| other(error.into()))?;
    let io = connect(node, dialer, Version::Http1).await?;
    let (mut send, connection) = http1::handshake(TokioIo::new(io))
        .await
        .map_err(|error| other(error.into()))?;
    let answering = async move {
        let response = send.send_request(request).await?;
        let status = response.status();
        // The answer says no more than its status; it is read so that the
        // collector isn't cut off.
        let _ = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        Ok::<_, hyper::Error>(status)
    };
    // The connection ends with the sender.
    let (answer, _) = tokio::join!(answering, connection);
    answer.map_err(|error| other(error.into()))
}

async fn connect(
    node: &Node,
    dialer: &Dialer,
    version: Version,
) -> Result<UpstreamIo, std::io::Error> {
    let failed = |why: &dyn std::fmt::Display| std::io::Error::other(why.to_string());
    let collector = collector(node).ok_or_else(|| failed(&"no collector"))?;
    let config = node.config.load_full();
    let service = config.service(&collector.service);
    let target = service.and_then(|service| service.target(collector.port, "").ok());
    let target = target.ok_or_else(|| failed(&"the collector's service is unknown"))?;
    let context = PickContext::default();
    let pick = target
        .cluster
        .pick(&context, &mut rand::rng(), Instant::now())
        .map_err(|error| failed(&error))?;
    let settings = target.cluster.settings();
    let place = (&**pick.endpoint(), pick.target_port());
    let hop = hop_to(Some(target), &settings, place, version);
    let hop = hop.map_err(|error| failed(&error))?;
    dialer.dial(&hop).await.map_err(|error| failed(&error))
}

/// Of a collector's answer.
const MAX_ANSWER: usize = 64 << 10;
/// Between two looks for a collector.
const LOOK: Duration = Duration::from_secs(1);
