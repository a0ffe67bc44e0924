//! Waypoints: who asks for one, whether it can serve, what it is told, and what runs for it.
//!
//! Owns binding (`control-plane-contract` 5.1, 5.2), the rule that a waypoint which is asked for is never gone round
//! (ADR 0011), the audience of every resource (ADR 0009), and the rendered deployment (5.4). What a route or a policy
//! means is [`ambit_translate`]'s business.

mod render;

pub use render::Rendered;

/// Marks the pods of a Gateway.
pub(crate) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
