//! Which waypoint is calling? Pure checks on the directory, of what the caller
//! proved; what it says of itself counts for nothing.

use std::sync::Arc;

use ambit_authn::{Caller, PodClaims};
use ambit_types::NamespacedName;

use crate::directory::{Directory, PodFacts};
use crate::node_caller::account;

/// Why a caller is no waypoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoWaypoint {
    /// Pods aren't known yet.
    #[error("the configuration isn't loaded yet")]
    NotSynced,
    /// The caller's pod doesn't exist, or not yet.
    #[error("the caller's pod does not exist")]
    PodUnknown,
    /// Another pod has the name of the caller's.
    #[error("the caller's pod has another uid")]
    UidDiffers,
    /// The caller's pod runs under another account.
    #[error("the caller's pod has another service account")]
    AccountDiffers,
    /// The caller's pod has ended.
    #[error("the caller's pod has ended")]
    Ended,
    /// The pod has no Gateway's name, or no pod of the account has.
    #[error("the caller is no pod of a Gateway")]
    NotOfAGateway,
    /// Pods of several Gateways run under the account, and nothing says of
    /// which one the caller is.
    #[error("the caller's account is that of several Gateways; use a token that is bound to a pod")]
    Ambiguous,
}

impl NoWaypoint {
    /// Whether a pod that is on its way to us may change the answer.
    pub(crate) fn may_pass(self) -> bool {
        match self {
            Self::NotSynced | Self::PodUnknown | Self::UidDiffers => true,
            Self::AccountDiffers | Self::Ended | Self::NotOfAGateway | Self::Ambiguous => false,
        }
    }
}

/// The waypoint that a caller is a pod of, `namespace/name` of its Gateway:
/// by the label of the pod that its token is bound to; for a caller that is
/// bound to none, by its account, which must be that of one Gateway's pods.
///
/// # Errors
/// The check that failed.
pub(crate) fn waypoint_of(caller: &Caller, directory: &Directory) -> Result<Arc<str>, NoWaypoint> {
    if !directory.is_synced() {
        return Err(NoWaypoint::NotSynced);
    }
    let account = account(caller);
    let gateway = match &caller.pod {
        Some(claims) => by_pod(claims, &account, directory)?,
        None => by_account(&account, directory)?,
    };
    Ok(format!("{}/{gateway}", account.namespace).into())
}

fn by_pod(
    claims: &PodClaims,
    account: &NamespacedName,
    directory: &Directory,
) -> Result<Arc<str>, NoWaypoint> {
    let name = NamespacedName::new(account.namespace.clone(), claims.name.as_str());
    let pod = directory.pod(&name).ok_or(NoWaypoint::PodUnknown)?;
    let PodFacts {
        uid,
        service_account,
        terminal,
        gateway,
        ..
    } = pod;
    if uid.is_empty() || *uid != *claims.uid {
        return Err(NoWaypoint::UidDiffers);
    }
    if service_account != account.name {
        return Err(NoWaypoint::AccountDiffers);
    }
    if terminal {
        return Err(NoWaypoint::Ended);
    }
    gateway.ok_or(NoWaypoint::NotOfAGateway)
}

fn by_account(account: &NamespacedName, directory: &Directory) -> Result<Arc<str>, NoWaypoint> {
    let mut gateways = directory.gateways_of(account);
    match (gateways.pop_first(), gateways.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(NoWaypoint::Ambiguous),
        (None, _) => Err(NoWaypoint::NotOfAGateway),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::tests::{labelled, manifest, pod};
    use ambit_authn::Via;

    fn caller(account: &str, pod: Option<(&str, &str)>) -> Caller {
        Caller {
            id: format!("spiffe://td/ns/shop/sa/{account}").parse().unwrap(),
            pod: pod.map(|(name, uid)| PodClaims {
                name: name.into(),
                uid: uid.into(),
                node: None,
            }),
            via: Via::Token,
        }
    }

    #[test]
    fn a_waypoint_is_who_its_pod_says() {
        let directory = Directory::default();
        let of = |name: &str, uid: &str, account: &str, phase: &str, gateway: &str| {
            let text = manifest(name, uid, account, "n1", phase);
            let labels = format!("gateway.networking.k8s.io/gateway-name: {gateway}");
            directory.learn(&pod(&labelled(&text, &labels)));
        };
        assert_eq!(
            waypoint_of(&caller("wp", Some(("wp-1", "u1"))), &directory),
            Err(NoWaypoint::NotSynced)
        );
        directory.learn(&[ambit_kube::Change::Synced]);
        of("wp-1", "u1", "wp", "Running", "wp");
        of("wp-2", "u2", "wp", "Running", "wp");
        of("old", "u3", "wp", "Failed", "former");
        of("a-1", "u4", "shared", "Running", "a");
        of("b-1", "u5", "shared", "Running", "b");
        directory.learn(&pod(&manifest("app", "u6", "app", "n1", "Running")));
        directory.learn(&pod(&manifest("no-uid", "", "wp", "n1", "Running")));
        use NoWaypoint as N;
        let cases = [
            ("wp", Some(("wp-1", "u1")), Ok("shop/wp")),
            ("wp", Some(("wp-1", "u9")), Err(N::UidDiffers)),
            ("wp", Some(("no-uid", "")), Err(N::UidDiffers)),
            ("wp", Some(("wp-7", "u1")), Err(N::PodUnknown)),
            ("app", Some(("wp-1", "u1")), Err(N::AccountDiffers)),
            ("wp", Some(("old", "u3")), Err(N::Ended)),
            ("app", Some(("app", "u6")), Err(N::NotOfAGateway)),
            ("shared", Some(("b-1", "u5")), Ok("shop/b")),
            ("wp", None, Ok("shop/wp")),
            ("shared", None, Err(N::Ambiguous)),
            ("app", None, Err(N::NotOfAGateway)),
            ("nobody", None, Err(N::NotOfAGateway)),
        ];
        for (account, claims, want) in cases {
            let got = waypoint_of(&caller(account, claims), &directory);
            assert_eq!(
                got.as_deref(),
                want.as_ref().map(|w| *w),
                "{account} {claims:?}"
            );
        }
    }
}
