//! Captured egress, port 15001 (`ztunnel-contract` 3.2).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ambit_net::original_dst;
use ambit_state::{OutboundRoute, Workload};
use ambit_types::Direction;
use tokio::net::TcpStream;

use crate::connect::Upstream;
use crate::copy::copy;
use crate::error::FlowError;
use crate::flow::OpenFlow;
use crate::pod::PodProxy;
use crate::report::{Carrier, Facts, Original, Source};
use crate::{connect, decide};

/// One captured connection of the pod, start to finish.
pub(crate) async fn serve(proxy: Arc<PodProxy>, client: TcpStream, src: SocketAddr) {
    let accepted = Instant::now();
    let _open = proxy.node.sockets.accepted(Direction::Outbound);
    let dst = match original_dst(&client) {
        Ok(dst) => dst,
        Err(error) => return proxy.refuse_unnamed(Direction::Outbound, src, error),
    };
    // Boxed: what setting up needs isn't kept while bytes flow.
    let (flow, upstream) = {
        let Decided {
            flow,
            source,
            route,
        } = match Box::pin(open(&proxy, src, dst, accepted)).await {
            Ok(decided) => decided,
            Err(error) => return proxy.refuse(Direction::Outbound, src, dst, &error),
        };
        match Box::pin(connect::dial(&proxy, &source, src, &route)).await {
            Ok(upstream) => (flow, upstream),
            Err(error) => return flow.end(Err(error)),
        }
    };
    let end = match upstream {
        Upstream::Tcp(server) => copy(flow.flow(), client, server).await,
        Upstream::Hbone(tunnel) => copy(flow.flow(), client, tunnel).await,
    };
    flow.end(end);
}

struct Decided {
    flow: OpenFlow,
    source: Arc<Workload>,
    route: OutboundRoute,
}

/// Knows the source, decides where to, and registers the flow.
async fn open(
    proxy: &PodProxy,
    src: SocketAddr,
    dst: SocketAddr,
    accepted: Instant,
) -> Result<Decided, FlowError> {
    let source = proxy.identify().source().await?;
    let route = decide::outbound(&proxy.node.state.view(), &source, dst)?;
    let (carrier, next_hop, authority) = match &route {
        OutboundRoute::Passthrough { dst, .. } | OutboundRoute::Tcp { dst, .. } => {
            (Carrier::Tcp, *dst, None)
        }
        OutboundRoute::Hbone {
            dial, authority, ..
        } => (Carrier::Hbone, *dial, Some(authority.as_str().into())),
    };
    let source_id = match carrier {
        Carrier::Hbone => source.identity().cloned(),
        Carrier::Tcp => None,
    };
    let facts = Facts {
        direction: Direction::Outbound,
        carrier,
        src,
        dst: next_hop,
        actual: next_hop,
        original: Original::Addr(dst),
        authority,
        source: Source::Known(Arc::clone(&source)),
        source_id,
        destination: route.workload().cloned(),
        service: route.service().cloned(),
        accepted,
    };
    let flow = proxy.flows.open(facts, &proxy.node.telling);
    Ok(Decided {
        flow,
        source,
        route,
    })
}
