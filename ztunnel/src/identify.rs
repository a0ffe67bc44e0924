//! Second step: which workload the pod is, as the control plane knows it.

use std::sync::Arc;
use std::time::Duration;

use ambit_redirect::zds::WorkloadInfo;
use ambit_state::{StateReader, Workload};
use ambit_types::FlowReason;

use crate::node::ControlPlane;

/// The pod's configuration isn't here.
#[derive(Debug, Clone, thiserror::Error)]
#[error("unknown local workload: {account}.{namespace} ({pod}): {why}")]
pub(crate) struct UnknownPod {
    account: Box<str>,
    namespace: Box<str>,
    pod: Box<str>,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    NotInTime(Duration),
    ControlPlaneAway,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotInTime(bound) => write!(f, "no configuration within {bound:?}"),
            Self::ControlPlaneAway => {
                f.write_str("no configuration yet, and the control plane is away")
            }
        }
    }
}

impl UnknownPod {
    pub(crate) fn reason(&self) -> FlowReason {
        FlowReason::UnknownLocalWorkload
    }
}

/// Finds the workload of one pod.
pub(crate) struct Identify<'a> {
    pub(crate) state: &'a StateReader,
    pub(crate) pod: &'a WorkloadInfo,
    pub(crate) control_plane: &'a ControlPlane,
    /// How long the control plane may take.
    pub(crate) bound: Duration,
}

impl Identify<'_> {
    /// The pod as the destination of a connection: only its configuration says
    /// which policies bind it, so without one there is no connection.
    pub(crate) async fn destination(&self) -> Result<Arc<Workload>, UnknownPod> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        if self.control_plane.is_away() {
            return Err(self.unknown(Why::ControlPlaneAway));
        }
        self.wait()
            .await
            .ok_or_else(|| self.unknown(Why::NotInTime(self.bound)))
    }

    /// The pod as the source of a connection. While the control plane is away
    /// a new pod is what the node agent says it is, provided that its identity
    /// is known on this node.
    pub(crate) async fn source(&self) -> Result<Arc<Workload>, UnknownPod> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        if self.control_plane.is_away()
            && let Some(stand_in) = self.stand_in()
        {
            return Ok(stand_in);
        }
        if let Some(known) = self.wait().await {
            return Ok(known);
        }
        if !self.control_plane.is_away() {
            return Err(self.unknown(Why::NotInTime(self.bound)));
        }
        self.stand_in()
            .ok_or_else(|| self.unknown(Why::ControlPlaneAway))
    }

    fn known(&self) -> Option<Arc<Workload>> {
        let WorkloadInfo {
            name,
            namespace,
            service_account,
        } = self.pod;
        self.state
            .view()
            .local_workload(name, namespace, service_account)
            .cloned()
    }

    fn stand_in(&self) -> Option<Arc<Workload>> {
        let WorkloadInfo {
            name,
            namespace,
            service_account,
        } = self.pod;
        self.state.view().stand_in(name, namespace, service_account)
    }

    async fn wait(&self) -> Option<Arc<Workload>> {
        let WorkloadInfo {
            name,
            namespace,
            service_account,
        } = self.pod;
        self.state
            .wait_local_workload(name, namespace, service_account, self.bound)
            .await
    }

    fn unknown(&self, why: Why) -> UnknownPod {
        UnknownPod {
            account: self.pod.service_account.as_str().into(),
            namespace: self.pod.namespace.as_str().into(),
            pod: self.pod.name.as_str().into(),
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use ambit_proto::workload as pb;
    use ambit_state::{StateConfig, StateWriter};

    use super::*;

    fn state(pods: &[(&str, &str)]) -> (StateWriter, StateReader) {
        let config = StateConfig {
            local_node: Some("n1".into()),
            ..StateConfig::default()
        };
        let (mut writer, reader) = ambit_state::new(config);
        apply(&mut writer, pods);
        (writer, reader)
    }

    fn apply(writer: &mut StateWriter, pods: &[(&str, &str)]) {
        let address = |(name, account): &(&str, &str)| {
            let workload = pb::Workload {
                uid: format!("Kubernetes//Pod/shop/{name}"),
                name: (*name).to_owned(),
                namespace: "shop".to_owned(),
                service_account: (*account).to_owned(),
                node: "n1".to_owned(),
                ..pb::Workload::default()
            };
            let kind = pb::address::Type::Workload(workload.clone());
            (workload.uid, pb::Address { r#type: Some(kind) })
        };
        let rejected = writer.apply_addresses(pods.iter().map(address).collect(), &[]);
        assert!(rejected.is_empty(), "{rejected:?}");
    }

    fn pod(name: &str) -> WorkloadInfo {
        WorkloadInfo {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
        }
    }

    async fn both(
        state: &StateReader,
        pod: &WorkloadInfo,
        away: bool,
    ) -> (Option<String>, Option<String>) {
        let control_plane = ControlPlane::new(true);
        if away {
            control_plane.left();
        }
        let bound = Duration::from_secs(5);
        let identify = Identify {
            state,
            pod,
            control_plane: &control_plane,
            bound,
        };
        let name = |w: Arc<Workload>| w.name.to_string();
        (
            identify.source().await.ok().map(name),
            identify.destination().await.ok().map(name),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_pod_dials_out_while_the_control_plane_is_away_and_takes_nothing_in() {
        let (_writer, state) = state(&[("web-1", "web")]);
        let known = Some("web-1".to_owned());
        assert_eq!(
            both(&state, &pod("web-1"), true).await,
            (known.clone(), known)
        );
        assert_eq!(
            both(&state, &pod("web-2"), true).await,
            (Some("web-2".to_owned()), None)
        );
        assert_eq!(both(&state, &pod("web-2"), false).await, (None, None));
        let mut other = pod("cart-1");
        other.service_account = "cart".to_owned();
        assert_eq!(
            both(&state, &other, true).await,
            (None, None),
            "an unknown identity"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn configuration_that_comes_in_time_is_waited_for() {
        let (mut writer, state) = state(&[]);
        let pod = pod("web-1");
        let (found, ()) = tokio::join!(both(&state, &pod, false), async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            apply(&mut writer, &[("web-1", "web")]);
        });
        assert_eq!(found.0.as_deref(), Some("web-1"));
    }
}
