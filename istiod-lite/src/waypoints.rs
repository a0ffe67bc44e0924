//! What is to run for each waypoint, for whoever runs it: `/debug/waypoints`.
//!
//! On a cluster a controller applies these objects; where there is none, they
//! are what somebody who plays the kubelet starts, and nothing else is.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_compile::Rendered;
use ambit_kube::k8s_openapi::api::apps::v1::Deployment;
use ambit_kube::k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use ambit_kube::k8s_openapi::api::core::v1::{Service, ServiceAccount};
use ambit_kube::k8s_openapi::api::policy::v1::PodDisruptionBudget;
use arc_swap::ArcSwap;
use serde::Serialize;

/// The waypoints' objects, by `namespace/gateway`. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waypoints(Arc<ArcSwap<BTreeMap<Arc<str>, Arc<Rendered>>>>);

/// The objects of one waypoint, as Kubernetes would have them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    gateway: String,
    service_account: ServiceAccount,
    deployment: Deployment,
    service: Service,
    #[serde(skip_serializing_if = "Option::is_none")]
    disruption_budget: Option<PodDisruptionBudget>,
    #[serde(skip_serializing_if = "Option::is_none")]
    autoscaler: Option<HorizontalPodAutoscaler>,
}

impl Waypoints {
    /// Takes what changed; one writer.
    pub(crate) fn learn(&self, changed: &BTreeMap<Arc<str>, Option<Arc<Rendered>>>) {
        if changed.is_empty() {
            return;
        }
        let mut all = BTreeMap::clone(&self.0.load());
        for (gateway, rendered) in changed {
            match rendered {
                Some(rendered) => all.insert(Arc::clone(gateway), Arc::clone(rendered)),
                None => all.remove(gateway),
            };
        }
        self.0.store(Arc::new(all));
    }

    /// One of them, by `namespace/gateway`.
    pub(crate) fn get(&self, gateway: &str) -> Option<Arc<Rendered>> {
        self.0.load().get(gateway).cloned()
    }

    /// The Gateways, `namespace/gateway`.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.0.load().keys().cloned().collect()
    }

    /// All of them, by the name of their Gateway.
    pub(crate) fn all(&self) -> Vec<Shown> {
        let all = self.0.load();
        let shown = all.iter().map(|(gateway, rendered)| Shown {
            gateway: gateway.to_string(),
            service_account: rendered.service_account.clone(),
            deployment: rendered.deployment.clone(),
            service: rendered.service.clone(),
            disruption_budget: rendered.disruption_budget.clone(),
            autoscaler: rendered.autoscaler.clone(),
        });
        shown.collect()
    }
}
