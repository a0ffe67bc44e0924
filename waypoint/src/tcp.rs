//! Opaque connections (`waypoint-contract` 1.13, 4.6): policy, route, endpoint,
//! then bytes and nothing else. What is refused is closed without a byte.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ambit_hbone::{Forwarded, Tunnel};
use ambit_net::{Chunk, DuplexIo, Meter, relay};
use ambit_policy::http::{HttpAttrs, HttpVerdict};
use ambit_route::{Choice, FoundTcp};
use ambit_upstream::{Endpoint, LocalFailure, Outcome, Permit, Pick, PickContext, PickError};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::config::{Config, Target};
use crate::destination::{Destination, Found};
use crate::dial::{Alpn, DialFailure, Hop, ProxyHeader, UpstreamIo};
use crate::http::{Flag, Inner, ask_tcp, keepalive, plain_endpoint};
use crate::observer::TcpFlow;

/// Why a connection isn't carried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the destination is gone")]
    Gone,
    #[error("{0}")]
    Denied(String),
    #[error("no route")]
    NoRoute,
    #[error("no such backend")]
    NoCluster,
    #[error("no healthy endpoint")]
    NoHealthy,
    #[error("too many connections")]
    Overflow,
    #[error("endpoint unreachable: {0}")]
    Dial(DialFailure),
}

impl Refused {
    fn flag(&self) -> Option<Flag> {
        match self {
            Self::Denied(_) => None,
            Self::Gone | Self::NoRoute => Some(Flag::NoRoute),
            Self::NoCluster => Some(Flag::NoCluster),
            Self::NoHealthy => Some(Flag::NoHealthy),
            Self::Overflow => Some(Flag::Overflow),
            Self::Dial(_) => Some(Flag::ConnectFailure),
        }
    }
}

/// Carries an opaque connection to its end.
pub(crate) async fn serve(inner: Inner, tunnel: Tunnel, read: Option<Chunk>) {
    let started = Instant::now();
    let mut flow = TcpFlow::new(&inner);
    let meter = Meter::default();
    let refused = carry(&inner, tunnel, read, &mut flow, &meter).await.err();
    if let Some(refused) = &refused {
        debug!(source = %inner.source, dialled = %inner.dialled, %refused, "connection refused");
    }
    flow.flag = refused.as_ref().and_then(Refused::flag);
    flow.details = refused.map(|refused| refused.to_string());
    flow.duration = started.elapsed();
    flow.moved(meter.transfer());
    inner.worker.node.observer.connection(&inner, &flow);
}

async fn carry(
    inner: &Inner,
    tunnel: Tunnel,
    read: Option<Chunk>,
    flow: &mut TcpFlow,
    meter: &Meter,
) -> Result<(), Refused> {
    let config = inner.worker.node.config.load_full();
    let found = inner.destination.find(&config).ok_or(Refused::Gone)?;
    authorize(&config, inner, &found).await?;
    let way = way(&config, inner, &found)?;
    flow.note(&found, &way);
    drop(config);
    let mut held = Guards::default();
    let upstream = dial(inner, &way, flow, &mut held).await?;
    flow.opened(inner);
    let mut joined = pin!(join(tunnel, read, upstream, way.bounds(), meter));
    while timeout(FLUSH, joined.as_mut()).await.is_err() {
        flow.moved(meter.transfer());
    }
    Ok(())
}

/// Which endpoint a connection may go to.
pub(crate) struct Way {
    pub(crate) target: Option<Arc<Target>>,
    /// This one and no other: the client dialled it.
    pub(crate) direct: Option<(Arc<Endpoint>, u16)>,
    connect_timeout: Duration,
}

/// How long a connection may last.
#[derive(Clone, Copy)]
struct Bounds {
    /// Without a byte.
    idle: Option<Duration>,
    /// At all.
    life: Option<Duration>,
}

/// Places in limits, for as long as the connection lives.
#[derive(Default)]
struct Guards {
    pick: Option<Pick>,
    connection: Option<Permit>,
}

