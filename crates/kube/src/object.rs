//! The sum of all kinds that are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::{EndpointSlice, Namespace, Node, ObjectMeta, Pod, Service, ServiceAccount};
use crate::gateway::{
    BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, ReferenceGrant, TcpRoute,
    TlsRoute, XBackendTrafficPolicy,
};
use crate::{
    Action, AuthorizationPolicy, ConfigMap, DestinationRule, HttpLocalRateLimitPolicy,
    HttpRouteGroup, Kind, LinkerdServer, LocalRateLimit, MeshConfig, ObjectKey, PeerAuthentication,
    PolicyTargetReference, Reported, RequestAuthentication, Secret, ServiceEntry, ServiceProfile,
    Telemetry, TrafficSplit, VirtualService, WorkloadEntry,
};

/// An object as it was read; cloning is cheap.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// Mesh-wide settings.
    MeshConfig(Arc<MeshConfig>),
    /// Core.
    Namespace(Arc<Namespace>),
    /// Core.
    Node(Arc<Node>),
    /// Core.
    ServiceAccount(Arc<ServiceAccount>),
    /// Core.
    Pod(Arc<Pod>),
    /// Core.
    Service(Arc<Service>),
    /// `discovery.k8s.io`.
    EndpointSlice(Arc<EndpointSlice>),
    /// `networking.istio.io`.
    ServiceEntry(Arc<ServiceEntry>),
    /// `networking.istio.io`.
    WorkloadEntry(Arc<WorkloadEntry>),
    /// `security.istio.io`.
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// `security.istio.io`.
    PeerAuthentication(Arc<PeerAuthentication>),
    /// Core.
    ConfigMap(Arc<ConfigMap>),
    /// Core.
    Secret(Arc<Secret>),
    /// `security.istio.io`.
    RequestAuthentication(Arc<RequestAuthentication>),
    /// Gateway API.
    GatewayClass(Arc<GatewayClass>),
    /// Gateway API.
    Gateway(Arc<Gateway>),
    /// Gateway API.
    ReferenceGrant(Arc<ReferenceGrant>),
    /// Gateway API.
    BackendTlsPolicy(Arc<BackendTlsPolicy>),
    /// Gateway API.
    XBackendTrafficPolicy(Arc<XBackendTrafficPolicy>),
    /// Gateway API.
    HttpRoute(Arc<HttpRoute>),
    /// Gateway API.
    GrpcRoute(Arc<GrpcRoute>),
    /// Gateway API.
    TcpRoute(Arc<TcpRoute>),
    /// Gateway API.
    TlsRoute(Arc<TlsRoute>),
    /// `networking.istio.io`.
    VirtualService(Arc<VirtualService>),
    /// `networking.istio.io`.
    DestinationRule(Arc<DestinationRule>),
    /// `telemetry.istio.io`.
    Telemetry(Arc<Telemetry>),
    /// `ambit.mesh`.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// `linkerd.io`.
    ServiceProfile(Arc<ServiceProfile>),
    /// `policy.linkerd.io`.
    LinkerdServer(Arc<LinkerdServer>),
    /// `policy.linkerd.io`.
    HttpLocalRateLimitPolicy(Arc<HttpLocalRateLimitPolicy>),
    /// `split.smi-spec.io`.
    TrafficSplit(Arc<TrafficSplit>),
    /// `specs.smi-spec.io`.
    HttpRouteGroup(Arc<HttpRouteGroup>),
    /// A kind that is read only so that it can be said what to use instead.
    Reported(Arc<Reported>),
    /// A policy document that can't be read in full; the enforcer of it must close.
    Broken(Arc<BrokenPolicy>),
}

/// What could be known of a policy document that can't be read in full.
///
/// A policy that was good before stays in its last good form; one that was never good denies what it reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenPolicy {
    /// Kind, namespace and name. A policy whose name can't be read gets one made of its file and document.
    pub key: ObjectKey,
    /// The action of an `AuthorizationPolicy`; none when it can't be read, and for other kinds.
    pub action: Option<Action>,
    /// What the policy is about.
    pub reach: Reach,
    /// Labels of the document, for `istio.io/rev`; empty when they can't be read.
    pub labels: BTreeMap<String, String>,
    /// Why it can't be read, in one line; the full story is in the problems.
    pub why: String,
}

/// What a broken policy is about, as far as that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Even the selector can't be read: take the whole namespace.
    Unknown,
    /// No selector and no target: the whole namespace (or the mesh, in the root namespace).
    Namespace,
    /// These labels; may be empty.
    Selector(BTreeMap<String, String>),
    /// Waypoints or services by reference.
    Targets(Vec<PolicyTargetReference>),
}

