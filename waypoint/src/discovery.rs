//! Where the configuration comes from: delta ADS with the pod's own token, and
//! certificates for the pod's own identity.

use std::sync::Arc;

use ambit_channel::{CaClient, CertificateFor, ChannelError};
use ambit_identity::{CertStore, CertStoreConfig, CsrSource, SystemClock, TlsOptions};
use ambit_proto::waypoint as pb;
use ambit_runtime::{ReadyGuard, Scope};
use ambit_xds::{ClientConfig, ClientMetrics, Metadata, TypeSub, run_client};

use crate::config::Store;
use crate::settings::Settings;

/// Keeps the store fed for as long as the scope lives.
///
/// # Errors
/// The control plane's address or root can't be used.
pub(crate) fn start(
    settings: &Settings,
    store: Store,
    ready: ReadyGuard,
    metrics: Arc<dyn ClientMetrics>,
    scope: &Scope,
) -> Result<(), ChannelError> {
    let channel = ambit_channel::connect(&settings.channel(&settings.xds))?;
    let client = ClientConfig {
        node: node(settings),
        types: pb::TYPES.into_iter().map(TypeSub::wildcard).collect(),
        demand: None,
    };
    let token = scope.token();
    scope.spawn("discovery", async move {
        run_client(channel, client, Box::new(store), ready, metrics, token).await;
    });
    Ok(())
}

/// Certificates of our own identity, which the control plane takes from the
/// token.
///
/// # Errors
/// The authority's address or root can't be used.
pub(crate) fn certificates(settings: &Settings, scope: &Scope) -> Result<CertStore, ChannelError> {
    let channel = ambit_channel::connect(&settings.channel(&settings.ca))?;
    let signer = Arc::new(CaClient::new(channel, CertificateFor::Caller));
    let source = Arc::new(CsrSource::new(signer, TlsOptions::default()));
    let config = CertStoreConfig {
        ttl: settings.secret_ttl,
        ..CertStoreConfig::default()
    };
    let clock = Arc::new(SystemClock);
    Ok(CertStore::with_source(source, config, clock, scope))
}

fn node(settings: &Settings) -> ambit_xds::Node {
    let pod = &settings.pod;
    let metadata = Metadata::new()
        .string("NAME", pod.name.as_str())
        .string("NAMESPACE", pod.namespace.as_str())
        .string("SERVICE_ACCOUNT", pod.service_account.as_str())
        .string("INSTANCE_IPS", pod.ip.to_string())
        .string("NODE_NAME", pod.node.as_str())
        .string("CLUSTER_ID", pod.cluster_id.as_str());
    let (name, namespace, domain) = (&pod.name, &pod.namespace, &pod.cluster_domain);
    let ip = pod.ip;
    ambit_xds::Node {
        id: format!("waypoint~{ip}~{name}.{namespace}~{namespace}.svc.{domain}"),
        metadata: Some(metadata.into_struct()),
        ..ambit_xds::Node::default()
    }
}
