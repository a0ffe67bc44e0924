//! Which kind a document means, by its `apiVersion` and `kind`.

use super::suggest::nearest;
use crate::Kind;

/// What a document's `apiVersion` and `kind` mean to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A kind that we read.
    Ours(Kind),
    /// Of our kinds, under an `apiVersion` that it doesn't have.
    WrongVersion(Kind),
    /// Nearly one of our kinds, in its group.
    Misspelt(Kind),
    /// A ConfigMap, which may hold the mesh's settings.
    ConfigMap,
    /// Exists, but isn't read.
    NotRead,
    /// Nobody knows it; perhaps it is this one.
    Unknown(Option<&'static str>),
}

/// Finds out what is meant.
pub(super) fn meaning(api_version: &str, kind: &str) -> Meaning {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    if let Some(ours) = Kind::ALL.into_iter().find(|ours| ours.as_str() == kind) {
        return known_name(ours, group, version);
    }
    if group.is_empty() && kind == "ConfigMap" {
        return Meaning::ConfigMap;
    }
    if is_foreign(group, kind) {
        return Meaning::NotRead;
    }
    let candidates = Kind::ALL
        .into_iter()
        .filter(|ours| *ours != Kind::MeshConfig);
    if let Some(near) = nearest(kind, candidates.map(Kind::as_str))
        && let Some(ours) = Kind::ALL.into_iter().find(|ours| ours.as_str() == near)
        && group == ours.group()
    {
        return Meaning::Misspelt(ours);
    }
    if is_known_group(group) {
        return Meaning::Unknown(nearest(kind, OTHERS.iter().map(|(_, kind)| *kind)));
    }
    Meaning::NotRead
}

/// A kind with the name of one of ours: ours, ours with a slip in the version, or another project's.
fn known_name(ours: Kind, group: &str, version: &str) -> Meaning {
    if ours == Kind::MeshConfig {
        return Meaning::Ours(ours);
    }
    if group == ours.group() {
        return if ours.versions().contains(&version) {
            Meaning::Ours(ours)
        } else {
            Meaning::WrongVersion(ours)
        };
    }
    let slip = group.is_empty() || ours.group().is_empty() && is_known_group(group);
    if slip || nearest(group, [ours.group()]).is_some() {
        Meaning::WrongVersion(ours)
    } else {
        Meaning::NotRead
    }
}

/// Whether the kind is one of Kubernetes' or Istio's that we know of and don't read.
fn is_foreign(group: &str, kind: &str) -> bool {
    OTHERS
        .iter()
        .any(|(of, name)| *of == group && *name == kind)
}

/// Groups whose kinds we know, so that a kind that isn't among them is a slip.
fn is_known_group(group: &str) -> bool {
    group.is_empty() || OTHERS.iter().any(|(known, _)| *known == group)
}

/// Kinds that manifests of a mesh commonly hold beside ours.
const OTHERS: &[(&str, &str)] = &[
    ("", "ConfigMap"),
    ("", "Endpoints"),
    ("", "Event"),
    ("", "LimitRange"),
    ("", "PersistentVolume"),
    ("", "PersistentVolumeClaim"),
    ("", "PodTemplate"),
    ("", "ReplicationController"),
    ("", "ResourceQuota"),
    ("", "Secret"),
    (
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
    ),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
    (
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicyBinding",
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
    ),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apps", "ControllerRevision"),
    ("apps", "DaemonSet"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("apps", "StatefulSet"),
    ("autoscaling", "HorizontalPodAutoscaler"),
    ("batch", "CronJob"),
    ("batch", "Job"),
    ("certificates.k8s.io", "CertificateSigningRequest"),
    ("coordination.k8s.io", "Lease"),
    ("extensions.istio.io", "WasmPlugin"),
    ("gateway.networking.k8s.io", "BackendTLSPolicy"),
    ("gateway.networking.k8s.io", "GRPCRoute"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("gateway.networking.k8s.io", "HTTPRoute"),
    ("gateway.networking.k8s.io", "ReferenceGrant"),
    ("gateway.networking.k8s.io", "TCPRoute"),
    ("gateway.networking.k8s.io", "TLSRoute"),
    ("gateway.networking.k8s.io", "UDPRoute"),
    ("networking.istio.io", "DestinationRule"),
    ("networking.istio.io", "EnvoyFilter"),
    ("networking.istio.io", "Gateway"),
    ("networking.istio.io", "ProxyConfig"),
    ("networking.istio.io", "Sidecar"),
    ("networking.istio.io", "VirtualService"),
    ("networking.istio.io", "WorkloadGroup"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "IngressClass"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("policy", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io", "Role"),
    ("rbac.authorization.k8s.io", "RoleBinding"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("security.istio.io", "RequestAuthentication"),
    ("storage.k8s.io", "CSIDriver"),
    ("storage.k8s.io", "StorageClass"),
    ("telemetry.istio.io", "Telemetry"),
];

#[cfg(test)]
mod tests {
    use super::{Meaning, meaning};
    use crate::Kind;

    #[test]
    fn kinds_are_told_apart() {
        use Meaning::{ConfigMap, Misspelt, NotRead, Ours, Unknown, WrongVersion};
        for (api, kind, want) in [
            ("v1", "Pod", Ours(Kind::Pod)),
            (
                "discovery.k8s.io/v1",
                "EndpointSlice",
                Ours(Kind::EndpointSlice),
            ),
            (
                "networking.istio.io/v1alpha3",
                "ServiceEntry",
                Ours(Kind::ServiceEntry),
            ),
            (
                "security.istio.io/v1beta1",
                "PeerAuthentication",
                Ours(Kind::PeerAuthentication),
            ),
            ("", "MeshConfig", Ours(Kind::MeshConfig)),
            ("v1", "ConfigMap", ConfigMap),
            ("", "Pod", WrongVersion(Kind::Pod)),
            ("v2", "Service", WrongVersion(Kind::Service)),
            (
                "v1",
                "AuthorizationPolicy",
                WrongVersion(Kind::AuthorizationPolicy),
            ),
            (
                "security.istio.io/v3",
                "AuthorizationPolicy",
                WrongVersion(Kind::AuthorizationPolicy),
            ),
            (
                "securty.istio.io/v1",
                "AuthorizationPolicy",
                WrongVersion(Kind::AuthorizationPolicy),
            ),
            ("apps/v1", "Pod", WrongVersion(Kind::Pod)),
            ("policy.linkerd.io/v1beta3", "AuthorizationPolicy", NotRead),
            ("serving.knative.dev/v1", "Service", NotRead),
            ("apps/v1", "Deployment", NotRead),
            ("gateway.networking.k8s.io/v1", "HTTPRoute", NotRead),
            ("example.org/v1", "Widget", NotRead),
            (
                "security.istio.io/v1",
                "AuthorisationPolicy",
                Misspelt(Kind::AuthorizationPolicy),
            ),
            ("v1", "Sevice", Misspelt(Kind::Service)),
            ("apps/v1", "Deploymnet", Unknown(Some("Deployment"))),
            ("networking.istio.io/v1", "Teapot", Unknown(None)),
        ] {
            assert_eq!(meaning(api, kind), want, "{api} {kind}");
        }
    }
}
