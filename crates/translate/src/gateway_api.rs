//! Gateway API for mesh: routes attached to services, and the policies of
//! backends (`waypoint-contract` section 2).
//!
//! Owns what HTTPRoute, GRPCRoute, TCPRoute, TLSRoute, BackendTLSPolicy and
//! XBackendTrafficPolicy mean to a waypoint, and their status conditions. It
//! doesn't own Istio's kinds, how a service's `Backend` is put together
//! (`istio::backend` does, and calls [`apply_backend_policies`]), nor which
//! rule a request gets (`ambit-route`).
//!
//! A part that can't be used is sent as `Invalid` and answers 500; it is never
//! left out, but for a match that can't be read, which is reported as a dropped
//! rule (`PartiallyInvalid`).

mod backends;
mod codes;
mod conflicts;
mod cors;
mod duration;
mod filters;
mod headers;
mod matches;
mod parents;
mod policies;
mod redirect;
mod report;
mod rules;
mod session;
mod sni;
mod spec;
mod status;
mod timeouts;
mod tls;
mod traffic;
mod unit;

pub use conflicts::claims;
pub use policies::apply_backend_policies;
pub use tls::backend_tls_policy;
pub use traffic::backend_traffic_policy;
pub use unit::{grpc_route, http_route, route_name, tcp_route, tls_route};

/// Setting of the mesh (`defaultConfig.proxyMetadata`): `ignored` lets routes of
/// meshes refer to services of other namespaces without a ReferenceGrant, as
/// upstream does (2.1); anything else requires one, as Gateway API does (2.10).
pub const REFERENCE_GRANTS: &str = "AMBIT_ROUTE_REFERENCE_GRANTS";
