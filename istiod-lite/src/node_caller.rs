//! May this caller act for its node, and for this identity? Pure checks on the
//! directory (`control-plane-contract` 7.3).

use std::sync::Arc;

use ambit_authn::Caller;
use ambit_types::{NamespacedName, SpiffeId};

use crate::directory::Directory;

/// Why not. The caller is told nothing of it; our log and metrics are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum Refusal {
    /// The caller's account isn't among those that may act for a node.
    #[error("the caller's account may not act for a node")]
    AccountNotTrusted,
    /// The token isn't bound to a pod, or it is a certificate.
    #[error("the caller is not bound to a pod")]
    NotBoundToPod,
    /// What was asked for isn't an identity.
    #[error("the identity asked for is not one")]
    NotAnIdentity,
    /// What was asked for is of another trust domain.
    #[error("the identity asked for is of another trust domain")]
    OtherTrustDomain,
    /// Pods aren't known yet.
    #[error("the configuration isn't loaded yet")]
    NotSynced,
    /// The caller's pod doesn't exist.
    #[error("the caller's pod does not exist")]
    CallerPodUnknown,
    /// Another pod has the name of the caller's.
    #[error("the caller's pod has another uid")]
    CallerUidDiffers,
    /// The caller's pod runs under another account.
    #[error("the caller's pod has another service account")]
    CallerAccountDiffers,
    /// The caller's pod has no node, or another than its token says.
    #[error("the caller's pod is not on the node that its token names")]
    CallerNodeDiffers,
    /// Nothing on the caller's node has the identity.
    #[error("no pod of that identity runs on the caller's node")]
    NoSuchPodOnNode,
}

impl Refusal {
    /// Value of metric labels.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::AccountNotTrusted => "account_not_trusted",
            Self::NotBoundToPod => "not_bound_to_pod",
            Self::NotAnIdentity => "not_an_identity",
            Self::OtherTrustDomain => "other_trust_domain",
            Self::NotSynced => "not_synced",
            Self::CallerPodUnknown => "caller_pod_unknown",
            Self::CallerUidDiffers => "caller_uid_differs",
            Self::CallerAccountDiffers => "caller_account_differs",
            Self::CallerNodeDiffers => "caller_node_differs",
            Self::NoSuchPodOnNode => "no_such_pod_on_node",
        }
    }

    /// Whether a pod that is on its way to us may change the answer.
    pub(crate) fn may_pass(self) -> bool {
        match self {
            Self::NotSynced
            | Self::CallerPodUnknown
            | Self::CallerUidDiffers
            | Self::NoSuchPodOnNode => true,
            Self::AccountNotTrusted
            | Self::NotBoundToPod
            | Self::NotAnIdentity
            | Self::OtherTrustDomain
            | Self::CallerAccountDiffers
            | Self::CallerNodeDiffers => false,
        }
    }
}

/// The caller's account.
pub(crate) fn account(caller: &Caller) -> NamespacedName {
    let id = &caller.id;
    NamespacedName::new(id.namespace().clone(), id.service_account().clone())
}

/// The node that a caller acts for: its account is trusted, its pod exists as
/// its token says, and runs there.
///
/// # Errors
/// The check that failed.
pub(crate) fn node_of(
    caller: &Caller,
    trusted: &[NamespacedName],
    directory: &Directory,
) -> Result<Arc<str>, Refusal> {
    let account = account(caller);
    if !trusted.contains(&account) {
        return Err(Refusal::AccountNotTrusted);
    }
    let claims = caller.require_pod().map_err(|_| Refusal::NotBoundToPod)?;
    if !directory.is_synced() {
        return Err(Refusal::NotSynced);
    }
    let name = NamespacedName::new(account.namespace.clone(), claims.name.as_str());
    let pod = directory.pod(&name).ok_or(Refusal::CallerPodUnknown)?;
    if pod.uid.is_empty() || *pod.uid != *claims.uid {
        return Err(Refusal::CallerUidDiffers);
    }
    if pod.service_account != account.name {
        return Err(Refusal::CallerAccountDiffers);
    }
    let node = pod.node.ok_or(Refusal::CallerNodeDiffers)?;
    if claims.node.as_deref().is_some_and(|named| *named != *node) {
        return Err(Refusal::CallerNodeDiffers);
    }
    Ok(node)
}

