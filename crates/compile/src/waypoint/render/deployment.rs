//! The objects themselves: metadata, the pod, the service.

use std::collections::BTreeMap;

use ambit_kube::core::ObjectMeta;
use ambit_kube::gateway::Gateway;
use ambit_kube::k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use ambit_kube::k8s_openapi::api::core::v1::{
    PodTemplateSpec, Service, ServiceAccount, ServicePort, ServiceSpec,
};
use ambit_kube::k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use ambit_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use ambit_kube::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use ambit_kube::{Kind, Object, ObjectKey};

use super::{Rendered, pod};
use crate::input::Gateway as Input;
use crate::view::View;
use crate::waypoint::GATEWAY_NAME;
use crate::waypoint::gateway::WaypointFact;
use crate::waypoint::service::MANAGED;

/// The objects of a waypoint; none where its Gateway names addresses of its own, or several.
pub(super) fn waypoint_objects(view: &View<'_>, fact: &WaypointFact) -> Option<Rendered> {
    let at = &fact.gateway;
    let key = ObjectKey::new(Kind::Gateway, &*at.namespace, &*at.name);
    let Object::Gateway(gateway) = &view.raw(&key)?.object else {
        return None;
    };
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
    };
    let service_account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(plan.account.clone()),
            ..plan.metadata()
        },
        ..ServiceAccount::default()
    };
    Some(Rendered {
        gateway: at.clone(),
        service_account,
        deployment: plan.deployment(),
        service: plan.service(&input),
        disruption_budget: plan.disruption_budget(),
    })
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
}

impl Plan<'_> {
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

    /// One pod stays; only for who scales the Deployment, as upstream renders none by itself.
    fn disruption_budget(&self) -> Option<PodDisruptionBudget> {
        let wanted = self.gateway.metadata.annotations.as_ref();
        let wanted = wanted.and_then(|annotations| annotations.get(REPLICAS))?;
        (wanted.parse::<u32>().ok()? > 1).then(|| PodDisruptionBudget {
            metadata: self.metadata(),
            spec: Some(PodDisruptionBudgetSpec {
                min_available: Some(IntOrString::Int(1)),
                selector: Some(self.selector()),
                ..PodDisruptionBudgetSpec::default()
            }),
            ..PodDisruptionBudget::default()
        })
    }
}

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