impl Way {
    fn bounds(&self) -> Bounds {
        let (idle, life) = match &self.target {
            Some(target) => {
                let settings = target.cluster.settings();
                let pool = &settings.policy.pool;
                (pool.tcp_idle_timeout, pool.max_connection_duration)
            }
            None => (Some(ONE_HOUR), None),
        };
        Bounds { idle, life }
    }
}

async fn authorize(config: &Config, inner: &Inner, found: &Found<'_>) -> Result<(), Refused> {
    let policies = found.policies();
    if policies.asks_providers() {
        let names: Vec<Box<str>> = {
            let asked = policies.custom(&attrs(inner, found));
            asked.iter().map(|one| one.provider.into()).collect()
        };
        let asked = ask_tcp(config, inner, &names).await;
        asked.map_err(|why| Refused::Denied(why.to_owned()))?;
    }
    let attrs = attrs(inner, found);
    match policies.evaluate(&attrs).verdict {
        HttpVerdict::Allow(_) => Ok(()),
        HttpVerdict::Deny(by) => Err(Refused::Denied(by.to_string())),
    }
}

/// The policies that stand in for those of the workload that was picked.
fn authorize_workload(inner: &Inner, uid: &str) -> Result<(), Refused> {
    let config = inner.worker.node.config.load_full();
    let found = inner.destination.find(&config).ok_or(Refused::Gone)?;
    let policies = found.policies();
    if !policies.asks_workload() {
        return Ok(());
    }
    let attrs = attrs(inner, &found);
    match policies.evaluate_workload(uid, &attrs).verdict {
        HttpVerdict::Allow(_) => Ok(()),
        HttpVerdict::Deny(by) => Err(Refused::Denied(by.to_string())),
    }
}

fn attrs<'a>(inner: &'a Inner, found: &Found<'_>) -> HttpAttrs<'a> {
    HttpAttrs {
        source_ip: inner.source.ip(),
        remote_ip: None,
        peer: Some(&inner.peer),
        destination_ip: inner.dialled.ip(),
        destination_port: found.service_port(),
        sni: inner.sni.as_deref(),
        http: None,
    }
}

fn way(config: &Config, inner: &Inner, found: &Found<'_>) -> Result<Way, Refused> {
    let connect_timeout = config.gateway.connect_timeout;
    let (frontend, port, pod) = match found {
        Found::Workload { pod, port } => {
            return Ok(Way {
                target: None,
                direct: Some((Arc::clone(&pod.endpoint), *port)),
                connect_timeout,
            });
        }
        Found::Service {
            frontend,
            port,
            pod,
        } => (frontend, port, pod),
    };
    let namespace = Some(&**inner.peer.namespace());
    let own = (&*frontend.key, port.number, "");
    let (key, number, subset) =
        match frontend
            .routes
            .find_tcp(port.number, namespace, inner.sni.as_deref())
        {
            FoundTcp::NoMatch => return Err(Refused::NoRoute),
            FoundTcp::Service => own,
            FoundTcp::Rule(matched) => match matched.rule.choose(&mut rand::rng()) {
                Choice::Frontend => own,
                Choice::Refused { .. } => return Err(Refused::NoCluster),
                Choice::Backend(backend) => {
                    let number = match backend.port {
                        0 => port.number,
                        number => number,
                    };
                    (&*backend.service, number, &*backend.subset)
                }
            },
        };
    let service = config.service(key).ok_or(Refused::NoCluster)?;
    let target = service
        .target(number, subset)
        .map_err(|_| Refused::NoCluster)?;
    let stays = (key, number) == (own.0, own.1);
    let direct = pod.filter(|_| stays);
    Ok(Way {
        target: Some(Arc::clone(target)),
        direct: direct.map(|(pod, port)| (Arc::clone(&pod.endpoint), port)),
        connect_timeout,
    })
}

