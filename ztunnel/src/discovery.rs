//! The view's sources: a static file, and the control plane over delta ADS.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ambit_channel::{ChannelConfig, ChannelError, RootSource, TokenSource};
use ambit_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use ambit_runtime::{ReadyGuard, Scope};
use ambit_state::{StateConfig, StateWriter, StaticConfig, StaticConfigError};
use ambit_xds::{
    ClientConfig, ClientMetrics, Metadata, ReceivedResource, Rejection, ResourceSink, Termination,
    TypeSub, run_client,
};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::{Config, Endpoint, LocalXds, Node, Root, Token, UnknownPolicy};
use crate::metrics::XdsMetrics;
use crate::node::ControlPlane;

/// The static configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalXdsError {
    /// The file can't be read.
    #[error("LOCAL_XDS_PATH {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It isn't in the format of contract 8.3.
    #[error("static configuration")]
    Parse(#[from] StaticConfigError),
}

/// What the view must know about this node.
pub(crate) fn state_config(config: &Config) -> StateConfig {
    StateConfig {
        network: config.node.network.as_str().into(),
        local_node: config.node.name.as_deref().map(Into::into),
        unknown_policy: match config.unknown_policy {
            UnknownPolicy::Deny => ambit_state::UnknownPolicy::Deny,
            UnknownPolicy::Skip => ambit_state::UnknownPolicy::Skip,
        },
        illegal_ports: config.illegal_ports(),
        ..StateConfig::default()
    }
}

/// Loads the static configuration, if there is one.
pub(crate) fn load_static(
    source: Option<&LocalXds>,
    writer: &mut StateWriter,
) -> Result<(), LocalXdsError> {
    let text = match source {
        None => return Ok(()),
        Some(LocalXds::Inline(text)) => text.clone(),
        Some(LocalXds::File(path)) => {
            std::fs::read_to_string(path).map_err(|source| LocalXdsError::Read {
                path: path.clone(),
                source,
            })?
        }
    };
    writer.load_static(StaticConfig::parse(&text)?);
    info!("static configuration loaded");
    Ok(())
}

/// How to reach one of the control plane's services.
pub(crate) fn channel(config: &Config, endpoint: &Endpoint) -> ChannelConfig {
    ChannelConfig {
        address: endpoint.address.clone(),
        root: match &endpoint.root {
            Root::File(path) => RootSource::Path(path.clone()),
            Root::System => RootSource::System,
            Root::Inline(pem) => RootSource::Inline(pem.clone()),
        },
        alt_hostname: endpoint.alt_hostname.clone(),
        token: match &config.token {
            Token::File(path) => TokenSource::File(path.clone()),
            Token::Literal(token) => TokenSource::Literal(token.clone()),
            Token::None => TokenSource::None,
        },
        cluster_id: config.node.cluster_id.clone(),
        headers: endpoint.headers.clone(),
    }
}

/// What the discovery client needs of the process.
pub(crate) struct Discovery {
    pub(crate) writer: StateWriter,
    pub(crate) control_plane: ControlPlane,
    pub(crate) metrics: XdsMetrics,
    pub(crate) ready: ReadyGuard,
}

impl Discovery {
    /// Keeps the view up to date for as long as the scope lives. The receiver
    /// turns true when the view is complete for the first time: at once where
    /// there is no control plane.
    pub(crate) fn start(
        self,
        config: &Config,
        scope: &Scope,
    ) -> Result<watch::Receiver<bool>, ChannelError> {
        let (synced, complete) = watch::channel(config.xds.is_none());
        let Some(endpoint) = &config.xds else {
            self.ready.ready();
            return Ok(complete);
        };
        let channel = ambit_channel::connect(&channel(config, endpoint))?;
        let client = ClientConfig {
            node: node(&config.node, &config.proxy_metadata),
            types: vec![
                TypeSub::wildcard(ADDRESS_TYPE),
                TypeSub::wildcard(AUTHORIZATION_TYPE),
            ],
            demand: None,
        };
        let missing = client
            .types
            .iter()
            .map(|one| one.type_url.clone())
            .collect();
        let sink = Sink {
            writer: self.writer,
            missing,
            synced,
        };
        let hooks = Arc::new(Hooks {
            metrics: self.metrics,
            control_plane: self.control_plane,
        });
        let (ready, token) = (self.ready, scope.token());
        scope.spawn("discovery", async move {
            run_client(channel, client, Box::new(sink), ready, hooks, token).await;
        });
        Ok(complete)
    }
}

fn node(node: &Node, metadata: &crate::config::ProxyMetadata) -> ambit_xds::Node {
    let pod = node.pod_name.clone().unwrap_or_default();
    let namespace = node.pod_namespace.clone().unwrap_or_default();
    let ip = node.instance_ip;
    let mut built = Metadata::new()
        .string("NAME", pod.as_str())
        .string("NAMESPACE", namespace.as_str())
        .string("INSTANCE_IPS", ip.to_string())
        .string("NODE_NAME", node.name.clone().unwrap_or_default());
    for (key, value) in metadata {
        built = built.json(key.as_str(), value.clone());
    }
    ambit_xds::Node {
        id: format!("ztunnel~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(built.into_struct()),
        ..ambit_xds::Node::default()
    }
}

/// Where received resources go.
struct Sink {
    writer: StateWriter,
    /// Types of which no response was taken whole so far.
    missing: BTreeSet<String>,
    synced: watch::Sender<bool>,
}

impl ResourceSink for Sink {
    fn apply(
        &mut self,
        type_url: &str,
        changed: Vec<ReceivedResource>,
        removed: Vec<String>,
    ) -> Vec<Rejection> {
        let changed = changed
            .into_iter()
            .map(|one| (one.name, one.body))
            .collect();
        let rejected = match type_url {
            ADDRESS_TYPE => self.writer.apply_addresses_encoded(changed, &removed),
            AUTHORIZATION_TYPE => self.writer.apply_authorizations_encoded(changed, &removed),
            other => {
                warn!(
                    type_url = other,
                    "resources of a type that nobody asked for"
                );
                Vec::new()
            }
        };
        for (name, reason) in &rejected {
            warn!(type_url, name, reason, "resource rejected");
        }
        if rejected.is_empty() && self.missing.remove(type_url) && self.missing.is_empty() {
            info!("the first configuration is complete");
            self.synced.send_replace(true);
        }
        rejected
            .into_iter()
            .map(|(name, reason)| Rejection { name, reason })
            .collect()
    }
}

struct Hooks {
    metrics: XdsMetrics,
    control_plane: ControlPlane,
}

impl ClientMetrics for Hooks {
    fn terminated(&self, reason: Termination) {
        self.control_plane.left();
        self.metrics.terminated(reason.label());
    }

    fn message(&self, type_url: &str, bytes: usize) {
        self.control_plane.spoke();
        self.metrics.message(type_url, bytes);
    }
}
