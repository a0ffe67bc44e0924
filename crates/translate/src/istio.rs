//! Istio's networking kinds: VirtualService, DestinationRule, and those that are
//! only answered with what to use instead (`waypoint-contract` section 3).
//!
//! Owns what they mean at a waypoint. It doesn't own security and telemetry
//! kinds, nor when an object is translated.

mod backend;
pub(crate) mod codes;
mod destination_rule;
pub(crate) mod hosts;
mod mesh;
mod mesh_unused;
mod retry;
pub(crate) mod say;
mod unused;
pub(crate) mod values;
mod virtual_service;

pub use backend::backend;
pub use destination_rule::destination_rule;
pub use mesh::mesh_routing;
pub use mesh_unused::unused_settings;
pub use unused::unused;
pub use virtual_service::{route_name, virtual_service};
