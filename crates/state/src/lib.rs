//! The node's immutable view: workloads, services, policies, and the routing
//! decisions on them.
//!
//! One [`StateWriter`] turns resources into snapshots; any number of
//! [`StateReader`]s take the current [`View`] and decide on it. A decision is
//! a pure function of one view: no I/O, no wait, no lock. What is applied,
//! removed or rejected, and in which form, is `ztunnel-contract` 4.1 to 4.4;
//! the decisions are its sections 2.2, 2.3 and 3.
//!
//! Left out on purpose: opening connections, and anything that outlives one
//! view. Other networks and workloads found by DNS have their rows in the
//! decision and are refused by name; no connection goes round them.
//!
//! ```
//! use ambit_state::{OutboundRoute, StateConfig, StaticConfig, new};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (mut writer, reader) = new(StateConfig::default());
//! writer.load_static(StaticConfig::parse(
//!     "workloads: [{name: cart, namespace: shop, workloadIps: [10.0.0.1], services: {}}]",
//! )?);
//! let view = reader.view();
//! let cart = view.workload_at("", "10.0.0.1".parse()?).ok_or("unknown")?;
//! let route = view.route_outbound(cart, "192.0.2.1:80".parse()?, &mut rand::rng())?;
//! assert!(matches!(route, OutboundRoute::Passthrough { .. }));
//! # Ok(())
//! # }
//! ```

mod balance;
mod config;
mod decode;
mod dump;
mod endpoints;
mod inbound;
mod intern;
mod lookup;
mod model;
mod network;
mod outbound;
mod policies;
mod route;
mod static_config;
mod trace;
mod view;
mod writer;

pub use config::{StateConfig, UnknownPolicy};
pub use decode::DecodeError;
pub use dump::dump;
pub use inbound::{Authority, InvalidAuthority};
pub use lookup::Found;
pub use model::{
    ApplicationTunnel, GatewayAddress, GatewayDestination, Health, HealthPolicy, IpFamilies,
    LoadBalancing, LoadBalancingMode, NetworkCidr, NetworkMode, PortMap, Protocol, RoutingScope,
    Service, TunnelProtocol, Visibility, WeightedWaypoint, Workload,
};
pub use policies::{Instead, PolicyProblem};
pub use route::{Feature, InboundRoute, OutboundRoute, RouteError, Row};
pub use static_config::{StaticConfig, StaticConfigError};
pub use trace::{RouteStep, RouteTrace, RouteTracer};
pub use view::{Versions, View};
pub use writer::{Rejected, StateReader, StateWriter, new};