/// Whether a node's proxy may have a certificate of another identity.
///
/// # Errors
/// The check that failed.
pub(crate) fn may_impersonate(
    caller: &Caller,
    wanted: &str,
    trust_domain: &str,
    trusted: &[NamespacedName],
    directory: &Directory,
) -> Result<SpiffeId, Refusal> {
    let node = node_of(caller, trusted, directory);
    // Who isn't trusted learns nothing about what it asked for.
    if let Err(refusal) = &node
        && !refusal.may_pass()
    {
        return Err(*refusal);
    }
    let wanted: SpiffeId = wanted.parse().map_err(|_| Refusal::NotAnIdentity)?;
    if **wanted.trust_domain() != *trust_domain {
        return Err(Refusal::OtherTrustDomain);
    }
    let account = NamespacedName::new(wanted.namespace().clone(), wanted.service_account().clone());
    if !directory.runs_on(&node?, &account) {
        return Err(Refusal::NoSuchPodOnNode);
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use ambit_authn::{PodClaims, Via};

    use super::*;
    use crate::directory::tests::{manifest, pod};

    fn caller(account: &str, pod: &str, uid: &str, node: Option<&str>) -> Caller {
        Caller {
            id: SpiffeId::new("td", "shop", account).unwrap(),
            pod: Some(PodClaims {
                name: pod.into(),
                uid: uid.into(),
                node: node.map(str::to_owned),
            }),
            via: Via::Token,
        }
    }

    /// A proxy `zt` on `n1`; `cart` on `n1`, `pay` on `n2`, a failed `old` on `n1`.
    fn directory() -> Directory {
        let directory = Directory::default();
        for (name, uid, account, node, phase) in [
            ("zt", "u1", "ztunnel", "n1", "Running"),
            ("cart", "u2", "cart", "n1", "Running"),
            ("pay", "u3", "pay", "n2", "Running"),
            ("old", "u4", "old", "n1", "Failed"),
            ("impostor", "u5", "pay", "n1", "Running"),
        ] {
            directory.learn(&pod(&manifest(name, uid, account, node, phase)));
        }
        directory.learn(&[ambit_kube::Change::Synced]);
        directory
    }

    #[test]
    fn every_check_refuses_by_name() {
        let ours = "spiffe://td/ns/shop/sa/cart";
        let good = caller("ztunnel", "zt", "u1", Some("n1"));
        let mut certificate = good.clone();
        certificate.pod = None;
        certificate.via = Via::ClientCertificate;
        use Refusal as R;
        let cases: [(Caller, &str, Result<(), R>); 13] = [
            (good.clone(), ours, Ok(())),
            (caller("ztunnel", "zt", "u1", None), ours, Ok(())),
            (
                caller("cart", "cart", "u2", None),
                ours,
                Err(R::AccountNotTrusted),
            ),
            (certificate, ours, Err(R::NotBoundToPod)),
            (
                caller("ztunnel", "gone", "u1", None),
                ours,
                Err(R::CallerPodUnknown),
            ),
            (
                caller("ztunnel", "zt", "older", None),
                ours,
                Err(R::CallerUidDiffers),
            ),
            (
                caller("ztunnel", "cart", "u2", None),
                ours,
                Err(R::CallerAccountDiffers),
            ),
            (
                caller("ztunnel", "zt", "u1", Some("n2")),
                ours,
                Err(R::CallerNodeDiffers),
            ),
            (good.clone(), "cart", Err(R::NotAnIdentity)),
            (
                good.clone(),
                "spiffe://other/ns/shop/sa/cart",
                Err(R::OtherTrustDomain),
            ),
            (
                good.clone(),
                "spiffe://td/ns/shop/sa/old",
                Err(R::NoSuchPodOnNode),
            ),
            (
                good.clone(),
                "spiffe://td/ns/bank/sa/cart",
                Err(R::NoSuchPodOnNode),
            ),
            (good, "spiffe://td/ns/shop/sa/none", Err(R::NoSuchPodOnNode)),
        ];
        let directory = directory();
        let trusted = [NamespacedName::new("shop", "ztunnel")];
        for (caller, wanted, want) in cases {
            let got = may_impersonate(&caller, wanted, "td", &trusted, &directory);
            assert_eq!(got.map(|_| ()), want, "{caller:?} {wanted}");
        }
        let nobody = may_impersonate(
            &caller("ztunnel", "zt", "u1", None),
            ours,
            "td",
            &[],
            &directory,
        );
        assert_eq!(
            nobody,
            Err(R::AccountNotTrusted),
            "an empty list trusts nobody"
        );
    }

    #[test]
    fn a_pod_of_another_node_is_refused_until_one_comes_here() {
        let directory = directory();
        let trusted = [NamespacedName::new("shop", "ztunnel")];
        let proxy = caller("ztunnel", "zt", "u1", Some("n1"));
        let ask = |account: &str| {
            let wanted = format!("spiffe://td/ns/shop/sa/{account}");
            may_impersonate(&proxy, &wanted, "td", &trusted, &directory)
        };
        let key = ambit_kube::ObjectKey::new(ambit_kube::Kind::Pod, "shop", "impostor");
        assert!(ask("pay").is_ok());
        directory.learn(&[ambit_kube::Change::Delete(key)]);
        assert_eq!(ask("pay"), Err(Refusal::NoSuchPodOnNode));
    }

    #[test]
    fn nothing_is_believed_before_pods_are_known() {
        let directory = Directory::default();
        let trusted = [NamespacedName::new("shop", "ztunnel")];
        let proxy = caller("ztunnel", "zt", "u1", None);
        assert_eq!(
            node_of(&proxy, &trusted, &directory),
            Err(Refusal::NotSynced)
        );
    }
}
