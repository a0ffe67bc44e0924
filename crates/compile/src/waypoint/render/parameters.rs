//! What users want different of what runs for a waypoint (`control-plane-contract` 5.4): the defaults of its class,
//! then what its Gateway refers to, each a ConfigMap with an overlay for each object.

use ambit_kube::gateway::Gateway;
use ambit_kube::k8s_openapi::api::apps::v1::Deployment;
use ambit_kube::k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use ambit_kube::k8s_openapi::api::core::v1::{Service, ServiceAccount};
use ambit_kube::k8s_openapi::api::policy::v1::PodDisruptionBudget;
use ambit_kube::{ConfigMap, Kind, Object, ObjectKey, read_yaml};
use ambit_translate::World as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::merge::merge;
use crate::view::View;

/// Overlays by the name of what they are for; the first are laid on first.
#[derive(Debug, Default)]
pub(super) struct Overlays(Vec<(&'static str, Value)>);

/// Parameters that can't be used, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::waypoint) struct Unusable(pub(in crate::waypoint) String);

/// What can be different.
const KEYS: [&str; 5] = [DEPLOYMENT, SERVICE, ACCOUNT, SCALER, BUDGET];
const DEPLOYMENT: &str = "deployment";
const SERVICE: &str = "service";
const ACCOUNT: &str = "serviceAccount";
const SCALER: &str = "horizontalPodAutoscaler";
const BUDGET: &str = "podDisruptionBudget";
/// Marks the defaults of a class, in the control plane's namespace.
const DEFAULTS: &str = "gateway.istio.io/defaults-for-class";

impl Overlays {
    /// Those of a Gateway.
    pub(super) fn of(view: &View<'_>, gateway: &Gateway) -> Result<Self, Unusable> {
        let mut overlays = Self::default();
        if let Some((name, map)) = defaults(view, &gateway.spec.gateway_class_name) {
            overlays.add(&name, &map)?;
        }
        let infrastructure = gateway.spec.infrastructure.as_ref();
        let Some(to) = infrastructure.and_then(|of| of.parameters_ref.as_ref()) else {
            return Ok(overlays);
        };
        if !to.group.is_empty() || to.kind != "ConfigMap" {
            let what = format!(
                "parametersRef is to a {}, and can be to a ConfigMap only",
                to.kind
            );
            return Err(Unusable(what));
        }
        let namespace = gateway.metadata.namespace.as_deref().unwrap_or_default();
        let key = ObjectKey::new(Kind::ConfigMap, namespace, &*to.name);
        match view.raw(&key).map(|object| &object.object) {
            Some(Object::ConfigMap(map)) => overlays.add(&to.name, map)?,
            _ => return Err(Unusable(format!("the ConfigMap {} isn't there", to.name))),
        }
        Ok(overlays)
    }

    fn add(&mut self, name: &str, map: &ConfigMap) -> Result<(), Unusable> {
        for key in KEYS {
            let Some(text) = map.data.get(key) else {
                continue;
            };
            let refused = |why: &str| Unusable(format!("{key} of the ConfigMap {name}: {why}"));
            let overlay = read_yaml(text).map_err(|why| refused(&why))?;
            if !overlay.is_object() {
                return Err(refused("not an object"));
            }
            self.0.push((key, overlay));
            // It has to fit; on what doesn't matter.
            let fits = match key {
                DEPLOYMENT => self.deployment(Deployment::default()).map(drop),
                SERVICE => self.service(Service::default()).map(drop),
                ACCOUNT => self.account(ServiceAccount::default()).map(drop),
                SCALER => self
                    .autoscaler(HorizontalPodAutoscaler::default())
                    .map(drop),
                _ => self.disruption(PodDisruptionBudget::default()).map(drop),
            };
            fits.map_err(|why| refused(&why.0))?;
        }
        Ok(())
    }

    /// Whether a scaler is asked for.
    pub(super) fn scaler(&self) -> bool {
        self.0.iter().any(|(key, _)| *key == SCALER)
    }

    /// Whether a disruption budget is asked for.
    pub(super) fn budget(&self) -> bool {
        self.0.iter().any(|(key, _)| *key == BUDGET)
    }

    pub(super) fn deployment(&self, base: Deployment) -> Result<Deployment, Unusable> {
        self.laid(DEPLOYMENT, base)
    }

    pub(super) fn service(&self, base: Service) -> Result<Service, Unusable> {
        self.laid(SERVICE, base)
    }

    pub(super) fn account(&self, base: ServiceAccount) -> Result<ServiceAccount, Unusable> {
        self.laid(ACCOUNT, base)
    }

    pub(super) fn autoscaler(
        &self,
        base: HorizontalPodAutoscaler,
    ) -> Result<HorizontalPodAutoscaler, Unusable> {
        self.laid(SCALER, base)
    }

    pub(super) fn disruption(
        &self,
        base: PodDisruptionBudget,
    ) -> Result<PodDisruptionBudget, Unusable> {
        self.laid(BUDGET, base)
    }

    /// The object with every overlay of its kind; what it is, what it is called and whose it is stays.
    fn laid<T: Serialize + DeserializeOwned>(&self, key: &str, base: T) -> Result<T, Unusable> {
        let mut overlays = self.0.iter().filter(|(of, _)| *of == key).peekable();
        if overlays.peek().is_none() {
            return Ok(base);
        }
        let unusable = |error: serde_json::Error| Unusable(error.to_string());
        let before = serde_json::to_value(&base).map_err(unusable)?;
        let mut object = before.clone();
        for (_, overlay) in overlays {
            merge(&mut object, overlay);
        }
        for fixed in [
            "/apiVersion",
            "/kind",
            "/metadata/name",
            "/metadata/namespace",
        ] {
            restore(&mut object, &before, fixed);
        }
        restore(&mut object, &before, "/metadata/ownerReferences");
        if let Some(labels) = before
            .pointer("/metadata/labels")
            .and_then(Value::as_object)
        {
            let ours = labels
                .iter()
                .filter(|(name, _)| name.starts_with("gateway."));
            let ours: Map<_, _> = ours
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            merge(&mut object, &json!({"metadata": {"labels": ours}}));
        }
        serde_json::from_value(object).map_err(unusable)
    }
}

fn restore(object: &mut Value, before: &Value, pointer: &str) {
    let Some((parent, name)) = pointer.rsplit_once('/') else {
        return;
    };
    let parent = object.pointer_mut(parent).and_then(Value::as_object_mut);
    match (parent, before.pointer(pointer)) {
        (Some(parent), Some(value)) => {
            parent.insert(name.to_owned(), value.clone());
        }
        (Some(parent), None) => {
            parent.remove(name);
        }
        (None, _) => {}
    }
}

/// The oldest ConfigMap with the defaults of a class, in the control plane's namespace.
fn defaults(view: &View<'_>, class: &str) -> Option<(String, ConfigMap)> {
    let namespace = view.store.settings.system_namespace.to_string();
    let all = view.objects(Kind::ConfigMap, &namespace).into_iter();
    let of_class = all.filter_map(|object| match object.object {
        Object::ConfigMap(map) => {
            let labels = map.metadata.labels.as_ref()?;
            (labels.get(DEFAULTS)? == class).then_some(map)
        }
        _ => None,
    });
    let oldest = of_class.min_by_key(|map| {
        let created = map.metadata.creation_timestamp.as_ref();
        let created = created.map(|time| time.0.to_string());
        (created.is_none(), created, map.metadata.name.clone())
    })?;
    let name = oldest.metadata.name.clone().unwrap_or_default();
    Some((name, ConfigMap::clone(&oldest)))
}
