//! The objects themselves: metadata, the pod, the service.

use std::collections::BTreeMap;

use ambit_kube::core::ObjectMeta;
use ambit_kube::gateway::Gateway;
use ambit_kube::k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use ambit_kube::k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec,
};
use ambit_kube::k8s_openapi::api::core::v1::{
    PodTemplateSpec, Service, ServiceAccount, ServicePort, ServiceSpec,
};
use ambit_kube::k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use ambit_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use ambit_kube::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use ambit_kube::{Kind, Object, ObjectKey};
use ambit_types::NamespacedName;

use super::parameters::{Overlays, Unusable};
use super::{Rendered, pod};
use crate::input::Gateway as Input;
use crate::view::View;
use crate::waypoint::GATEWAY_NAME;
use crate::waypoint::gateway::WaypointFact;
use crate::waypoint::service::MANAGED;

/// The objects of a waypoint; none where its Gateway names addresses of its own, or several, where another
/// controller has taken it over, and where its parameters can't be used: what runs then runs on.
pub(super) fn waypoint_objects(view: &View<'_>, fact: &WaypointFact) -> Option<Rendered> {
    let at = &fact.gateway;
    let key = ObjectKey::new(Kind::Gateway, &*at.namespace, &*at.name);
    let Object::Gateway(gateway) = &view.raw(&key)?.object else {
        return None;
    };
    if is_taken_over(gateway) {
        return None;
    }
    let asked = gateway.spec.addresses.as_deref().unwrap_or_default();
    let by_ip = |kind: Option<&str>| matches!(kind, None | Some("" | "IPAddress"));
    let ours = match asked {
        [] => true,
        [one] => by_ip(one.r#type.as_deref()),
        _ => false,
    };
    if !ours {
        return None;
    }
    let input = Input::new(gateway);
    let plan = Plan {
        gateway,
        name: input.service_name(&at.name).to_owned(),
        account: input.account(&at.name).to_owned(),
        namespace: at.namespace.to_string(),
        network: view.store.network().to_owned(),
        trust_domain: view.mesh_info().trust_domain.to_string(),
        cluster_id: view.store.settings.cluster_id.to_string(),
        cluster_domain: view.store.settings.cluster_domain.to_string(),
        system_namespace: view.store.settings.system_namespace.to_string(),
        revision: view.store.settings.revision.to_string(),
        image: view.store.settings.waypoint_image.to_string(),
    };
    let overlays = Overlays::of(view, gateway).ok()?;
    plan.rendered(at.clone(), &input, &overlays).ok()
}

/// Whether what runs for a Gateway can be made of its parameters.
pub(in crate::waypoint) fn check(view: &View<'_>, gateway: &Gateway) -> Result<(), Unusable> {
    Overlays::of(view, gateway).map(drop)
}

/// The version of the controller that is in charge, where one has said so: a later one, or one that nobody knows,
/// isn't us.
fn is_taken_over(gateway: &Gateway) -> bool {
    let annotations = gateway.metadata.annotations.as_ref();
    let version = annotations.and_then(|all| all.get("gateway.istio.io/controller-version"));
    version.is_some_and(|version| !version.parse().is_ok_and(|version: u32| version <= VERSION))
}

/// What the objects are made of.
pub(super) struct Plan<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) name: String,
    pub(super) account: String,
    pub(super) namespace: String,
    pub(super) network: String,
    pub(super) trust_domain: String,
    pub(super) cluster_id: String,
    pub(super) cluster_domain: String,
    pub(super) system_namespace: String,
    pub(super) revision: String,
    pub(super) image: String,
}

