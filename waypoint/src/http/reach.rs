//! Reaching an endpoint: where a connection for it goes, a kept or a new one,
//! and one request on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_upstream::{Endpoint, Settings};
use http::{Request, Response};
use hyper::body::Incoming;

use super::body::UpBody;
use crate::config::Target;
use crate::dial::{Alpn, ConnKey, DialFailure, Hop, PoolLimits, Sender, Version as Spoken};
use crate::node::Worker;

/// Where a connection for a place goes and what is put around it.
///
/// # Errors
/// Why nothing can be sent there.
pub(crate) fn hop_to(
    target: Option<&Target>,
    settings: &Settings,
    (endpoint, port): (&Endpoint, u16),
    version: Spoken,
) -> Result<Hop, String> {
    let ip = endpoint.addresses.first().ok_or("no address")?;
    let tls = match target.and_then(|target| target.tls.as_ref()) {
        None => None,
        Some(Ok(tls)) => Some(Arc::clone(tls)),
        Some(Err(error)) => return Err(error.to_string()),
    };
    let alpn = match version {
        Spoken::Http1 => Alpn::Http1,
        Spoken::Http2 => Alpn::Http2,
    };
    Ok(Hop {
        address: SocketAddr::new(*ip, port),
        hbone: endpoint.hbone.then(|| identity(endpoint)),
        tls,
        alpn,
        proxy: None,
        connect_timeout: settings.policy.pool.connect_timeout.unwrap_or(CONNECT),
        forwarded: String::new(),
    })
}

/// A connection, kept or new, with what is needed to keep it. True: it is new.
///
/// # Errors
/// See [`DialFailure`].
pub(crate) async fn connection_to(
    worker: &Worker,
    target: Option<&Target>,
    settings: &Settings,
    hop: &Hop,
    version: Spoken,
) -> Result<(Sender, ConnKey, PoolLimits, bool), DialFailure> {
    let key = ConnKey {
        address: hop.address,
        hbone: hop.hbone.clone(),
        tls: hop.tls.clone(),
        version,
        client: hop.proxy.map(|header| header.source),
    };
    let limits = limits(settings);
    if let Some(sender) = worker.conns.reuse(&key, limits) {
        return Ok((sender, key, limits, false));
    }
    let held = target.map(|target| target.cluster.try_connection());
    let held = held.transpose().map_err(|_| DialFailure::Overflow)?;
    let sender = worker.conns.open(&worker.dialer, &key, hop, held).await?;
    Ok((sender, key, limits, true))
}

/// The address that the client dialled, as an endpoint of which nothing else is
/// known.
pub(crate) fn plain_endpoint(ip: std::net::IpAddr) -> Endpoint {
    Endpoint {
        uid: Arc::default(),
        addresses: vec![ip],
        hostname: None,
        hbone: false,
        identity: None,
        ports: Vec::new(),
        locality: ambit_types::Locality::default(),
        node: Arc::default(),
        network: Arc::default(),
        cluster_id: Arc::default(),
        weight: 1,
        health: ambit_upstream::Health::Ready,
        labels: Vec::new(),
        workload: ambit_upstream::WorkloadNames::default(),
    }
}

/// What holds for a workload that no backend speaks of.
pub(super) fn default_settings() -> Arc<Settings> {
    Arc::new(Settings {
        port: 0,
        subset: Vec::new(),
        policy: Arc::default(),
        protocol: ambit_proto::waypoint::Protocol::Auto,
        resolution: ambit_upstream::Resolution::Static,
        publish_not_ready: false,
        persistent_sessions: false,
        topology: None,
    })
}

/// Who must answer; nobody can where the identity isn't known.
pub(crate) fn identity(endpoint: &Endpoint) -> Arc<[ambit_types::SpiffeId]> {
    endpoint.identity.iter().cloned().collect()
}

fn limits(settings: &Settings) -> PoolLimits {
    let pool = &settings.policy.pool;
    PoolLimits {
        idle: pool.http_idle_timeout,
        uses: pool.max_requests_per_connection,
        streams: pool
            .max_concurrent_streams
            .and_then(|max| usize::try_from(max).ok())
            .unwrap_or(DEFAULT_STREAMS),
    }
}

/// Sends a request and waits for the response's head.
///
/// # Errors
/// hyper's.
pub(crate) async fn send_on(
    sender: Sender,
    request: Request<UpBody>,
) -> Result<(Response<Incoming>, Sender), hyper::Error> {
    match sender {
        Sender::Http1(mut connection) => {
            let response = connection.send.send_request(request).await?;
            Ok((response, Sender::Http1(connection)))
        }
        Sender::Http2(mut place) => {
            let response = place.send.send_request(request).await?;
            Ok((response, Sender::Http2(place)))
        }
    }
}

/// Where nothing else was said.
const CONNECT: Duration = Duration::from_secs(10);
/// Streams of one HTTP/2 connection to an endpoint before another is opened.
const DEFAULT_STREAMS: usize = 100;
