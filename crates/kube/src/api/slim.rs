//! The kinds of which there are many, by the fields that matter (`control-plane-contract` 10).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, PodCondition, PodIP, PodSpec, PodStatus, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use serde::{Deserialize, Deserializer};

use super::LAST_APPLIED;
use crate::core::{EndpointSlice, Namespace, Node, ObjectMeta, Pod, Service};
use crate::{Kind, Object};

/// The object, if its kind is one of these.
pub(super) fn object(kind: Kind, text: &[u8]) -> Result<Option<Object>, serde_json::Error> {
    Ok(Some(match kind {
        Kind::Pod => Object::Pod(Arc::new(serde_json::from_slice::<SlimPod>(text)?.whole())),
        Kind::EndpointSlice => {
            let slice: SlimSlice = serde_json::from_slice(text)?;
            Object::EndpointSlice(Arc::new(slice.whole()))
        }
        Kind::Service => {
            let service: SlimService = serde_json::from_slice(text)?;
            Object::Service(Arc::new(Service {
                metadata: service.metadata.whole(),
                spec: service.spec,
                status: None,
            }))
        }
        Kind::Node => {
            let node: Bare = serde_json::from_slice(text)?;
            // A heartbeat changes annotations; labels are all that is read.
            let metadata = ObjectMeta {
                annotations: None,
                ..node.metadata.whole()
            };
            Object::Node(Arc::new(Node {
                metadata,
                ..Node::default()
            }))
        }
        Kind::Namespace => {
            let namespace: Bare = serde_json::from_slice(text)?;
            Object::Namespace(Arc::new(Namespace {
                metadata: namespace.metadata.whole(),
                ..Namespace::default()
            }))
        }
        _ => return Ok(None),
    }))
}

#[derive(Deserialize)]
struct Bare {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    namespace: Option<String>,
    uid: Option<String>,
    generation: Option<i64>,
    generate_name: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
}

impl Meta {
    fn whole(self) -> ObjectMeta {
        let annotations = self.annotations.map(|mut annotations| {
            annotations.remove(LAST_APPLIED);
            annotations
        });
        ObjectMeta {
            name: Some(self.name),
            namespace: self.namespace,
            uid: self.uid,
            generation: self.generation,
            generate_name: self.generate_name,
            labels: self.labels,
            annotations: annotations.filter(|left| !left.is_empty()),
            owner_references: self.owner_references,
            creation_timestamp: self.creation_timestamp,
            deletion_timestamp: self.deletion_timestamp,
            ..ObjectMeta::default()
        }
    }
}

#[derive(Deserialize)]
struct SlimPod {
    metadata: Meta,
    spec: Option<SlimPodSpec>,
    status: Option<SlimPodStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimPodSpec {
    service_account_name: Option<String>,
    node_name: Option<String>,
    host_network: Option<bool>,
    #[serde(default, deserialize_with = "or_none")]
    containers: Vec<SlimContainer>,
    #[serde(default, deserialize_with = "or_none")]
    init_containers: Vec<SlimContainer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimContainer {
    name: String,
    restart_policy: Option<String>,
    ports: Option<Vec<ContainerPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimPodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIP>>,
    #[serde(default, deserialize_with = "or_none")]
    conditions: Vec<SlimCondition>,
}

#[derive(Deserialize)]
struct SlimCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
}

impl SlimPod {
    fn whole(self) -> Pod {
        let mut metadata = self.metadata.whole();
        // A pod's other annotations are its runtime's, and change with it.
        let annotations = metadata.annotations.take().map(|mut annotations| {
            annotations.retain(|key, _| {
                let owner = key.split_once('/').map_or("", |(owner, _)| owner);
                MESHES.iter().any(|mesh| owner.ends_with(mesh)) || STATIC.contains(&&**key)
            });
            annotations
        });
        metadata.annotations = annotations.filter(|left| !left.is_empty());
        Pod {
            metadata,
            spec: self.spec.map(SlimPodSpec::whole),
            status: self.status.map(SlimPodStatus::whole),
        }
    }
}

/// Owners of the annotations that are read.
const MESHES: [&str; 3] = ["istio.io", "linkerd.io", "ambit.mesh"];
/// What kubelet says of static pods, and what it calls them.
const STATIC: [&str; 2] = ["kubernetes.io/config.mirror", "kubernetes.io/config.hash"];

impl SlimPodSpec {
    fn whole(self) -> PodSpec {
        // Those without a named port, and those that have ended when the pod starts, are asked about by nobody.
        let containers = self.containers.into_iter().map(SlimContainer::whole);
        let inits = self.init_containers.into_iter();
        let inits = inits
            .filter(|init| init.restart_policy.is_some())
            .map(SlimContainer::whole);
        let inits: Vec<_> = inits.collect();
        PodSpec {
            service_account_name: self.service_account_name,
            node_name: self.node_name,
            host_network: self.host_network,
            containers: containers.collect(),
            init_containers: (!inits.is_empty()).then_some(inits),
            ..PodSpec::default()
        }
    }
}

impl SlimContainer {
    fn whole(self) -> Container {
        Container {
            name: self.name,
            restart_policy: self.restart_policy,
            ports: self.ports,
            ..Container::default()
        }
    }
}

impl SlimPodStatus {
    fn whole(self) -> PodStatus {
        let ready = self
            .conditions
            .into_iter()
            .filter(|condition| condition.type_ == "Ready");
        PodStatus {
            phase: self.phase,
            pod_ip: self.pod_ip,
            pod_ips: self.pod_ips,
            conditions: Some(
                ready
                    .map(|condition| PodCondition {
                        type_: condition.type_,
                        status: condition.status,
                        ..PodCondition::default()
                    })
                    .collect(),
            ),
            ..PodStatus::default()
        }
    }
}

#[derive(Deserialize)]
struct SlimService {
    metadata: Meta,
    spec: Option<ServiceSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimSlice {
    metadata: Meta,
    address_type: String,
    #[serde(default, deserialize_with = "or_none")]
    endpoints: Vec<Endpoint>,
    ports: Option<Vec<EndpointPort>>,
}

impl SlimSlice {
    fn whole(self) -> EndpointSlice {
        let mut metadata = self.metadata.whole();
        // `endpoints.kubernetes.io/last-change-trigger-time` changes with every write.
        metadata.annotations = None;
        metadata.generation = None;
        EndpointSlice {
            metadata,
            address_type: self.address_type,
            endpoints: self.endpoints,
            ports: self.ports,
        }
    }
}

/// A list, or `null` for none.
fn or_none<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
