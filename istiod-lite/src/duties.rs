//! What a replica does in its cluster besides answering: the root bundle in
//! every namespace, and the webhook's configurations (`control-plane-contract`
//! 7.6, 8.3). The ConfigMaps are the leader's to write; the webhook's
//! configurations are every replica's, since each revision has its own, and
//! writing them twice changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_cluster::lease::Leadership;
use ambit_cluster::{
    Client, Discovers, RootMapObserver, WebhookConfigs, keep_root_maps, keep_webhook_configs,
};
use ambit_compile::Discovery;
use ambit_runtime::Scope;
use tokio::sync::watch;
use tracing::warn;

use crate::metrics::ControlMetrics;
use crate::roots::{Published, RootBundle};

/// What the duties are done with.
pub(crate) struct Duties {
    pub(crate) client: Client,
    /// Of `istio-namespace-controller-election`.
    pub(crate) leader: Leadership,
    pub(crate) roots: Arc<RootBundle>,
    pub(crate) metrics: Arc<ControlMetrics>,
    /// Our revision and namespace.
    pub(crate) webhooks: WebhookConfigs,
}

impl Duties {
    /// Starts them on the scope.
    pub(crate) fn start(self, scope: &Scope) {
        let Self {
            client,
            leader,
            roots,
            metrics,
            webhooks,
        } = self;
        let (mut changes, mut settled) = (roots.watch(), roots.settled());
        let (maps, published) = watch::channel(ambit_cluster::Published::default());
        let (bundle, bundles) = watch::channel(String::new());
        scope.spawn("published roots", async move {
            // Before, which namespaces are discovered isn't known.
            if settled.wait_for(|settled| *settled).await.is_err() {
                return;
            }
            let mut discovers: Option<Discovers> = None;
            loop {
                let now = changes.borrow_and_update().clone();
                discovers = selection(&now).unwrap_or(discovers);
                bundle.send_replace(now.roots.clone());
                maps.send_replace(ambit_cluster::Published {
                    roots: now.roots,
                    revoked: Some(now.revoked),
                    discovers: discovers.clone(),
                });
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        let observer = Arc::clone(&metrics);
        let of_maps = client.clone();
        let keep = move || {
            let observer = Arc::clone(&observer) as Arc<dyn RootMapObserver>;
            keep_root_maps(of_maps.clone(), published.clone(), observer)
        };
        scope.spawn("root configmaps", leader.lead(keep));
        scope.spawn("webhook configurations", async move {
            keep_webhook_configs(client, webhooks, bundles, metrics).await;
        });
    }
}

/// Which namespaces are discovered: none of our business where all are; nothing
/// if the selectors can't be used, and the last good ones hold.
fn selection(published: &Published) -> Option<Option<Discovers>> {
    if published.selectors.is_empty() {
        return Some(None);
    }
    let Some(discovery) = Discovery::new(&published.selectors) else {
        warn!("discoverySelectors can't be used; the last good ones hold for root ConfigMaps");
        return None;
    };
    Some(Some(Arc::new(move |labels: &BTreeMap<String, String>| {
        discovery.discovers(labels)
    })))
}
