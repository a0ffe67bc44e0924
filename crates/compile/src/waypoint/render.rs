//! What runs for a Gateway that is a waypoint (`control-plane-contract` 5.4): a pure function of the object.

use ambit_kube::k8s_openapi::api::apps::v1::Deployment;
use ambit_kube::k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use ambit_kube::k8s_openapi::api::core::v1::{Service, ServiceAccount};
use ambit_kube::k8s_openapi::api::policy::v1::PodDisruptionBudget;
use ambit_types::NamespacedName;

use super::gateway::WaypointFact;
use crate::view::View;

mod deployment;
mod merge;
mod parameters;
mod pod;

pub(super) use deployment::check;

/// The objects of a waypoint, in the order in which they are applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// The Gateway.
    pub gateway: NamespacedName,
    /// Whom its pods run as.
    pub service_account: ServiceAccount,
    /// Its pods.
    pub deployment: Deployment,
    /// Where node proxies find them.
    pub service: Service,
    /// Keeps one pod through voluntary disruptions, where there is more than one.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// Scales it, where its parameters ask for that.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
}

impl Rendered {
    /// The uid of the Gateway; none where it has none, as in a directory.
    pub fn owner(&self) -> Option<&str> {
        let owners = self.deployment.metadata.owner_references.as_ref()?;
        let uid = owners.first().map(|owner| &*owner.uid);
        uid.filter(|uid| !uid.is_empty())
    }
}

/// What runs for a waypoint; none where the Gateway has addresses of its own.
pub(super) fn rendered(view: &View<'_>, fact: &WaypointFact) -> Option<Rendered> {
    deployment::waypoint_objects(view, fact)
}
