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
    if group.is_empty() && kind == "ConfigMap" && version == "v1" {
        return Meaning::ConfigMap;
    }
    let ours = || Kind::ALL.iter().copied();
    let named = || ours().filter(|ours| ours.as_str() == kind);
    if let Some(ours) = named().find(|ours| ours.group() == group) {
        return known_name(ours, group, version);
    }
    if is_foreign(group, kind) {
        return Meaning::NotRead;
    }
    if let Some(ours) = named().next() {
        return known_name(ours, group, version);
    }
    let candidates = ours().filter(|ours| *ours != Kind::MeshConfig && ours.group() == group);
    if let Some(near) = nearest(kind, candidates.map(Kind::as_str))
        && let Some(ours) = ours().find(|ours| ours.as_str() == near && ours.group() == group)
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
    let of_a_mesh = !group.is_empty() && Kind::ALL.iter().any(|other| other.group() == group);
    let slip = group.is_empty() || of_a_mesh || ours.group().is_empty() && is_known_group(group);
    if slip || nearest(group, [ours.group()]).is_some() {
        Meaning::WrongVersion(ours)
    } else {
        Meaning::NotRead
    }
}

/// What to use instead of a kind that isn't read, where its author meant the mesh by it; and the field that says so.
pub(super) fn instead(group: &str, kind: &str) -> Option<(&'static str, &'static str)> {
    Some(match (group, kind) {
        ("install.istio.io", "IstioOperator") => (
            "spec.meshConfig",
            "install with the charts of Ambit, and write what is under spec.meshConfig as mesh settings: a MeshConfig \
             document, or the key `mesh` of the ConfigMap istio",
        ),
        ("linkerd.io", "LinkerdControlPlane") => (
            "spec",
            "install with the charts of Ambit; node proxies need no resources a pod",
        ),
        ("networking.istio.io", "Gateway") => (
            "spec.servers",
            "traffic from outside stays with its own gateway; for a waypoint write a Gateway of \
             gateway.networking.k8s.io/v1 with gatewayClassName istio-waypoint",
        ),
        ("networking.istio.io", "WorkloadGroup") => ("spec", "write WorkloadEntries"),
        ("gateway.networking.k8s.io", "UDPRoute") => {
            ("spec", "the mesh carries TCP; UDP goes past it as it is")
        }
        ("monitoring.coreos.com", "ServiceMonitor" | "PodMonitor") => (
            "spec",
            "Prometheus reads it; proxies give their metrics on port 15020 at /stats/prometheus",
        ),
        ("monitoring.coreos.com", "PrometheusRule") => (
            "spec",
            "Prometheus reads it; the names are upstream's, and a waypoint's series have reporter=\"waypoint\" \
             (AMBIT_DESTINATION_REPORTER also writes \"destination\")",
        ),
        _ => return None,
    })
}

/// Whether the kind is one of Kubernetes' or Istio's that we know of and don't read.
fn is_foreign(group: &str, kind: &str) -> bool {
    OTHERS
        .iter()
        .any(|(of, name)| *of == group && *name == kind)
}

/// Groups whose kinds we know, so that a kind that isn't among them is a slip.
fn is_known_group(group: &str) -> bool {
    group.is_empty()
        || OTHERS.iter().any(|(known, _)| *known == group)
        || Kind::ALL.iter().any(|ours| ours.group() == group)
}

/// Kinds that manifests of a mesh commonly hold beside ours.
const OTHERS: &[(&str, &str)] = &[
    ("", "Endpoints"),
    ("", "Event"),
    ("", "LimitRange"),
    ("", "PersistentVolume"),
    ("", "PersistentVolumeClaim"),
    ("", "PodTemplate"),
    ("", "ReplicationController"),
    ("", "ResourceQuota"),
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
    ("gateway.networking.k8s.io", "ListenerSet"),
    ("gateway.networking.k8s.io", "UDPRoute"),
    ("gateway.networking.x-k8s.io", "XListenerSet"),
    ("gateway.networking.x-k8s.io", "XMesh"),
    ("networking.istio.io", "Gateway"),
    ("networking.istio.io", "WorkloadGroup"),
    ("install.istio.io", "IstioOperator"),
    ("linkerd.io", "LinkerdControlPlane"),
    ("monitoring.coreos.com", "PodMonitor"),
    ("monitoring.coreos.com", "PrometheusRule"),
    ("monitoring.coreos.com", "ServiceMonitor"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "IngressClass"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("policy", "PodDisruptionBudget"),
    ("policy.linkerd.io", "ExternalWorkload"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io", "Role"),
    ("rbac.authorization.k8s.io", "RoleBinding"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("storage.k8s.io", "CSIDriver"),
    ("storage.k8s.io", "StorageClass"),
];

#[cfg(test)]
mod tests {
    use super::{Meaning, meaning};
    use crate::Kind;

    #[test]
    fn kinds_are_told_apart() {
        use Meaning::{ConfigMap, NotRead, Ours, WrongVersion};
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
            (
                "policy.linkerd.io/v1alpha1",
                "AuthorizationPolicy",
                Ours(Kind::LinkerdAuthorizationPolicy),
            ),
            ("serving.knative.dev/v1", "Service", NotRead),
            ("apps/v1", "Deployment", NotRead),
            (
                "gateway.networking.k8s.io/v1",
                "HTTPRoute",
                Ours(Kind::HttpRoute),
            ),
            (
                "policy.linkerd.io/v1beta3",
                "HTTPRoute",
                Ours(Kind::LinkerdHttpRoute),
            ),
            ("networking.istio.io/v1", "Gateway", NotRead),
            (
                "split.smi-spec.io/v1alpha1",
                "TrafficSplit",
                Ours(Kind::TrafficSplit),
            ),
            (
                "linkerd.io/v1alpha2",
                "TrafficSplit",
                WrongVersion(Kind::TrafficSplit),
            ),
            ("linkerd.io/v1alpha2", "LinkerdControlPlane", NotRead),
            (
                "networking.istio.io/v1",
                "HTTPRoute",
                WrongVersion(Kind::HttpRoute),
            ),
            ("install.istio.io/v1alpha1", "IstioOperator", NotRead),
            ("v1", "Secret", Ours(Kind::Secret)),
            ("example.org/v1", "Widget", NotRead),
        ] {
            assert_eq!(meaning(api, kind), want, "{api} {kind}");
        }
    }

    #[test]
    fn slips_are_told_from_other_projects() {
        use Meaning::{Misspelt, Unknown};
        for (api, kind, want) in [
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
