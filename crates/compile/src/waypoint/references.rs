//! References between objects: what a policy attaches to, and what a ReferenceGrant allows.

use ambit_kube::gateway::ReferenceGrant;
use ambit_kube::{Kind, ObjectKey, PolicyTargetReference};
use ambit_translate::{Referent, Referrer};

/// The object that a policy of a namespace attaches to; none for one that it can't (`control-plane-contract` 4.6).
pub(crate) fn attaches(reference: &PolicyTargetReference, namespace: &str) -> Option<ObjectKey> {
    let elsewhere = reference.namespace.as_deref();
    if elsewhere.is_some_and(|elsewhere| !elsewhere.is_empty() && elsewhere != namespace) {
        return None;
    }
    let kind = match (&*reference.group, &*reference.kind) {
        ("" | "core", "Service") => Kind::Service,
        ("networking.istio.io", "ServiceEntry") => Kind::ServiceEntry,
        ("gateway.networking.k8s.io", "Gateway") => Kind::Gateway,
        ("gateway.networking.k8s.io", "GatewayClass") => Kind::GatewayClass,
        _ => return None,
    };
    let namespace = if kind.is_namespaced() { namespace } else { "" };
    Some(ObjectKey::new(kind, namespace, reference.name.as_str()))
}

/// Whether a grant of the referent's namespace lets the referrer refer to it (`waypoint-contract` 2.7).
pub(crate) fn grants(grant: &ReferenceGrant, from: &Referrer<'_>, to: &Referent<'_>) -> bool {
    let whom = grant.spec.from.iter().any(|granted| {
        granted.group == from.group
            && granted.kind == from.kind
            && granted.namespace == from.namespace
    });
    let what = grant.spec.to.iter().any(|granted| {
        let name = granted.name.as_deref().filter(|name| !name.is_empty());
        granted.group == to.group
            && granted.kind == to.kind
            && name.is_none_or(|name| name == to.name)
    });
    whom && what
}
