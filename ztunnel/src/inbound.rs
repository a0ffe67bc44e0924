//! HBONE ingress, port 15008 (`ztunnel-contract` 3.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ambit_hbone::{self as hbone, Baggage, InboundStream, ServerConnection, Tunnel, serve_tls};
use ambit_state::{Authority, InboundRoute, View};
use ambit_types::{Direction, SpiffeId};
use tokio::net::TcpStream;

use crate::announce::Announcement;
use crate::copy::copy;
use crate::error::FlowError;
use crate::flow::OpenFlow;
use crate::pod::PodProxy;
use crate::report::{Carrier, Claimed, Facts, Original, Source};
use crate::{connect, decide};

/// One connection of a peer proxy: TLS, then a task for each of its streams.
pub(crate) async fn serve(proxy: Arc<PodProxy>, stream: TcpStream, src: SocketAddr) {
    let _open = proxy.node.sockets.accepted(Direction::Inbound);
    let local = match proxy.accepted_on(&stream) {
        Ok(local) => local,
        Err(error) => return proxy.refuse_unnamed(Direction::Inbound, src, error),
    };
    let connection = match Box::pin(handshake(&proxy, stream)).await {
        Ok(connection) => connection,
        Err(error) => return proxy.refuse(Direction::Inbound, src, local, &error),
    };
    let peer = Arc::new(Peer {
        src,
        local,
        id: connection.peer().clone(),
    });
    streams(&proxy, connection, &peer).await;
}

/// What all streams of one connection have in common.
struct Peer {
    src: SocketAddr,
    local: SocketAddr,
    id: SpiffeId,
}

async fn handshake(
    proxy: &PodProxy,
    stream: TcpStream,
) -> Result<Box<ServerConnection>, FlowError> {
    let local = proxy.identify().destination().await?;
    let id = local
        .identity()
        .ok_or_else(|| FlowError::NoIdentity(local.uid.clone()))?;
    let svid = proxy.node.certs.svid(id).await?;
    Ok(Box::new(
        serve_tls(stream, &svid, &proxy.hbone, &proxy.gate).await?,
    ))
}

/// Streams until the peer or a drain ends the connection.
async fn streams(proxy: &Arc<PodProxy>, mut connection: Box<ServerConnection>, peer: &Arc<Peer>) {
    let mut draining = false;
    // Who comes after the drain has started is told to go when served once.
    let mut served = proxy.drain.mode().is_none();
    loop {
        let next = tokio::select! {
            biased;
            _ = proxy.drain.started(), if !draining && served => {
                draining = true;
                connection.drain();
                continue;
            }
            next = connection.next() => next,
        };
        match next {
            Some(Ok(stream)) => {
                served = true;
                let task = serve_stream(Arc::clone(proxy), Box::new(stream), Arc::clone(peer));
                proxy.connections.spawn("inbound", task);
            }
            Some(Err(error)) => {
                let error = FlowError::Request(error);
                proxy.refuse(Direction::Inbound, peer.src, peer.local, &error);
            }
            None => return,
        }
    }
}

/// One CONNECT, start to finish.
async fn serve_stream(proxy: Arc<PodProxy>, stream: Box<InboundStream>, peer: Arc<Peer>) {
    // Boxed: what setting up needs isn't kept while bytes flow.
    let Some((flow, tunnel, app)) = Box::pin(set_up(proxy, stream, peer)).await else {
        return;
    };
    let end = copy(flow.flow(), tunnel, app).await;
    flow.end(end);
}

/// Everything before the first byte; none if the stream ended here, answered
/// and recorded.
async fn set_up(
    proxy: Arc<PodProxy>,
    stream: Box<InboundStream>,
    peer: Arc<Peer>,
) -> Option<(OpenFlow, Tunnel, TcpStream)> {
    let (flow, proxied) = match open(&proxy, &stream, &peer, Instant::now()).await {
        Ok(opened) => opened,
        Err(error) => {
            stream.reject(error.reason().connect_status());
            proxy.refuse(Direction::Inbound, peer.src, peer.local, &error);
            return None;
        }
    };
    let mut app = match admit(&proxy, &flow, proxied.is_some()).await {
        Ok(app) => app,
        Err(error) => {
            stream.reject(error.reason().connect_status());
            flow.end(Err(error));
            return None;
        }
    };
    let tunnel = match stream.accept(answer(&proxy, &flow).as_deref()) {
        Ok(tunnel) => tunnel,
        Err(error) => {
            flow.end(Err(FlowError::Answer(error)));
            return None;
        }
    };
    if let Some(destination) = proxied
        && let Err(error) = announce(&flow, destination, &mut app).await
    {
        flow.end(Err(error));
        return None;
    }
    Some((flow, tunnel, app))
}

