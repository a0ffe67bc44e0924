//! Fifth step: the other end of a connection.

use std::net::{IpAddr, SocketAddr};

use ambit_hbone::{Baggage, ConnectRequest, Forwarded, PoolKey, TraceParent, Tunnel};
use ambit_net::DIAL_TIMEOUT;
use ambit_state::{OutboundRoute, Workload};
use ambit_types::SpiffeId;
use tokio::net::TcpStream;

use crate::error::FlowError;
use crate::pod::PodProxy;

/// What an outbound connection is copied to.
pub(crate) enum Upstream {
    /// A plain TCP connection.
    Tcp(TcpStream),
    /// A stream of a shared connection with mutual TLS.
    Hbone(Tunnel),
}

/// Dials what was decided; the pod's own namespace is where dials start.
pub(crate) async fn dial(
    proxy: &PodProxy,
    source: &Workload,
    src: SocketAddr,
    route: &OutboundRoute,
) -> Result<Upstream, FlowError> {
    match route {
        OutboundRoute::Passthrough { dst, .. } | OutboundRoute::Tcp { dst, .. } => Ok(
            Upstream::Tcp(proxy.sockets.connect(*dst, DIAL_TIMEOUT).await?),
        ),
        OutboundRoute::Hbone {
            dial,
            authority,
            expected,
            ..
        } => {
            let own = own_identity(source)?;
            let key = PoolKey {
                source: own.clone(),
                expected: expected.clone(),
                peer: *dial,
                source_ip: src.ip(),
            };
            let request = ConnectRequest {
                authority: authority.clone(),
                baggage: baggage(source).to_string(),
                forwarded: forwarded(src, route).to_string(),
                traceparent: TraceParent::generate().to_string(),
            };
            let certs = proxy.node.certs.clone();
            let svid = move || async move { certs.svid(&own).await };
            Ok(Upstream::Hbone(
                proxy.pool.open(&key, svid, &request).await?,
            ))
        }
    }
}

/// Dials the application of an admitted connection, with the client's address
/// where the kernel lets us keep it.
pub(crate) async fn application(
    proxy: &PodProxy,
    client: IpAddr,
    dst: SocketAddr,
) -> Result<TcpStream, FlowError> {
    let dialled = if proxy.keeps_source {
        proxy.sockets.connect_from(client, dst, DIAL_TIMEOUT).await
    } else {
        proxy.sockets.connect(dst, DIAL_TIMEOUT).await
    };
    Ok(dialled?)
}

/// A static workload may have no trust domain, and so no identity.
fn own_identity(source: &Workload) -> Result<SpiffeId, FlowError> {
    source
        .identity()
        .cloned()
        .ok_or_else(|| FlowError::NoIdentity(source.uid.clone()))
}

/// What we say of a workload (`ztunnel-contract` 2.4).
pub(crate) fn baggage(workload: &Workload) -> Baggage {
    Baggage {
        cluster_id: workload.cluster_id.to_string(),
        namespace: workload.namespace.to_string(),
        workload_type: workload.workload_type,
        workload_name: workload.workload_name.to_string(),
        canonical_name: workload.canonical_name.to_string(),
        canonical_revision: workload.canonical_revision.to_string(),
        region: workload.locality.region.to_string(),
        zone: workload.locality.zone.to_string(),
    }
}

fn forwarded(client: SocketAddr, route: &OutboundRoute) -> Forwarded {
    let host = route
        .service()
        .map(|service| service.key.hostname.to_string());
    Forwarded { client, host }
}
