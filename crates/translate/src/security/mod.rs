//! Authorization, authentication and rate limits: which waypoint enforces them,
//! and what it gets (`waypoint-contract` section 4, `control-plane-contract` 4.6).
//!
//! Owns the meaning of AuthorizationPolicy, RequestAuthentication,
//! LocalRateLimit and Linkerd's HTTPLocalRateLimitPolicy at a waypoint, and of
//! the mesh's authorization providers. It doesn't own what node proxies enforce
//! of a policy: the compiler does, and asks [`enforcer`] for whom the waypoint
//! stands in.
//!
//! What can't be used closes: a rule of an ALLOW that can't be read never
//! matches, one of a DENY or CUSTOM matches without the part that can't be used.

mod authentication;
mod authorization;
mod broken;
pub(crate) mod codes;
mod condition;
mod linkerd;
mod needs;
mod providers;
mod rate_limit;
mod say;
mod selector;
mod targets;
mod values;

pub use authentication::authentication;
pub use authorization::authorization;
pub use broken::broken;
pub use linkerd::http_local_rate_limit;
pub use providers::providers;
pub use rate_limit::local_rate_limit;
pub use selector::{Enforcer, enforcer};

pub(crate) use providers::service_named;
pub(crate) use say::{Fault, Metadata, Say};
pub(crate) use values::{DEFAULT_TIMEOUT_MS, header_forms, is_token};

use std::sync::Arc;

/// The class of upstream's waypoints.
pub(crate) const ISTIO_WAYPOINT: &str = "istio-waypoint";
/// The class of ours.
pub(crate) const AMBIT_WAYPOINT: &str = "ambit-waypoint";
/// Who takes care of them, and of what other class a waypoint may be.
pub(crate) const CONTROLLER: &str = "istio.io/mesh-controller";

/// A resource with its name on the wire and who gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound<R> {
    /// The name of the xDS resource.
    pub name: String,
    /// Who gets it.
    pub audience: Audience,
    /// The body.
    pub resource: R,
}

/// Which waypoints get a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// Every waypoint of a GatewayClass.
    Class(Arc<str>),
    /// These, by the Gateway's namespace and name; in order, each once.
    Waypoints(Vec<(Arc<str>, Arc<str>)>),
}
