//! Third step: where a connection goes. The decisions themselves are pure and
//! belong to the view; here they meet the pod.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_state::{Authority, InboundRoute, OutboundRoute, RouteError, Service, View, Workload};

use crate::pod::PodProxy;

/// Where a connection goes that the pod opened.
pub(crate) fn outbound(
    view: &View,
    source: &Workload,
    dst: SocketAddr,
) -> Result<OutboundRoute, RouteError> {
    view.route_outbound(source, dst, &mut rand::rng())
}

/// What a tunnel's stream dials: always on the address that accepted it.
pub(crate) fn inbound(
    view: &View,
    local: &Workload,
    accepted_on: IpAddr,
    authority: &Authority,
) -> Result<InboundRoute, RouteError> {
    view.route_inbound(local, accepted_on, authority)
}

/// Whether plaintext to this address may be passed on at all.
pub(crate) fn passthrough(proxy: &PodProxy, dst: SocketAddr) -> Result<SocketAddr, RouteError> {
    proxy
        .node
        .state
        .view()
        .route_inbound_passthrough(dst)
        .map(|route| route.dial)
}

/// The service that an inbound connection is counted for.
pub(crate) fn meant_service(
    view: &View,
    local: &Workload,
    forwarded_host: Option<&str>,
    port: u16,
) -> Option<Arc<Service>> {
    view.inbound_service_label(local, forwarded_host, port)
        .cloned()
}