/// Picks and dials, once more elsewhere if that fails before anything was sent.
async fn dial(
    inner: &Inner,
    way: &Way,
    flow: &mut TcpFlow,
    held: &mut Guards,
) -> Result<UpstreamIo, Refused> {
    let mut avoid: SmallVec<[Arc<str>; 2]> = SmallVec::new();
    loop {
        let (endpoint, port) = match (&way.direct, &way.target) {
            (Some((endpoint, port)), _) => (Arc::clone(endpoint), *port),
            (None, Some(target)) => match pick(target, &avoid)? {
                Some(pick) => {
                    let place = (Arc::clone(pick.endpoint()), pick.target_port());
                    held.pick = Some(pick);
                    place
                }
                None => {
                    let endpoint = plain_endpoint(inner.dialled.ip());
                    (Arc::new(endpoint), inner.dialled.port())
                }
            },
            (None, None) => return Err(Refused::NoHealthy),
        };
        if let (None, Some(target)) = (&held.connection, &way.target) {
            let permit = target.cluster.try_connection();
            held.connection = Some(permit.map_err(|_| Refused::Overflow)?);
        }
        authorize_workload(inner, &endpoint.uid)?;
        let hop = hop(inner, way, &endpoint, port)?;
        flow.endpoint = Some(Arc::clone(&endpoint));
        flow.upstream = Some(hop.address);
        let begun = Instant::now();
        let dialled = inner.worker.dialer.dial(&hop).await;
        if let Some(pick) = &held.pick {
            let outcome = match &dialled {
                Ok(_) => Outcome::Connected,
                Err(_) => Outcome::Local(LocalFailure::Connect),
            };
            let now = std::time::Instant::now();
            pick.report(outcome, Some(begun.elapsed()), now, &mut rand::rng());
        }
        match dialled {
            Ok(upstream) => return Ok(upstream),
            Err(error) if way.direct.is_some() || avoid.len() >= CONNECT_ATTEMPTS => {
                return Err(Refused::Dial(error));
            }
            Err(error) => {
                debug!(address = %hop.address, %error, "endpoint unreachable");
                avoid.push(Arc::clone(&endpoint.uid));
            }
        }
    }
}

/// An endpoint; `None`: the address that the client dialled.
fn pick(target: &Target, avoid: &[Arc<str>]) -> Result<Option<Pick>, Refused> {
    let context = PickContext {
        hash: None,
        avoid,
        other_locality: false,
        session: None,
    };
    let now = std::time::Instant::now();
    match target.cluster.pick(&context, &mut rand::rng(), now) {
        Ok(pick) => Ok(Some(pick)),
        Err(PickError::Passthrough) => Ok(None),
        Err(PickError::NoHealthy) => Err(Refused::NoHealthy),
    }
}

fn hop(inner: &Inner, way: &Way, endpoint: &Endpoint, port: u16) -> Result<Hop, Refused> {
    let ip = endpoint.addresses.first().ok_or(Refused::NoHealthy)?;
    let settings = way.target.as_ref().map(|target| target.cluster.settings());
    let policy = settings.as_ref().map(|settings| &settings.policy);
    let tls = match way.target.as_ref().and_then(|target| target.tls.as_ref()) {
        None => None,
        Some(Ok(tls)) => Some(Arc::clone(tls)),
        Some(Err(error)) => {
            let error = std::io::Error::other(error.to_string());
            return Err(Refused::Dial(DialFailure::Tls(error)));
        }
    };
    let version = policy.map_or(0, |policy| policy.proxy_protocol);
    Ok(Hop {
        address: SocketAddr::new(*ip, port),
        hbone: endpoint
            .hbone
            .then(|| endpoint.identity.iter().cloned().collect()),
        tls,
        alpn: Alpn::None,
        proxy: (version > 0).then_some(ProxyHeader {
            version,
            source: inner.source,
            destination: inner.dialled,
        }),
        connect_timeout: policy
            .and_then(|policy| policy.pool.connect_timeout)
            .unwrap_or(way.connect_timeout),
        keepalive: settings.as_deref().and_then(keepalive),
        forwarded: forwarded(inner),
    })
}

