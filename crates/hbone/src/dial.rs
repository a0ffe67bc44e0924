//! One new connection to a peer: certificate, TCP, TLS, HTTP/2.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use ambit_identity::{CertError, Svid, TlsFault, classify_io, peer_identity};
use ambit_net::{ConnectError, PodSockets};
use ambit_types::SpiffeId;
use rustls::client::UnbufferedClientConnection;
use tokio::time::timeout;

use crate::config::HboneConfig;
use crate::engine::{ClientDriver, Opener, client};
use crate::error::DialError;
use crate::handshake::{Side, connect};
use crate::pool::PoolKey;

/// A connection that nobody drives yet.
pub(crate) struct Dialled {
    pub(crate) opener: Opener,
    pub(crate) driver: ClientDriver<UnbufferedClientConnection>,
    pub(crate) peer: SpiffeId,
    pub(crate) fault: Arc<OnceLock<TlsFault>>,
    /// End of the certificate that we showed.
    pub(crate) expires: SystemTime,
}

pub(crate) async fn dial<F>(
    config: &HboneConfig,
    sockets: &PodSockets,
    key: &PoolKey,
    svid: F,
) -> Result<Dialled, DialError>
where
    F: Future<Output = Result<Arc<Svid>, CertError>>,
{
    let peer = key.peer;
    let svid = svid.await.map_err(DialError::Certificate)?;
    let dialled = sockets.connect(peer, config.dial_timeout).await;
    let tcp = dialled.map_err(|error| match error {
        ConnectError::Timeout { peer } => DialError::Timeout { peer },
        ConnectError::Socket { .. } | ConnectError::Connect { .. } => DialError::Connect(error),
    })?;
    let tls_failed = |error| DialError::Tls {
        peer,
        fault: classify_io(&error),
    };
    let handshake = async {
        let wire = connect(tcp, svid.client_config(&key.expected))
            .await
            .map_err(tls_failed)?;
        let certificates = wire.tls().common().peer_certificates();
        let fault = TlsFault::NotSpiffe;
        let identity = certificates
            .and_then(peer_identity)
            .ok_or(DialError::Tls { peer, fault })?;
        let fault = wire.fault();
        let http2 = client(wire, config).await;
        let (opener, driver) = http2.map_err(|source| DialError::Http2 { peer, source })?;
        Ok(Dialled {
            opener,
            driver,
            peer: identity,
            fault,
            expires: svid.not_after(),
        })
    };
    timeout(config.handshake_timeout, handshake)
        .await
        .unwrap_or(Err(DialError::HandshakeTimeout { peer }))
}
