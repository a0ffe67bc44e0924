//! Routes, destination rules and policies of every kind, as a waypoint's
//! configuration (`ambit.waypoint.v1`); pure.
//!
//! Owns the meaning of Gateway API routes, Istio's networking and security
//! kinds, the Telemetry API and Linkerd's inputs: each object becomes messages,
//! conditions and diagnostics. It doesn't own when that happens, for which
//! waypoint, or where objects are kept: the compiler does, and answers
//! questions about other objects through [`World`].

pub mod gateway_api;
pub mod istio;
pub mod linkerd;
mod output;
pub mod security;
pub mod telemetry;
mod world;

pub use output::{ParentStatus, RouteCondition, Translated};
pub use world::{
    Claim, MeshInfo, PortInfo, Referent, Referrer, SelectedWorkload, ServiceInfo, ServiceKind,
    WaypointInfo, World,
};
