//! Linkerd's policy kinds: each is answered with the form to use (8.4).

use ambit_kube::{Kind, Located, Object, Problem};

use crate::istio::codes;
use crate::istio::say::{Fault, Say};

/// What is said about a policy kind of Linkerd's; nothing about other kinds.
pub fn unused(object: &Located<Object>) -> Vec<Problem> {
    let (message, remedy) = match object.object.kind() {
        Kind::LinkerdServer => (
            "a Server decides nothing here by itself; only HTTPLocalRateLimitPolicies that name it use it",
            "for accessPolicy use an AuthorizationPolicy (security.istio.io) on the Service, for proxyProtocol appProtocol of its port",
        ),
        Kind::LinkerdAuthorizationPolicy => (
            "Linkerd's AuthorizationPolicy isn't enforced",
            "write an AuthorizationPolicy of security.istio.io with targetRefs to the Service and from[].source.principals or ipBlocks",
        ),
        Kind::ServerAuthorization => (
            "a ServerAuthorization isn't enforced",
            "write an AuthorizationPolicy of security.istio.io with from[].source.principals or ipBlocks",
        ),
        Kind::MeshTlsAuthentication => (
            "a MeshTLSAuthentication isn't enforced",
            "write its identities as source.principals or source.serviceAccounts of an AuthorizationPolicy (security.istio.io)",
        ),
        Kind::NetworkAuthentication => (
            "a NetworkAuthentication isn't enforced",
            "write its networks as source.ipBlocks and notIpBlocks of an AuthorizationPolicy (security.istio.io)",
        ),
        Kind::EgressNetwork => (
            "an EgressNetwork isn't used",
            "write a ServiceEntry for the destinations and give it a waypoint with istio.io/use-waypoint",
        ),
        Kind::LinkerdHttpRoute => (
            "an HTTPRoute of policy.linkerd.io isn't used",
            "write it as gateway.networking.k8s.io/v1 HTTPRoute with parentRefs to the Service; the fields are the same",
        ),
        _ => return Vec::new(),
    };
    let mut say = Say::about(object.object.key(), object);
    let fault = Fault {
        field: "kind",
        value: object.object.kind().as_str(),
        message,
        remedy,
    };
    match object.object.kind() {
        // Nothing is open because of it.
        Kind::LinkerdServer => say.info(codes::LINKERD_POLICY, fault),
        _ => say.warning(codes::LINKERD_POLICY, fault),
    }
    say.into_problems()
}
