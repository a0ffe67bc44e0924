//! What an object is called: its kind, namespace and name.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Declares [`Kind`] from one table: the variant, the kind as manifests write it, its group and versions.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $group:literal, [$($version:literal),+];)+) => {
        /// The kinds that Ambit reads.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $variant,)+
        }

        impl Kind {
            /// Every kind, in the order in which a batch should be applied when nothing else decides.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The kind as manifests write it; `AuthorizationPolicy` and `HTTPRoute` are of two groups each.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// The API group; empty for the core group and for a bare `MeshConfig`.
            pub fn group(self) -> &'static str {
                match self {
                    $(Self::$variant => $group,)+
                }
            }

            /// The versions of the group that are read, the preferred one first; all are read into one type.
            pub fn versions(self) -> &'static [&'static str] {
                match self {
                    $(Self::$variant => &[$($version),+],)+
                }
            }
        }
    };
}

kinds! {
    /// Mesh-wide settings: the `istio` ConfigMap, or a bare document.
    MeshConfig = "MeshConfig", "", ["v1"];
    /// Core `Namespace`; cluster-scoped.
    Namespace = "Namespace", "", ["v1"];
    /// Core `Node`; cluster-scoped.
    Node = "Node", "", ["v1"];
    /// Core `ServiceAccount`.
    ServiceAccount = "ServiceAccount", "", ["v1"];
    /// Core `ConfigMap`, those that aren't the mesh's settings.
    ConfigMap = "ConfigMap", "", ["v1"];
    /// Core `Secret`.
    Secret = "Secret", "", ["v1"];
    /// Core `Pod`.
    Pod = "Pod", "", ["v1"];
    /// Core `Service`.
    Service = "Service", "", ["v1"];
    /// `discovery.k8s.io` `EndpointSlice`.
    EndpointSlice = "EndpointSlice", "discovery.k8s.io", ["v1"];
    /// `networking.istio.io` `ServiceEntry`.
    ServiceEntry = "ServiceEntry", "networking.istio.io", ["v1", "v1beta1", "v1alpha3"];
    /// `networking.istio.io` `WorkloadEntry`.
    WorkloadEntry = "WorkloadEntry", "networking.istio.io", ["v1", "v1beta1", "v1alpha3"];
    /// `security.istio.io` `AuthorizationPolicy`.
    AuthorizationPolicy = "AuthorizationPolicy", "security.istio.io", ["v1", "v1beta1"];
    /// `security.istio.io` `PeerAuthentication`.
    PeerAuthentication = "PeerAuthentication", "security.istio.io", ["v1", "v1beta1"];
    /// `security.istio.io` `RequestAuthentication`.
    RequestAuthentication = "RequestAuthentication", "security.istio.io", ["v1", "v1beta1"];
    /// `gateway.networking.k8s.io` `GatewayClass`; cluster-scoped.
    GatewayClass = "GatewayClass", "gateway.networking.k8s.io", ["v1", "v1beta1"];
    /// `gateway.networking.k8s.io` `Gateway`.
    Gateway = "Gateway", "gateway.networking.k8s.io", ["v1", "v1beta1"];
    /// `gateway.networking.k8s.io` `ReferenceGrant`.
    ReferenceGrant = "ReferenceGrant", "gateway.networking.k8s.io", ["v1", "v1beta1", "v1alpha2"];
    /// `gateway.networking.k8s.io` `BackendTLSPolicy`.
    BackendTlsPolicy = "BackendTLSPolicy", "gateway.networking.k8s.io", ["v1", "v1alpha3"];
    /// `gateway.networking.x-k8s.io` `XBackendTrafficPolicy`.
    XBackendTrafficPolicy = "XBackendTrafficPolicy", "gateway.networking.x-k8s.io", ["v1alpha1"];
    /// `gateway.networking.k8s.io` `HTTPRoute`.
    HttpRoute = "HTTPRoute", "gateway.networking.k8s.io", ["v1", "v1beta1"];
    /// `gateway.networking.k8s.io` `GRPCRoute`.
    GrpcRoute = "GRPCRoute", "gateway.networking.k8s.io", ["v1", "v1alpha2"];
    /// `gateway.networking.k8s.io` `TCPRoute`.
    TcpRoute = "TCPRoute", "gateway.networking.k8s.io", ["v1alpha2", "v1"];
    /// `gateway.networking.k8s.io` `TLSRoute`.
    TlsRoute = "TLSRoute", "gateway.networking.k8s.io", ["v1", "v1alpha3", "v1alpha2"];
    /// `networking.istio.io` `VirtualService`.
    VirtualService = "VirtualService", "networking.istio.io", ["v1", "v1beta1", "v1alpha3"];
    /// `networking.istio.io` `DestinationRule`.
    DestinationRule = "DestinationRule", "networking.istio.io", ["v1", "v1beta1", "v1alpha3"];
    /// `telemetry.istio.io` `Telemetry`.
    Telemetry = "Telemetry", "telemetry.istio.io", ["v1", "v1alpha1"];
    /// `ambit.mesh` `LocalRateLimit`.
    LocalRateLimit = "LocalRateLimit", "ambit.mesh", ["v1alpha1"];
    /// `linkerd.io` `ServiceProfile`.
    ServiceProfile = "ServiceProfile", "linkerd.io", ["v1alpha2", "v1alpha1"];
    /// `policy.linkerd.io` `Server`.
    LinkerdServer = "Server", "policy.linkerd.io", ["v1beta3", "v1beta2", "v1beta1"];
    /// `policy.linkerd.io` `HTTPLocalRateLimitPolicy`.
    HttpLocalRateLimitPolicy = "HTTPLocalRateLimitPolicy", "policy.linkerd.io", ["v1alpha1"];
    /// `split.smi-spec.io` `TrafficSplit`.
    TrafficSplit = "TrafficSplit", "split.smi-spec.io", ["v1alpha2", "v1alpha1", "v1alpha3", "v1alpha4"];
    /// `specs.smi-spec.io` `HTTPRouteGroup`.
    HttpRouteGroup = "HTTPRouteGroup", "specs.smi-spec.io", ["v1alpha4", "v1alpha3", "v1alpha2", "v1alpha1"];
    /// `networking.istio.io` `Sidecar`; only reported.
    Sidecar = "Sidecar", "networking.istio.io", ["v1", "v1beta1", "v1alpha3"];
    /// `networking.istio.io` `EnvoyFilter`; only reported.
    EnvoyFilter = "EnvoyFilter", "networking.istio.io", ["v1alpha3"];
    /// `networking.istio.io` `ProxyConfig`; only reported.
    ProxyConfig = "ProxyConfig", "networking.istio.io", ["v1beta1"];
    /// `extensions.istio.io` `WasmPlugin`; only reported.
    WasmPlugin = "WasmPlugin", "extensions.istio.io", ["v1alpha1"];
    /// `extensions.istio.io` `TrafficExtension`; only reported.
    TrafficExtension = "TrafficExtension", "extensions.istio.io", ["v1alpha1"];
    /// `policy.linkerd.io` `AuthorizationPolicy`; only reported.
    LinkerdAuthorizationPolicy = "AuthorizationPolicy", "policy.linkerd.io", ["v1alpha1"];
    /// `policy.linkerd.io` `ServerAuthorization`; only reported.
    ServerAuthorization = "ServerAuthorization", "policy.linkerd.io", ["v1beta1", "v1alpha1"];
    /// `policy.linkerd.io` `MeshTLSAuthentication`; only reported.
    MeshTlsAuthentication = "MeshTLSAuthentication", "policy.linkerd.io", ["v1alpha1"];
    /// `policy.linkerd.io` `NetworkAuthentication`; only reported.
    NetworkAuthentication = "NetworkAuthentication", "policy.linkerd.io", ["v1alpha1"];
    /// `policy.linkerd.io` `EgressNetwork`; only reported.
    EgressNetwork = "EgressNetwork", "policy.linkerd.io", ["v1alpha1"];
    /// `policy.linkerd.io` `HTTPRoute`; only reported.
    LinkerdHttpRoute = "HTTPRoute", "policy.linkerd.io", ["v1beta3", "v1beta2", "v1beta1", "v1alpha1"];
}