/// Whom the connection is for, as the source says it (`ztunnel-contract` 2.3).
/// A connection that carries requests of several clients says nothing of them.
fn forwarded(inner: &Inner) -> String {
    let forwarded = Forwarded {
        client: inner.source,
        host: match &inner.destination {
            Destination::Service { key, .. } => {
                key.split_once('/').map(|(_, host)| host.to_owned())
            }
            Destination::Workload(_) => None,
        },
    };
    forwarded.to_string()
}

/// Copies both ways; each direction ends on its own.
async fn join(
    tunnel: Tunnel,
    read: Option<Chunk>,
    mut upstream: UpstreamIo,
    bounds: Bounds,
    meter: &Meter,
) {
    let mut client = DuplexIo::with_read(tunnel, read);
    if let Some(first) = client.take_read() {
        let mut first = first.into_bytes();
        let length = first.len();
        if upstream.write_all_buf(&mut first).await.is_err() {
            return;
        }
        meter.add_received(length);
        client.on_taken(length);
    }
    let (tunnel, _) = client.into_parts();
    let copied = match upstream {
        UpstreamIo::Tcp(stream) => bounded(relay(tunnel, stream, meter), bounds, meter).await,
        UpstreamIo::Tunnel(io) => {
            let (upstream, _) = io.into_parts();
            bounded(relay(tunnel, upstream, meter), bounds, meter).await
        }
        UpstreamIo::TlsTcp(_) | UpstreamIo::TlsTunnel(_) => {
            let io = DuplexIo::new(tunnel);
            let mut client = Metered { io, meter };
            let copying = tokio::io::copy_bidirectional(&mut client, &mut upstream);
            bounded(copying, bounds, meter).await
        }
    };
    if let Err(error) = copied {
        debug!(error, "connection ended");
    }
}

/// Cuts a copy in which nothing has moved for too long, or that lasts for too
/// long.
async fn bounded<T, E: std::fmt::Display>(
    copying: impl Future<Output = Result<T, E>>,
    bounds: Bounds,
    meter: &Meter,
) -> Result<(), String> {
    let copying = unless_idle(copying, bounds.idle, meter);
    match bounds.life {
        None => copying.await,
        Some(life) => match timeout(life, copying).await {
            Ok(done) => done,
            Err(_) => Err("open for too long".to_owned()),
        },
    }
}

async fn unless_idle<T, E: std::fmt::Display>(
    copying: impl Future<Output = Result<T, E>>,
    idle: Option<Duration>,
    meter: &Meter,
) -> Result<(), String> {
    let mut copying = pin!(copying);
    let Some(idle) = idle.filter(|idle| !idle.is_zero()) else {
        return copying.await.map(drop).map_err(|error| error.to_string());
    };
    loop {
        let before = meter.transfer();
        tokio::select! {
            done = &mut copying => {
                return done.map(drop).map_err(|error| error.to_string());
            }
            () = tokio::time::sleep(idle) => {
                if meter.transfer() == before {
                    return Err("idle for too long".to_owned());
                }
            }
        }
    }
}

/// The client's end of a connection whose other end is TLS of our own: counts
/// what a relay would count.
struct Metered<'m, IO> {
    io: IO,
    meter: &'m Meter,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Metered<'_, IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        self.meter.add_received(buf.filled().len() - before);
        Poll::Ready(read)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Metered<'_, IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        if let Ok(count) = &wrote {
            self.meter.add_sent(*count);
        }
        Poll::Ready(wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Between two counts of the bytes of an open connection (6.1).
const FLUSH: Duration = Duration::from_secs(5);
/// Endpoints that are tried before a connection is given up, besides the first.
const CONNECT_ATTEMPTS: usize = 2;
const ONE_HOUR: Duration = Duration::from_secs(3600);
