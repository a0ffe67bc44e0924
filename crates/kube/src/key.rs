//! What an object is called: its kind, namespace and name.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The kinds that Ambit reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Mesh-wide settings: the `istio` ConfigMap, or a bare document.
    MeshConfig,
    /// Core `Namespace`; cluster-scoped.
    Namespace,
    /// Core `Node`; cluster-scoped.
    Node,
    /// Core `ServiceAccount`.
    ServiceAccount,
    /// Core `Pod`.
    Pod,
    /// Core `Service`.
    Service,
    /// `discovery.k8s.io` `EndpointSlice`.
    EndpointSlice,
    /// `networking.istio.io` `ServiceEntry`.
    ServiceEntry,
    /// `networking.istio.io` `WorkloadEntry`.
    WorkloadEntry,
    /// `security.istio.io` `AuthorizationPolicy`.
    AuthorizationPolicy,
    /// `security.istio.io` `PeerAuthentication`.
    PeerAuthentication,
}

impl Kind {
    /// Every kind, in the order in which a batch should be applied when nothing else decides.
    pub const ALL: [Self; 11] = [
        Self::MeshConfig,
        Self::Namespace,
        Self::Node,
        Self::ServiceAccount,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
    ];

    /// The kind as manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MeshConfig => "MeshConfig",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ServiceAccount => "ServiceAccount",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
        }
    }

    /// The API group; empty for the core group and for a bare `MeshConfig`.
    pub fn group(self) -> &'static str {
        match self {
            Self::MeshConfig
            | Self::Namespace
            | Self::Node
            | Self::ServiceAccount
            | Self::Pod
            | Self::Service => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::ServiceEntry | Self::WorkloadEntry => "networking.istio.io",
            Self::AuthorizationPolicy | Self::PeerAuthentication => "security.istio.io",
        }
    }

    /// The versions of the group that are read; all have the same fields for our purpose.
    pub fn versions(self) -> &'static [&'static str] {
        match self.group() {
            "networking.istio.io" => &["v1", "v1beta1", "v1alpha3"],
            "security.istio.io" => &["v1", "v1beta1"],
            _ => &["v1"],
        }
    }

    /// Whether objects of the kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    /// Whether the kind restricts traffic, so that a document that can't be read must close, not open.
    pub fn is_policy(self) -> bool {
        matches!(self, Self::AuthorizationPolicy | Self::PeerAuthentication)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Identifies one object among all that are in force.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectKey {
    /// What it is.
    pub kind: Kind,
    /// Where it lives; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// What it is called.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key of its parts.
    pub fn new(kind: Kind, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// `Kind name.namespace`, or `Kind name` for cluster-scoped kinds.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}.{}", self.kind, self.name, self.namespace)
        }
    }
}
