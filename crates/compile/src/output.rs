//! What the compiler gives: resources ready for the wire, and what changed.
//!
//! Resources are kept encoded only: one copy for all subscribers, compared by their bytes. The publisher needs to
//! know no message to order, filter and alias them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ambit_proto::{security, workload};
use ambit_types::NamespacedName;
use bytes::Bytes;
use prost::Message as _;
use twox_hash::XxHash64;

use ambit_kube::{ObjectKey, Problem};

use crate::{Rendered, Status};

mod waypoint;

pub use waypoint::{Audience, WaypointChanges, WaypointResource};

/// The name of a resource, as delta xDS carries it.
pub type ResourceName = Arc<str>;

/// A hash of a resource's encoding; displayed as the wire carries it, in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u64);

impl Version {
    fn of(body: &[u8]) -> Self {
        Self(XxHash64::oneshot(0, body))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A workload or a service, encoded as `istio.workload.Address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressResource {
    /// The workload's uid, or `namespace/hostname` of a service.
    pub name: ResourceName,
    /// Further keys under which it can be asked for: `network/ip`, `network/ip/length`.
    pub aliases: Box<[Arc<str>]>,
    /// Changes with the body.
    pub version: Version,
    /// The encoded message.
    pub body: Bytes,
    /// Which of the two it is, with what the publisher must know of it.
    pub kind: AddressKind,
}

/// The two things that an address can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressKind {
    /// One endpoint.
    Workload {
        /// The policies that it binds; they go to a node before it does.
        policies: Box<[ResourceName]>,
        /// The services that it is a member of, `namespace/hostname`.
        services: Box<[ResourceName]>,
        /// Its node; empty when it has none.
        node: Arc<str>,
    },
    /// A name that clients dial.
    Service,
}

impl AddressResource {
    pub(crate) fn workload(message: workload::Workload) -> Self {
        let aliases = message
            .addresses
            .iter()
            .filter_map(|ip| ip_of(ip))
            .map(|ip| format!("{}/{ip}", message.network).into())
            .collect::<BTreeSet<Arc<str>>>();
        let kind = AddressKind::Workload {
            policies: message
                .authorization_policies
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            services: message
                .services
                .keys()
                .map(|name| name.as_str().into())
                .collect(),
            node: message.node.as_str().into(),
        };
        let name = message.uid.as_str().into();
        Self::encode(
            name,
            aliases,
            kind,
            workload::address::Type::Workload(message),
        )
    }

    pub(crate) fn service(message: workload::Service) -> Self {
        let aliases = message
            .addresses
            .iter()
            .filter_map(|address| {
                let ip = ip_of(&address.address)?;
                let network = &address.network;
                Some(match address.length {
                    None => format!("{network}/{ip}").into(),
                    Some(length) => format!("{network}/{ip}/{length}").into(),
                })
            })
            .collect::<BTreeSet<Arc<str>>>();
        let name = format!("{}/{}", message.namespace, message.hostname).into();
        let body = workload::address::Type::Service(message);
        Self::encode(name, aliases, AddressKind::Service, body)
    }

    fn encode(
        name: ResourceName,
        aliases: BTreeSet<Arc<str>>,
        kind: AddressKind,
        message: workload::address::Type,
    ) -> Self {
        let body = Bytes::from(
            workload::Address {
                r#type: Some(message),
            }
            .encode_to_vec(),
        );
        Self {
            name,
            aliases: aliases.into_iter().collect(),
            version: Version::of(&body),
            body,
            kind,
        }
    }

    /// The encoded `istio.workload.Workload` inside, for clients that subscribe to that type; none for a service.
    pub fn workload_body(&self) -> Option<Bytes> {
        match self.kind {
            AddressKind::Service => None,
            AddressKind::Workload { .. } => {
                // `Address` holds one field: a tag of one byte, the length, and the workload to the end.
                let mut rest = self.body.get(1..)?;
                let length = prost::encoding::decode_varint(&mut rest).ok()?;
                let start = self.body.len().checked_sub(rest.len())?;
                (rest.len() as u64 == length).then(|| self.body.slice(start..))
            }
        }
    }
}

/// A policy of the node proxy, encoded as `istio.security.Authorization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationResource {
    /// `namespace/name`.
    pub name: ResourceName,
    /// Changes with the body.
    pub version: Version,
    /// The encoded message.
    pub body: Bytes,
}

impl AuthorizationResource {
    pub(crate) fn new(message: &security::Authorization) -> Self {
        let body = Bytes::from(message.encode_to_vec());
        Self {
            name: NamespacedName::new(message.namespace.as_str(), message.name.as_str())
                .to_string()
                .into(),
            version: Version::of(&body),
            body,
        }
    }
}

/// What one [`crate::Compiler::apply`] changed; each list is sorted by name.
///
/// Publish changed authorizations, then changed addresses, then removed addresses, then removed authorizations
/// (design D5): nothing ever binds a policy that a node doesn't have.
#[derive(Debug, Default, PartialEq)]
pub struct Delta {
    /// Workloads and services.
    pub addresses: Changes<AddressResource>,
    /// Policies.
    pub authorizations: Changes<AuthorizationResource>,
    /// Configuration of waypoints.
    pub waypoint: WaypointChanges,
    /// Waypoints whose deployment is now to be another one, by `namespace/gateway`; `None` where none is to run.
    pub rendered: BTreeMap<Arc<str>, Option<Arc<Rendered>>>,
    /// Objects whose status is now another one; `None` where there is nothing to say any more.
    pub statuses: BTreeMap<ObjectKey, Option<Arc<Status>>>,
    /// Whether [`crate::Compiler::diagnostics`] gives something else now.
    pub diagnostics: bool,
}

impl Delta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// New and changed resources of one type, and the names of those that are gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Changes<R> {
    /// New or changed. An entry may have the version that it had before and must be sent all the same: a service
    /// began to publish unready endpoints, which proxies had dropped (`control-plane-contract` 13, 14).
    pub changed: Vec<Arc<R>>,
    /// Gone.
    pub removed: Vec<ResourceName>,
}

impl<R> Default for Changes<R> {
    fn default() -> Self {
        Self {
            changed: Vec::new(),
            removed: Vec::new(),
        }
    }
}

/// Everything that is in force.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Workloads and services, by name.
    pub addresses: Vec<Arc<AddressResource>>,
    /// Policies, by name.
    pub authorizations: Vec<Arc<AuthorizationResource>>,
    /// Configuration of waypoints, by name, in the order of `ambit_proto::waypoint::TYPES`.
    pub waypoint: [Vec<Arc<WaypointResource>>; ambit_proto::waypoint::TYPES.len()],
}

/// Something that is wrong or doubtful, and what to do about it; shared with the reader of manifests, which gives
/// the same about the form of documents.
pub type Diagnostic = Problem;

fn ip_of(bytes: &[u8]) -> Option<std::net::IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(Into::into)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(Into::into))
        .ok()
}
