//! Waypoints: who asks for one, whether it can serve, what it is told, and what runs for it.
//!
//! Owns binding (`control-plane-contract` 5.1, 5.2), the rule that a waypoint which is asked for is never gone round
//! (ADR 0011), the audience of every resource (ADR 0009), and the rendered deployment (5.4). What a route or a policy
//! means is [`ambit_translate`]'s business.

mod account;
mod audience;
mod backend;
mod binding;
mod frontend;
mod gateway;
mod guard;
mod objects;
mod protocol;
mod references;
mod render;
mod selected;
mod service;
mod stand_in;
mod status;
mod translated;

pub use render::Rendered;

pub(crate) use audience::{Audiences, Uses};
pub(crate) use backend::{Extra, backend, endpoint, endpoints};
pub(crate) use binding::{BYPASS, Binding, FOR_ACCOUNT, USE_WAYPOINT};
pub(crate) use frontend::{frontend, gateway, info, workload};
pub(crate) use gateway::{WaypointFact, fact as gateway_fact};
pub(crate) use guard::{GUARD_PREFIX, guard, guards_of};
pub(crate) use objects::{authorization, object};
pub(crate) use references::{attaches, grants};
pub(crate) use selected::selected;
pub(crate) use service::{external_name, facts as service_facts, of_workload};
pub(crate) use stand_in::stand_in;
pub(crate) use status::{namespace_problem, service_status, workload_status};

use ambit_proto::waypoint::TYPES;

use crate::input::Labels;

/// Marks the pods of a Gateway.
pub(crate) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// What a namespace's labels say of waypoints, to be compared.
pub(crate) fn asks(labels: &Labels) -> [Option<&str>; 2] {
    [USE_WAYPOINT, binding::USE_WAYPOINT_NAMESPACE].map(|label| labels.get(label))
}

/// Position of a type among the types of waypoint configuration.
fn position(type_url: &str) -> usize {
    let mut types = TYPES.iter();
    types
        .position(|known| *known == type_url)
        .unwrap_or_default()
}
