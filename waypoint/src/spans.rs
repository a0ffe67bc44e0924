//! Spans on their way to a collector, which is a backend like any other: it is
//! found in the configuration and dialled as such, over HBONE where it has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_hbone::{HboneConfig, Pool};
use ambit_net::{PodSockets, Transparent};
use ambit_observe::{Collector, SpanExport, exporter};
use ambit_runtime::Scope;
use ambit_upstream::PickContext;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use tracing::{info, warn};

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
        let channel = channel(Arc::clone(&node), dialer);
        let pod = &node.settings.pod;
        let resource = [
            ("service.name", pod.service_account.clone()),
            ("k8s.namespace.name", pod.namespace.clone()),
            ("k8s.pod.name", pod.name.clone()),
        ];
        match exporter(channel, collector.timeout, &collector.headers, &resource) {
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
        sockets,
    })
}

fn channel(node: Arc<Node>, dialer: Arc<Dialer>) -> Channel {
    let connector = service_fn(move |_: http::Uri| {
        let (node, dialer) = (Arc::clone(&node), Arc::clone(&dialer));
        async move { connect(&node, &dialer).await.map(TokioIo::new) }
    });
    // The name is a formality: the connector knows where to go.
    Endpoint::from_static("http://collector").connect_with_connector_lazy(connector)
}

async fn connect(node: &Node, dialer: &Dialer) -> Result<UpstreamIo, std::io::Error> {
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
    let hop = hop_to(Some(target), &settings, place, Version::Http2);
    let hop = hop.map_err(|error| failed(&error))?;
    dialer.dial(&hop).await.map_err(|error| failed(&error))
}

/// Between two looks for a collector.
const LOOK: Duration = Duration::from_secs(1);
