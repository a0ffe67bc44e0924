//! Reaching an endpoint: where a connection for it goes, a kept or a new one,
//! and one request on it.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ambit_net::Keepalive;
use ambit_upstream::{Endpoint, Permit, Settings};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

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
        keepalive: keepalive(settings),
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
    let Some(target) = target else {
        let opened = worker.conns.open(&worker.dialer, &key, hop, ()).await;
        return Ok((opened?, key, limits, true));
    };
    // 5.4: from here on the request is pending.
    let pending = target.cluster.try_pending();
    let _pending = pending.map_err(|_| DialFailure::Overflow)?;
    match place(worker, target, hop, &key, limits).await? {
        Place::Kept(sender) => Ok((sender, key, limits, false)),
        Place::Free(held) => {
            let opened = worker.conns.open(&worker.dialer, &key, hop, held).await;
            Ok((opened?, key, limits, true))
        }
    }
}

/// Where a request that found no connection goes.
enum Place {
    Kept(Sender),
    /// A new connection may be made. One for each endpoint and data thread
    /// may, whatever the bound: others' connections come to no good here.
    Free(Option<Permit>),
}

/// Waits for a connection that comes free, or for leave to make one, no longer
/// than a connect may take.
async fn place(
    worker: &Worker,
    target: &Target,
    hop: &Hop,
    key: &ConnKey,
    limits: PoolLimits,
) -> Result<Place, DialFailure> {
    let until = Instant::now() + hop.connect_timeout;
    let waiting = worker.conns.wait();
    loop {
        let mut freed = pin!(waiting.freed());
        freed.as_mut().enable();
        if let Some(sender) = worker.conns.reuse(key, limits) {
            return Ok(Place::Kept(sender));
        }
        if let Ok(permit) = target.cluster.try_connection() {
            return Ok(Place::Free(Some(permit)));
        }
        if !worker.conns.any(key) {
            return Ok(Place::Free(None));
        }
        if Instant::now() >= until {
            return Err(DialFailure::Overflow);
        }
        // Other threads' places come free without a word: then the next look
        // is the one that finds them.
        let next = (Instant::now() + LOOK_AGAIN).min(until);
        let _ = timeout_at(next, freed).await;
    }
}

/// The TCP keepalive that a backend asks for; what it leaves out is the
/// system's.
pub(crate) fn keepalive(settings: &Settings) -> Option<Keepalive> {
    let wanted = settings.policy.pool.keepalive.as_ref()?;
    Some(Keepalive {
        time: wanted.time.unwrap_or(Duration::from_secs(7200)),
        interval: wanted.interval.unwrap_or(Duration::from_secs(75)),
        retries: wanted.probes.unwrap_or(9),
        ..Keepalive::default()
    })
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
        life: pool.max_connection_duration,
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
/// Between two looks at what other data threads left.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Streams of one HTTP/2 connection to an endpoint before another is opened.
const DEFAULT_STREAMS: usize = 100;
