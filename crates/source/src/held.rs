//! Objects as they are kept between two looks: whole, but for pods, of which there are many and large ones. Of a pod
//! that is kept which anybody here reads, as text.

use std::sync::Arc;

use ambit_kube::core::{ObjectMeta, Pod};
use ambit_kube::k8s_openapi::api::core::v1::{Container, PodSpec, PodStatus};
use ambit_kube::{FieldLines, Located, Object, ObjectKey, Origin};

/// An object of a document. Two are equal if nobody could tell the objects apart, or their places.
#[derive(Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) key: ObjectKey,
    pub(crate) origin: Origin,
    form: Form,
}

#[derive(Debug, PartialEq)]
enum Form {
    Whole(Object, FieldLines),
    Pod(Box<[u8]>),
}

impl Held {
    pub(crate) fn new(located: Located<Object>) -> Self {
        let Located {
            object,
            origin,
            lines,
        } = located;
        let key = object.key();
        let packed = match &object {
            Object::Pod(pod) => pack(pod),
            _ => None,
        };
        let form = packed.map_or_else(|| Form::Whole(object, lines), Form::Pod);
        Self { key, origin, form }
    }

    /// The object. Of a pod only what is kept.
    pub(crate) fn located(&self) -> Located<Object> {
        let (object, lines) = match &self.form {
            Form::Whole(object, lines) => (object.clone(), lines.clone()),
            Form::Pod(text) => (Object::Pod(Arc::new(unpack(text))), FieldLines::default()),
        };
        Located {
            object,
            origin: self.origin.clone(),
            lines,
        }
    }

    /// Whether it says the same as another one, wherever that is written.
    pub(crate) fn says_what(&self, other: &Self) -> bool {
        match (&self.form, &other.form) {
            (Form::Whole(this, _), Form::Whole(that, _)) => this == that,
            (this, that) => this == that,
        }
    }

    /// A policy whose own name couldn't be read.
    pub(crate) fn is_unnamed(&self) -> bool {
        matches!(&self.form, Form::Whole(Object::Broken(broken), _) if broken.is_unnamed())
    }
}

/// What is read of a pod (`control-plane-contract` 2.2 to 2.4), as JSON.
fn pack(pod: &Pod) -> Option<Box<[u8]>> {
    let meta = &pod.metadata;
    let kept = Pod {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            generate_name: meta.generate_name.clone(),
            uid: meta.uid.clone(),
            generation: meta.generation,
            labels: meta.labels.clone(),
            annotations: meta.annotations.clone(),
            owner_references: meta.owner_references.clone(),
            creation_timestamp: meta.creation_timestamp.clone(),
            deletion_timestamp: meta.deletion_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: pod.spec.as_ref().map(spec),
        status: pod.status.as_ref().map(status),
    };
    serde_json::to_vec(&kept).ok().map(Vec::into_boxed_slice)
}

fn spec(spec: &PodSpec) -> PodSpec {
    let containers = spec.containers.iter().filter_map(container);
    let inits = spec.init_containers.iter().flatten();
    let inits: Vec<_> = inits.filter_map(container).collect();
    PodSpec {
        node_name: spec.node_name.clone(),
        service_account_name: spec.service_account_name.clone(),
        host_network: spec.host_network,
        containers: containers.collect(),
        init_containers: (!inits.is_empty()).then_some(inits),
        ..PodSpec::default()
    }
}

/// A container with its ports that have names: others are asked about by nobody.
fn container(container: &Container) -> Option<Container> {
    let ports = container.ports.iter().flatten();
    let named: Vec<_> = ports.filter(|port| port.name.is_some()).cloned().collect();
    (!named.is_empty()).then(|| Container {
        name: container.name.clone(),
        restart_policy: container.restart_policy.clone(),
        ports: Some(named),
        ..Container::default()
    })
}

fn status(status: &PodStatus) -> PodStatus {
    let conditions = status.conditions.iter().flatten();
    let ready = conditions.filter(|condition| condition.type_ == "Ready");
    let ready: Vec<_> = ready.cloned().collect();
    PodStatus {
        phase: status.phase.clone(),
        pod_ip: status.pod_ip.clone(),
        pod_ips: status.pod_ips.clone(),
        conditions: (!ready.is_empty()).then_some(ready),
        ..PodStatus::default()
    }
}

/// Reads what [`pack`] wrote.
fn unpack(text: &[u8]) -> Pod {
    serde_json::from_slice(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ambit_kube::read_manifest;

    use super::*;

    fn pod(image: &str, port: &str) -> Held {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: shop, uid: u, labels: {{app: cart}},\n  \
             annotations: {{ambit.mesh/netns: /run/x}}, ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet,\n  \
             name: cart-1, uid: r, controller: true}}]}}\n\
             spec: {{nodeName: n1, serviceAccountName: cart, hostNetwork: true, volumes: [{{name: v, emptyDir: {{}}}}],\n  \
             containers: [{{name: a, image: {image}, ports: [{{containerPort: 80, name: {port}}}, {{containerPort: 81}}]}},\n  \
             {{name: b, image: b}}],\n  \
             initContainers: [{{name: i, image: i, restartPolicy: Always, ports: [{{containerPort: 9, name: init}}]}}]}}\n\
             status: {{phase: Running, podIP: 10.0.0.1, podIPs: [{{ip: 10.0.0.1}}], hostIP: 10.9.9.9,\n  \
             conditions: [{{type: Ready, status: \"True\"}}, {{type: Initialized, status: \"True\"}}]}}\n"
        );
        let mut loaded = read_manifest("p.yaml", &text);
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        Held::new(loaded.objects.remove(0))
    }

    #[test]
    fn of_a_pod_what_somebody_reads_is_kept() {
        let held = pod("a", "http");
        let Object::Pod(kept) = held.located().object else {
            panic!("a pod");
        };
        let meta = &kept.metadata;
        assert_eq!(meta.uid.as_deref(), Some("u"));
        assert_eq!(meta.labels.as_ref().unwrap()["app"], "cart");
        let annotations = meta.annotations.as_ref().unwrap();
        assert_eq!(annotations["ambit.mesh/netns"], "/run/x");
        assert_eq!(meta.owner_references.as_ref().unwrap()[0].name, "cart-1");
        let spec = kept.spec.as_ref().unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("n1"));
        assert_eq!(spec.service_account_name.as_deref(), Some("cart"));
        assert_eq!((spec.host_network, &spec.volumes), (Some(true), &None));
        let ports = |of: &[Container]| -> Vec<String> {
            let ports = of
                .iter()
                .flat_map(|container| container.ports.iter().flatten());
            ports
                .map(|port| format!("{:?} {}", port.name, port.container_port))
                .collect()
        };
        assert_eq!(ports(&spec.containers), ["Some(\"http\") 80"]);
        let inits = spec.init_containers.as_ref().unwrap();
        assert_eq!(ports(inits), ["Some(\"init\") 9"]);
        assert_eq!(inits[0].restart_policy.as_deref(), Some("Always"));
        let status = kept.status.as_ref().unwrap();
        assert_eq!(status.pod_ips.as_ref().unwrap()[0].ip, "10.0.0.1");
        assert_eq!(status.conditions.as_ref().unwrap().len(), 1);
        assert_eq!(status.phase.as_deref(), Some("Running"));
    }

    #[test]
    fn a_pod_differs_where_somebody_could_tell() {
        assert_eq!(pod("a", "http"), pod("another", "http"));
        assert!(!pod("a", "http").says_what(&pod("a", "grpc")));
        assert_ne!(pod("a", "http"), pod("a", "grpc"));
    }
}