impl Kind {
    /// The kind's name in paths of an API server; of the settings, that of the ConfigMap which holds them.
    pub fn plural(self) -> String {
        if self == Self::MeshConfig {
            return "configmaps".to_owned();
        }
        let name = self.as_str().to_ascii_lowercase();
        match name.strip_suffix('y') {
            Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
            _ if name.ends_with('s') => format!("{name}es"),
            _ => format!("{name}s"),
        }
    }

    /// Whether objects of the kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::GatewayClass)
    }

    /// Whether the kind restricts traffic, so that a document that can't be read must close, not open.
    pub fn is_policy(self) -> bool {
        matches!(
            self,
            Self::AuthorizationPolicy | Self::PeerAuthentication | Self::RequestAuthentication
        )
    }

    /// Whether objects of the kind are read only so that it can be said what to use instead.
    pub fn is_reported_only(self) -> bool {
        matches!(
            self,
            Self::Sidecar
                | Self::EnvoyFilter
                | Self::ProxyConfig
                | Self::WasmPlugin
                | Self::TrafficExtension
                | Self::LinkerdAuthorizationPolicy
                | Self::ServerAuthorization
                | Self::MeshTlsAuthentication
                | Self::NetworkAuthentication
                | Self::EgressNetwork
                | Self::LinkerdHttpRoute
        )
    }
}

/// The kind as manifests write it, with the group where another kind that is read has the same name.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::LinkerdAuthorizationPolicy | Self::LinkerdHttpRoute => {
                write!(f, ".{}", self.group())
            }
            _ => Ok(()),
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
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
