//! Captured plaintext ingress, port 15006 (`ztunnel-contract` 3.4).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ambit_net::original_dst;
use ambit_types::Direction;
use tokio::net::TcpStream;

use crate::copy::copy;
use crate::error::FlowError;
use crate::flow::OpenFlow;
use crate::pod::PodProxy;
use crate::report::{Carrier, Facts, Original, Source};
use crate::{connect, decide};

/// One captured plaintext connection, start to finish.
pub(crate) async fn serve(proxy: Arc<PodProxy>, client: TcpStream, src: SocketAddr) {
    let accepted = Instant::now();
    let _open = proxy.node.sockets.accepted(Direction::Inbound);
    let dst = match original_dst(&client) {
        Ok(dst) => dst,
        Err(error) => return proxy.refuse_unnamed(Direction::Inbound, src, error),
    };
    // Boxed: what setting up needs isn't kept while bytes flow.
    let flow = match Box::pin(open(&proxy, src, dst, accepted)).await {
        Ok(flow) => flow,
        Err(error) => return proxy.refuse(Direction::Inbound, src, dst, &error),
    };
    let app = match Box::pin(admit(&proxy, &flow, src, dst)).await {
        Ok(app) => app,
        Err(error) => return flow.end(Err(error)),
    };
    let end = copy(flow.flow(), client, app).await;
    flow.end(end);
}

/// Knows both ends, and registers the flow.
async fn open(
    proxy: &PodProxy,
    src: SocketAddr,
    dst: SocketAddr,
    accepted: Instant,
) -> Result<OpenFlow, FlowError> {
    decide::passthrough(proxy, dst)?;
    let local = proxy.identify().destination().await?;
    let view = proxy.node.state.view();
    let source = view.workload_at(&proxy.node.network, src.ip()).cloned();
    let service = decide::meant_service(&view, &local, None, dst.port());
    let facts = Facts {
        direction: Direction::Inbound,
        carrier: Carrier::Tcp,
        src,
        dst,
        actual: dst,
        original: Original::Unknown,
        authority: None,
        source: source.map_or(Source::Unknown, Source::Known),
        source_id: None,
        destination: Some(local),
        service,
        accepted,
    };
    Ok(proxy.flows.open(facts, &proxy.node.telling))
}

/// Authorizes, then dials the application with the client's address.
async fn admit(
    proxy: &PodProxy,
    flow: &OpenFlow,
    src: SocketAddr,
    dst: SocketAddr,
) -> Result<TcpStream, FlowError> {
    proxy.authorize(flow)?;
    let dial = connect::application(proxy, src.ip(), dst);
    tokio::select! {
        biased;
        () = flow.flow().was_cut() => Err(FlowError::PolicyClosed),
        dialled = dial => dialled,
    }
}