impl Plan<'_> {
    fn rendered(
        &self,
        gateway: NamespacedName,
        input: &Input,
        overlays: &Overlays,
    ) -> Result<Rendered, Unusable> {
        let service_account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(self.account.clone()),
                ..self.metadata()
            },
            ..ServiceAccount::default()
        };
        let (budget, scaler) = (overlays.budget(), overlays.scaler());
        let budget = budget
            .then(|| self.budget())
            .or_else(|| self.asked_budget());
        let mut deployment = self.deployment();
        if scaler && let Some(spec) = &mut deployment.spec {
            // The scaler's to say.
            spec.replicas = None;
        }
        Ok(Rendered {
            gateway,
            service_account: overlays.account(service_account)?,
            deployment: overlays.deployment(deployment)?,
            service: overlays.service(self.service(input))?,
            disruption_budget: budget.map(|of| overlays.disruption(of)).transpose()?,
            autoscaler: scaler
                .then(|| overlays.autoscaler(self.scaler()))
                .transpose()?,
        })
    }

    /// Where the control plane is called.
    pub(super) fn istiod(&self) -> String {
        match &*self.revision {
            "" | "default" => "istiod".to_owned(),
            revision => format!("istiod-{revision}"),
        }
    }

    fn scaler(&self) -> HorizontalPodAutoscaler {
        HorizontalPodAutoscaler {
            metadata: self.metadata(),
            spec: Some(HorizontalPodAutoscalerSpec {
                scale_target_ref: CrossVersionObjectReference {
                    api_version: Some("apps/v1".to_owned()),
                    kind: "Deployment".to_owned(),
                    name: self.name.clone(),
                },
                max_replicas: 1,
                ..HorizontalPodAutoscalerSpec::default()
            }),
            ..HorizontalPodAutoscaler::default()
        }
    }

    fn replicas(&self) -> Option<i32> {
        let annotations = self.gateway.metadata.annotations.as_ref();
        let wanted = annotations.and_then(|annotations| annotations.get(REPLICAS))?;
        wanted.parse().ok().filter(|replicas| *replicas >= 0)
    }

    pub(super) fn gateway_name(&self) -> String {
        self.gateway.metadata.name.clone().unwrap_or_default()
    }

    /// The marks of everything that is generated.
    fn marks(&self) -> BTreeMap<String, String> {
        let class = self.gateway.spec.gateway_class_name.clone();
        let marks = [
            (GATEWAY_NAME, self.gateway_name()),
            ("gateway.networking.k8s.io/gateway-class-name", class),
            (MANAGED, "istio.io-mesh-controller".to_owned()),
        ];
        let marks = marks.into_iter();
        marks.map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Labels and annotations that the Gateway gives to what is generated: its own, or those of its infrastructure.
    fn inherited(&self) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
        let meta = &self.gateway.metadata;
        let infrastructure = self.gateway.spec.infrastructure.as_ref();
        let pick = |of: Option<&BTreeMap<String, String>>,
                    own: Option<&BTreeMap<String, String>>| {
            let mut map = of.or(own).cloned().unwrap_or_default();
            map.retain(|key, _| {
                !key.starts_with("gateway.networking.k8s.io/")
                    && key != "kubectl.kubernetes.io/last-applied-configuration"
            });
            map
        };
        (
            pick(
                infrastructure.and_then(|of| of.labels.as_ref()),
                meta.labels.as_ref(),
            ),
            pick(
                infrastructure.and_then(|of| of.annotations.as_ref()),
                meta.annotations.as_ref(),
            ),
        )
    }

    fn metadata(&self) -> ObjectMeta {
        let (mut labels, annotations) = self.inherited();
        labels.extend(self.marks());
        ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: "gateway.networking.k8s.io/v1".to_owned(),
                kind: "Gateway".to_owned(),
                name: self.gateway_name(),
                uid: self.gateway.metadata.uid.clone().unwrap_or_default(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        }
    }

    fn selector(&self) -> LabelSelector {
        LabelSelector {
            match_labels: Some([(GATEWAY_NAME.to_owned(), self.gateway_name())].into()),
            ..LabelSelector::default()
        }
    }

    fn deployment(&self) -> Deployment {
        Deployment {
            metadata: self.metadata(),
            spec: Some(DeploymentSpec {
                replicas: self.replicas(),
                selector: self.selector(),
                template: self.template(),
                ..DeploymentSpec::default()
            }),
            ..Deployment::default()
        }
    }

    fn template(&self) -> PodTemplateSpec {
        let (mut labels, _) = self.inherited();
        labels.extend(self.marks());
        let more = [
            ("sidecar.istio.io/inject", "false"),
            ("istio.io/dataplane-mode", "none"),
            ("service.istio.io/canonical-name", &*self.name),
            ("service.istio.io/canonical-revision", "latest"),
            ("topology.istio.io/network", &*self.network),
        ];
        let more = more.into_iter().filter(|(_, value)| !value.is_empty());
        labels.extend(more.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let annotations = [
            ("istio.io/rev", &*self.revision),
            ("prometheus.io/scrape", "true"),
            ("prometheus.io/path", "/stats/prometheus"),
            ("prometheus.io/port", "15020"),
        ];
        let annotations = annotations
            .into_iter()
            .filter(|(_, value)| !value.is_empty());
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
        PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(labels),
                annotations: Some(annotations.collect()),
                ..ObjectMeta::default()
            }),
            spec: Some(pod::spec(self)),
        }
    }

    /// The status port, and one port for each listener.
    fn service(&self, input: &Input) -> Service {
        let mut metadata = self.metadata();
        let annotations = metadata.annotations.get_or_insert_default();
        annotations
            .entry("networking.istio.io/traffic-distribution".to_owned())
            .or_insert_with(|| "PreferClose".to_owned());
        let mut ports = vec![port("status-port", 15021, "tcp")];
        for listener in &input.listeners {
            if !ports
                .iter()
                .any(|known| known.port == i32::from(listener.port))
            {
                let protocol = listener.protocol.to_ascii_lowercase();
                ports.push(port(&sanitised(&listener.name), listener.port, &protocol));
            }
        }
        let kind = input.annotation("networking.istio.io/service-type");
        Service {
            metadata,
            spec: Some(ServiceSpec {
                ports: Some(ports),
                selector: self.selector().match_labels,
                type_: Some(kind.unwrap_or("ClusterIP").to_owned()),
                ip_family_policy: Some("PreferDualStack".to_owned()),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }
    }

    /// One pod stays, where more than one is asked for.
    fn asked_budget(&self) -> Option<PodDisruptionBudget> {
        (self.replicas()? > 1).then(|| PodDisruptionBudget {
            spec: Some(PodDisruptionBudgetSpec {
                min_available: Some(IntOrString::Int(1)),
                selector: Some(self.selector()),
                ..PodDisruptionBudgetSpec::default()
            }),
            ..self.budget()
        })
    }

    fn budget(&self) -> PodDisruptionBudget {
        PodDisruptionBudget {
            metadata: self.metadata(),
            spec: Some(PodDisruptionBudgetSpec {
                selector: Some(self.selector()),
                ..PodDisruptionBudgetSpec::default()
            }),
            ..PodDisruptionBudget::default()
        }
    }
}

/// Of the controller, as others count.
const VERSION: u32 = 5;
/// How many pods; absent leaves it to whoever scales the Deployment.
pub(super) const REPLICAS: &str = "ambit.mesh/replicas";

fn port(name: &str, number: u16, protocol: &str) -> ServicePort {
    // An application protocol is a label of Kubernetes: `istio.io/PROXY` has a prefix of its own.
    ServicePort {
        name: Some(name.to_owned()),
        port: number.into(),
        protocol: Some("TCP".to_owned()),
        app_protocol: Some(protocol.to_owned()),
        ..ServicePort::default()
    }
}

/// A listener's name as a port's: at most 63 letters, digits and dashes.
fn sanitised(name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = name.chars().map(plain).take(63).collect();
    name.trim_matches('-').to_owned()
}
