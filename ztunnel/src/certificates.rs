//! Which certificates this node needs: those of its enrolled pods and of its
//! HBONE workloads (`ztunnel-contract` 5.2).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ambit_channel::{CaClient, CertificateFor, ChannelError};
use ambit_identity::{
    CertStore, CertStoreConfig, CertificateSigner, CsrSource, KeyExchange, SignError, SystemClock,
    TlsOptions, TlsVersions,
};
use ambit_runtime::Scope;
use ambit_state::{StateReader, View};
use ambit_types::SpiffeId;
use async_trait::async_trait;
use tracing::debug;

use crate::config::Config;
use crate::discovery;
use crate::enrol::board::Board;

/// The store on top of the configured certificate service.
pub(crate) fn store(config: &Config, scope: &Scope) -> Result<CertStore, ChannelError> {
    let signer: Arc<dyn CertificateSigner> = match &config.ca {
        Some(endpoint) => {
            let channel = ambit_channel::connect(&discovery::channel(config, endpoint))?;
            Arc::new(CaClient::new(channel, CertificateFor::Impersonated))
        }
        None => Arc::new(NoCa),
    };
    let tls = TlsOptions {
        versions: if config.tls12 {
            TlsVersions::Tls12And13
        } else {
            TlsVersions::Tls13
        },
        key_exchange: if config.post_quantum {
            KeyExchange::PostQuantum
        } else {
            KeyExchange::Standard
        },
    };
    let source = Arc::new(CsrSource::new(signer, tls));
    let settings = CertStoreConfig {
        ttl: config.secret_ttl,
        ..CertStoreConfig::default()
    };
    Ok(CertStore::with_source(
        source,
        settings,
        Arc::new(SystemClock),
        scope,
    ))
}

/// `CA_ADDRESS` is empty.
struct NoCa;

#[async_trait]
impl CertificateSigner for NoCa {
    async fn sign(&self, _: &SpiffeId, _: &str, _: Duration) -> Result<Vec<String>, SignError> {
        let detail = "CA_ADDRESS is empty: there is no certificate service".to_owned();
        Err(SignError::Unreachable { detail })
    }
}

/// Fetches what is needed before anybody asks, and forgets what nobody on this
/// node needs any more.
pub(crate) struct Needed {
    pub(crate) state: StateReader,
    pub(crate) board: Board,
    pub(crate) certs: CertStore,
    pub(crate) trust_domain: Arc<str>,
    /// Ours, never forgotten.
    pub(crate) own: Option<SpiffeId>,
}

impl Needed {
    /// Follows the view and the enrolled pods.
    pub(crate) async fn follow(self) {
        let mut view = self.state.changed();
        let mut pods = self.board.changed();
        let mut held = BTreeSet::new();
        loop {
            view.mark_unchanged();
            pods.mark_unchanged();
            let needed = self.now();
            for id in needed.difference(&held) {
                self.certs.prefetch(id);
            }
            for id in held.difference(&needed) {
                debug!(%id, "certificate no longer needed");
                self.certs.forget(id);
            }
            held = needed;
            let more = tokio::select! {
                more = view.changed() => more,
                more = pods.changed() => more,
            };
            if more.is_err() {
                return;
            }
        }
    }

    fn now(&self) -> BTreeSet<SpiffeId> {
        let view = self.state.view();
        let mut needed = view.local_identities();
        let pods = self.board.pods();
        needed.extend(
            pods.iter()
                .filter_map(|(_, info, _)| pod_identity(&view, &self.trust_domain, info)),
        );
        needed.extend(self.own.clone());
        needed
    }
}

/// The identity of an enrolled pod: as the control plane knows it, or else as
/// the node agent says, in this node's trust domain.
pub(crate) fn pod_identity(
    view: &View,
    trust_domain: &Arc<str>,
    info: &ambit_redirect::zds::WorkloadInfo,
) -> Option<SpiffeId> {
    match view.local_workload(&info.name, &info.namespace, &info.service_account) {
        Some(known) => known.identity().cloned(),
        None => SpiffeId::new(
            Arc::clone(trust_domain),
            info.namespace.as_str(),
            info.service_account.as_str(),
        )
        .ok(),
    }
}