impl BrokenPolicy {
    /// Whether the policy's own name couldn't be read, so that its key is made of its file and document.
    pub fn is_unnamed(&self) -> bool {
        // No name that Kubernetes accepts has a bracket.
        self.key.name.starts_with('(')
    }
}

impl Object {
    /// What it is called.
    pub fn key(&self) -> ObjectKey {
        if let Self::Broken(broken) = self {
            return broken.key.clone();
        }
        let (kind, meta) = match self.kind_and_metadata() {
            (kind, Some(meta)) => (kind, meta),
            (kind, None) => return ObjectKey::new(kind, "", ""),
        };
        let name = meta.name.as_deref().unwrap_or_default();
        let namespace = match (kind.is_namespaced(), meta.namespace.as_deref()) {
            (false, _) => "",
            (true, None | Some("")) => DEFAULT_NAMESPACE,
            (true, Some(namespace)) => namespace,
        };
        ObjectKey::new(kind, namespace, name)
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind_and_metadata().0
    }

    /// Its metadata; none for a broken policy.
    pub fn metadata(&self) -> Option<&ObjectMeta> {
        self.kind_and_metadata().1
    }

    fn kind_and_metadata(&self) -> (Kind, Option<&ObjectMeta>) {
        match self {
            Self::MeshConfig(o) => (Kind::MeshConfig, Some(&o.metadata)),
            Self::Namespace(o) => (Kind::Namespace, Some(&o.metadata)),
            Self::Node(o) => (Kind::Node, Some(&o.metadata)),
            Self::ServiceAccount(o) => (Kind::ServiceAccount, Some(&o.metadata)),
            Self::Pod(o) => (Kind::Pod, Some(&o.metadata)),
            Self::Service(o) => (Kind::Service, Some(&o.metadata)),
            Self::EndpointSlice(o) => (Kind::EndpointSlice, Some(&o.metadata)),
            Self::ServiceEntry(o) => (Kind::ServiceEntry, Some(&o.metadata)),
            Self::WorkloadEntry(o) => (Kind::WorkloadEntry, Some(&o.metadata)),
            Self::AuthorizationPolicy(o) => (Kind::AuthorizationPolicy, Some(&o.metadata)),
            Self::PeerAuthentication(o) => (Kind::PeerAuthentication, Some(&o.metadata)),
            Self::ConfigMap(o) => (Kind::ConfigMap, Some(&o.metadata)),
            Self::Secret(o) => (Kind::Secret, Some(&o.metadata)),
            Self::RequestAuthentication(o) => (Kind::RequestAuthentication, Some(&o.metadata)),
            Self::GatewayClass(o) => (Kind::GatewayClass, Some(&o.metadata)),
            Self::Gateway(o) => (Kind::Gateway, Some(&o.metadata)),
            Self::ReferenceGrant(o) => (Kind::ReferenceGrant, Some(&o.metadata)),
            Self::BackendTlsPolicy(o) => (Kind::BackendTlsPolicy, Some(&o.metadata)),
            Self::XBackendTrafficPolicy(o) => (Kind::XBackendTrafficPolicy, Some(&o.metadata)),
            Self::HttpRoute(o) => (Kind::HttpRoute, Some(&o.metadata)),
            Self::GrpcRoute(o) => (Kind::GrpcRoute, Some(&o.metadata)),
            Self::TcpRoute(o) => (Kind::TcpRoute, Some(&o.metadata)),
            Self::TlsRoute(o) => (Kind::TlsRoute, Some(&o.metadata)),
            Self::VirtualService(o) => (Kind::VirtualService, Some(&o.metadata)),
            Self::DestinationRule(o) => (Kind::DestinationRule, Some(&o.metadata)),
            Self::Telemetry(o) => (Kind::Telemetry, Some(&o.metadata)),
            Self::LocalRateLimit(o) => (Kind::LocalRateLimit, Some(&o.metadata)),
            Self::ServiceProfile(o) => (Kind::ServiceProfile, Some(&o.metadata)),
            Self::LinkerdServer(o) => (Kind::LinkerdServer, Some(&o.metadata)),
            Self::HttpLocalRateLimitPolicy(o) => {
                (Kind::HttpLocalRateLimitPolicy, Some(&o.metadata))
            }
            Self::TrafficSplit(o) => (Kind::TrafficSplit, Some(&o.metadata)),
            Self::HttpRouteGroup(o) => (Kind::HttpRouteGroup, Some(&o.metadata)),
            Self::Reported(o) => (o.kind, Some(&o.metadata)),
            Self::Broken(o) => (o.key.kind, None),
        }
    }
}

/// Where a namespaced object without a namespace lives, as with `kubectl apply` and an untouched context.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";