/// Knows the pod and the port, and registers the flow; also what the
/// application is to be told of the destination, if it expects that.
async fn open(
    proxy: &PodProxy,
    stream: &InboundStream,
    peer: &Peer,
    accepted: Instant,
) -> Result<(OpenFlow, Option<SocketAddr>), FlowError> {
    let local = proxy.identify().destination().await?;
    let view = proxy.node.state.view();
    let authority = authority(&stream.authority);
    let InboundRoute { dial, proxied } =
        decide::inbound(&view, &local, peer.local.ip(), &authority)?;
    let host = stream
        .forwarded
        .as_ref()
        .and_then(|forwarded| forwarded.host.as_deref());
    let service = decide::meant_service(&view, &local, host, dial.port());
    let facts = Facts {
        direction: Direction::Inbound,
        carrier: Carrier::Hbone,
        src: peer.src,
        dst: peer.local,
        actual: dial,
        original: host.map_or(Original::Unknown, |host| Original::Host(host.into())),
        authority: Some(authority.to_string().into()),
        source: source(proxy, &view, stream, peer),
        source_id: Some(peer.id.clone()),
        destination: Some(local),
        service,
        accepted,
    };
    Ok((proxy.flows.open(facts, &proxy.node.telling), proxied))
}

/// Authorizes, then dials the application: with the client's address, or over
/// loopback if it learns that address otherwise.
async fn admit(proxy: &PodProxy, flow: &OpenFlow, proxied: bool) -> Result<TcpStream, FlowError> {
    proxy.authorize(flow)?;
    let facts = &flow.flow().facts;
    let (client, dst) = if proxied && proxy.node.localhost_app_tunnel {
        let loopback: IpAddr = match facts.actual {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        (loopback, SocketAddr::new(loopback, facts.actual.port()))
    } else {
        (facts.src.ip(), facts.actual)
    };
    tokio::select! {
        biased;
        () = flow.flow().was_cut() => Err(FlowError::PolicyClosed),
        dialled = connect::application(proxy, client, dst) => dialled,
    }
}

/// The PROXY protocol header, after the 200 and before any data.
async fn announce(
    flow: &OpenFlow,
    destination: SocketAddr,
    app: &mut TcpStream,
) -> Result<(), FlowError> {
    let facts = &flow.flow().facts;
    let announcement = Announcement {
        source: facts.src,
        destination,
        identity: facts.source_id.as_ref(),
    };
    tokio::select! {
        biased;
        () = flow.flow().was_cut() => Err(FlowError::PolicyClosed),
        written = announcement.write(app) => written.map_err(FlowError::Announce),
    }
}

/// Who opened a stream: the workload at the peer's address if it is the one
/// that TLS proved, or else what its baggage says, for labels only.
fn source(proxy: &PodProxy, view: &View, stream: &InboundStream, peer: &Peer) -> Source {
    let known = view.workload_at(&proxy.node.network, peer.src.ip());
    if let Some(workload) = known
        && workload.identity() == Some(&peer.id)
    {
        return Source::Known(Arc::clone(workload));
    }
    match &stream.baggage {
        Some(baggage) if proxy.node.response_baggage => {
            Source::Claimed(Box::new(Claimed::from(baggage)))
        }
        Some(_) | None => Source::Unknown,
    }
}

/// The authority in the terms of the view.
fn authority(of: &hbone::Authority) -> Authority {
    match of {
        hbone::Authority::Addr(addr) => Authority::Address(*addr),
        hbone::Authority::Host { host, port } => Authority::Host {
            host: host.as_str().into(),
            port: *port,
        },
    }
}

/// Baggage of the 200: the workload that answers.
fn answer(proxy: &PodProxy, flow: &OpenFlow) -> Option<String> {
    match &flow.flow().facts.destination {
        Some(local) if proxy.node.response_baggage => Some(connect::baggage(local).to_string()),
        _ => None,
    }
}

impl From<&Baggage> for Claimed {
    fn from(baggage: &Baggage) -> Self {
        Self {
            cluster: baggage.cluster_id.as_str().into(),
            namespace: baggage.namespace.as_str().into(),
            workload: baggage.workload_name.as_str().into(),
            service: baggage.canonical_name.as_str().into(),
            revision: baggage.canonical_revision.as_str().into(),
            region: baggage.region.as_str().into(),
            zone: baggage.zone.as_str().into(),
        }
    }
}

/// Size of one stream's task.
#[cfg(test)]
pub(crate) fn stream_size() -> usize {
    fn size<F>(_: impl Fn(Arc<PodProxy>, Box<InboundStream>, Arc<Peer>) -> F) -> usize {
        size_of::<F>()
    }
    size(serve_stream)
}
