//! What waypoints get: configuration of type `ambit.waypoint.v1`, each resource with those that it is for.

use std::sync::Arc;

use ambit_proto::waypoint::TYPES;
use bytes::Bytes;
use prost::Message;

use super::{Changes, ResourceName, Version};

/// The waypoints that a resource is for, `namespace/gateway` each, sorted.
pub type Audience = Arc<[Arc<str>]>;

/// A resource of one of the types in `ambit_proto::waypoint::TYPES`, encoded once for all who get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaypointResource {
    /// Opaque to the proxy, which keys by what the body says (ADR 0009); unique in its type.
    pub name: ResourceName,
    /// Changes with the body; not with the audience.
    pub version: Version,
    /// The encoded message.
    pub body: Bytes,
    /// Who gets it; never empty.
    pub audience: Audience,
}

impl WaypointResource {
    pub(crate) fn new(name: ResourceName, message: &impl Message, audience: Audience) -> Self {
        let body = Bytes::from(message.encode_to_vec());
        Self {
            name,
            version: Version::of(&body),
            body,
            audience,
        }
    }
}

/// What changed of the waypoints' configuration, by type. A resource whose audience changed counts as changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct WaypointChanges(pub(crate) [Changes<WaypointResource>; TYPES.len()]);

impl WaypointChanges {
    /// Type URLs and what changed of each, in the order in which changes are delivered (ADR 0006): removals go the
    /// other way.
    pub fn iter(
        &self,
    ) -> impl DoubleEndedIterator<Item = (&'static str, &Changes<WaypointResource>)> {
        TYPES.into_iter().zip(&self.0)
    }

    /// Changed and removed resources of all types together.
    pub fn count(&self) -> usize {
        let types = self.0.iter();
        types
            .map(|changes| changes.changed.len() + changes.removed.len())
            .sum()
    }
}
