//! Wire messages of the mesh, compiled from the `.proto` files beside this crate.
//!
//! Owns packages, field numbers and types, which are the contract with every
//! peer (`ztunnel-contract` section 4). It gives them no meaning: each model
//! crate has a `decode` module that turns messages into its own types.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::missing_errors_doc,
    clippy::wildcard_imports,
    clippy::too_many_lines,
    clippy::use_self,
    clippy::disallowed_methods,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    reason = "generated code; the .proto files carry the documentation"
)]

/// The workload discovery model, package `istio.workload`.
pub mod workload {
    tonic::include_proto!("istio.workload");
    /// The node agent's protocol, package `istio.workload.zds`.
    pub mod zds {
        tonic::include_proto!("istio.workload.zds");
    }
}
/// L4 authorization, package `istio.security`.
pub mod security {
    tonic::include_proto!("istio.security");
}
/// The certificate service, package `istio.v1.auth`.
pub mod auth {
    tonic::include_proto!("istio.v1.auth");
}
/// Delta ADS, package `envoy.service.discovery.v3`.
pub mod discovery {
    tonic::include_proto!("envoy.service.discovery.v3");
}
/// Redirection reports, package `ambit.enrolment.v1`.
pub mod enrolment {
    tonic::include_proto!("ambit.enrolment.v1");
}
/// The waypoint's configuration, package `ambit.waypoint.v1`.
pub mod waypoint {
    tonic::include_proto!("ambit.waypoint.v1");

    /// Type URLs of the resources, in the order of delivery (design D5): what a
    /// resource refers to comes before it.
    pub const TYPES: [&str; 9] = [
        GATEWAY_TYPE,
        ENDPOINTS_TYPE,
        BACKEND_TYPE,
        AUTHENTICATION_TYPE,
        WAYPOINT_AUTHORIZATION_TYPE,
        RATE_LIMIT_TYPE,
        ROUTE_TYPE,
        FRONTEND_TYPE,
        POD_TYPE,
    ];
    /// Type URL of [`Gateway`].
    pub const GATEWAY_TYPE: &str = "type.googleapis.com/ambit.waypoint.v1.Gateway";
    /// Type URL of [`Endpoints`].
    pub const ENDPOINTS_TYPE: &str = "type.googleapis.com/ambit.waypoint.v1.Endpoints";
    /// Type URL of [`Backend`].
    pub const BACKEND_TYPE: &str = "type.googleapis.com/ambit.waypoint.v1.Backend";
    /// Type URL of [`Authentication`].
    pub const AUTHENTICATION_TYPE: &str = "type.googleapis.com/ambit.waypoint.v1.Authentication";
    /// Type URL of [`Authorization`].
    pub const WAYPOINT_AUTHORIZATION_TYPE: &str =
        "type.googleapis.com/ambit.waypoint.v1.Authorization";
    /// Type URL of [`RateLimit`].
    pub const RATE_LIMIT_TYPE: &str = "type.googleapis.com/ambit.waypoint.v1.RateLimit";
    /// Type URL of [`Route`].
    pub const ROUTE_TYPE: &str = "type.googleapis.com/ambit.waypoint.v1.Route";
    /// Type URL of [`Frontend`].
    pub const FRONTEND_TYPE: &str = "type.googleapis.com/ambit.waypoint.v1.Frontend";
    /// Type URL of [`Workload`].
    pub const POD_TYPE: &str = "type.googleapis.com/ambit.waypoint.v1.Workload";
}

/// Type URL of [`workload::Address`].
pub const ADDRESS_TYPE: &str = "type.googleapis.com/istio.workload.Address";
/// Type URL of [`workload::Workload`], served for older clients.
pub const WORKLOAD_TYPE: &str = "type.googleapis.com/istio.workload.Workload";
/// Type URL of [`security::Authorization`].
pub const AUTHORIZATION_TYPE: &str = "type.googleapis.com/istio.security.Authorization";

#[cfg(test)]
mod wire_tests;
