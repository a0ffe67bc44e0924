//! Connections to endpoints: HBONE to the endpoint's node proxy, or plain TCP;
//! a PROXY header and TLS of our own inside either (`waypoint-contract` 1.4).
//!
//! Owns making them ([`Dialer`]) and keeping HTTP connections for further
//! requests ([`Conns`]). Which endpoint is dialled was decided before.

mod conns;
mod error;
mod io;
mod need;
mod proxy_header;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{ConnectRequest, Pool, PoolKey, TraceParent};
use ambit_identity::CertStore;
use ambit_net::{DuplexIo, Keepalive, PodSockets};
use ambit_types::{SpiffeId, wire};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

pub(crate) use conns::{ConnKey, Conns, PoolLimits, Sender, Version};
pub(crate) use error::DialFailure;
pub(crate) use io::UpstreamIo;
pub(crate) use proxy_header::ProxyHeader;
pub(crate) use tls::{Alpn, TlsOrigin};

/// Where a connection goes and what is put around it.
#[derive(Debug, Clone)]
pub(crate) struct Hop {
    /// The endpoint and its target port.
    pub(crate) address: SocketAddr,
    /// Who must answer on the endpoint's HBONE port; plain TCP without.
    pub(crate) hbone: Option<Arc<[SpiffeId]>>,
    /// TLS that we originate.
    pub(crate) tls: Option<Arc<TlsOrigin>>,
    /// What it offers.
    pub(crate) alpn: Alpn,
    /// What is said first.
    pub(crate) proxy: Option<ProxyHeader>,
    /// Of each of TCP and TLS.
    pub(crate) connect_timeout: Duration,
    /// Of plain TCP; none is the process's own.
    pub(crate) keepalive: Option<Keepalive>,
    /// `forwarded` of the CONNECT; empty leaves it out.
    pub(crate) forwarded: String,
}

/// Makes connections, on one data thread.
pub(crate) struct Dialer {
    pub(crate) pool: Pool,
    pub(crate) certs: CertStore,
    pub(crate) sockets: PodSockets,
    pub(crate) id: SpiffeId,
    pub(crate) own_ip: IpAddr,
    /// What is said of us on a CONNECT (`ztunnel-contract` 2.4).
    pub(crate) baggage: Arc<str>,
}

impl Dialer {
    /// Connects.
    ///
    /// # Errors
    /// See [`DialFailure`]. Every wait has a deadline.
    pub(crate) async fn dial(&self, hop: &Hop) -> Result<UpstreamIo, DialFailure> {
        if hop.hbone.is_some() {
            let mut io = DuplexIo::new(self.tunnel(hop).await?);
            if let Some(header) = &hop.proxy {
                let wrote = io.write_all(&header.encode()).await;
                wrote.map_err(DialFailure::ProxyHeader)?;
            }
            return match &hop.tls {
                None => Ok(UpstreamIo::Tunnel(io)),
                Some(tls) => {
                    let connecting = tls.connect(hop.alpn, io);
                    let stream = bounded(hop, connecting).await?;
                    Ok(UpstreamIo::TlsTunnel(Box::new(stream)))
                }
            };
        }
        let dialled = match hop.keepalive {
            None => self.sockets.connect(hop.address, hop.connect_timeout).await,
            Some(keepalive) => {
                let sockets = PodSockets {
                    keepalive,
                    ..self.sockets.clone()
                };
                sockets.connect(hop.address, hop.connect_timeout).await
            }
        };
        let mut io = dialled.map_err(DialFailure::Connect)?;
        if let Some(header) = &hop.proxy {
            let wrote = io.write_all(&header.encode()).await;
            wrote.map_err(DialFailure::ProxyHeader)?;
        }
        match &hop.tls {
            None => Ok(UpstreamIo::Tcp(io)),
            Some(tls) => {
                let connecting = tls.connect(hop.alpn, io);
                let stream = bounded(hop, connecting).await?;
                Ok(UpstreamIo::TlsTcp(Box::new(stream)))
            }
        }
    }

    /// A tunnel to the endpoint, by its node proxy.
    pub(crate) async fn tunnel(&self, hop: &Hop) -> Result<ambit_hbone::Tunnel, DialFailure> {
        let key = PoolKey {
            source: self.id.clone(),
            expected: hop.hbone.clone().unwrap_or_default(),
            peer: SocketAddr::new(hop.address.ip(), wire::HBONE_PORT),
            source_ip: self.own_ip,
        };
        let request = ConnectRequest {
            authority: hop.address.to_string(),
            baggage: self.baggage.to_string(),
            forwarded: hop.forwarded.clone(),
            traceparent: TraceParent::generate().to_string(),
        };
        let (certs, id) = (self.certs.clone(), self.id.clone());
        let svid = move || async move { certs.svid(&id).await };
        let opened = self.pool.open(&key, svid, &request).await;
        opened.map_err(DialFailure::Hbone)
    }
}

async fn bounded<T>(
    hop: &Hop,
    connecting: impl Future<Output = std::io::Result<T>>,
) -> Result<T, DialFailure> {
    match timeout(hop.connect_timeout, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(DialFailure::Tls(error)),
        Err(_) => Err(DialFailure::TlsTimeout),
    }
}
