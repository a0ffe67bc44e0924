//! The objects of a large mesh, and their changes.

use ambit_proto::enrolment::{NodeReport, PodRedirection, Redirection};
use serde_json::{Value, json};

/// How large a mesh is. There are ten pods to a service and fifty to a policy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pods: usize,
}

impl Scale {
    pub(super) const FULL: Self = Self { pods: 10_000 };
    pub(super) const TENTH: Self = Self { pods: 1_000 };

    pub(super) const fn pods(self) -> usize {
        self.pods
    }

    pub(super) const fn services(self) -> usize {
        self.pods / PODS_OF_SERVICE
    }

    pub(super) const fn policies(self) -> usize {
        self.pods / PODS_OF_POLICY
    }
}

/// The objects, and how far their changes have come.
pub(super) struct Mesh {
    scale: Scale,
    /// Forms of objects that there have been.
    forms: usize,
}

/// A change: the object that is committed, and the resource that tells of it.
pub(super) struct Change {
    pub(super) object: Value,
    pub(super) resource: String,
}

impl Mesh {
    pub(super) fn new(scale: Scale) -> Self {
        Self { scale, forms: 0 }
    }

    pub(super) fn scale(&self) -> Scale {
        self.scale
    }

    /// Pods, services and policies.
    pub(super) fn resources(&self) -> usize {
        let scale = self.scale;
        scale.pods() + scale.services() + scale.policies()
    }

    /// Everything, in its first form.
    pub(super) fn objects(&self) -> impl Iterator<Item = Value> + '_ {
        let scale = self.scale;
        let system = std::iter::once(namespace(SYSTEM, false));
        let namespaces = (0..NAMESPACES).map(|at| namespace(&format!("ns{at}"), true));
        let proxies = ["ztunnel", "node-agent"];
        let system_pods = (0..NODES).flat_map(move |node| proxies.map(|of| system_pod(of, node)));
        let services = (0..scale.services()).map(|at| service(at, 0));
        let policies = (0..scale.policies()).map(|at| policy(at, 0));
        let pods = (0..scale.pods()).map(|at| pod(at, 0));
        let few = system.chain(namespaces).chain(system_pods);
        few.chain(services).chain(policies).chain(pods)
    }

    /// Kinds that an API server has to be told of.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Value> + use<> {
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let schema = json!({"type": "object", "properties": {"spec": open, "status": open}});
        std::iter::once(json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "authorizationpolicies.security.istio.io"},
            "spec": {
                "group": "security.istio.io", "scope": "Namespaced",
                "names": {"kind": "AuthorizationPolicy", "plural": "authorizationpolicies"},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}}],
            },
        }))
    }

    /// Its nodes, simulated.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Value> + use<> {
        (0..NODES).map(|node| {
            let name = format!("n{node}");
            json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": {
                    "kubernetes.io/hostname": name, "topology.kubernetes.io/region": "r1",
                    "topology.kubernetes.io/zone": format!("z{}", node % 3)}},
            })
        })
    }

    /// The accounts of its pods.
    pub(super) fn accounts(&self) -> impl Iterator<Item = Value> + use<> {
        let system = ["ztunnel", "node-agent"].map(|name| (SYSTEM.to_owned(), name.to_owned()));
        let services = (0..self.scale.services())
            .map(|at| (format!("ns{}", namespace_of(at)), format!("s{at}")));
        system.into_iter().chain(services).map(|(namespace, name)| {
            json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": name, "namespace": namespace}})
        })
    }

    /// What a node's agent says of its pods.
    pub(super) fn report(&self, node: usize) -> NodeReport {
        let pods = (0..self.scale.pods()).filter(|at| node_of(*at) == node);
        let redirection = Redirection::Enabled.into();
        let line = |at| PodRedirection {
            namespace: format!("ns{}", namespace_of(service_of(at))),
            name: format!("p{at}"),
            uid: format!("uid-p{at}"),
            redirection,
        };
        NodeReport {
            node: format!("n{node}"),
            sequence: 1,
            pods: pods.map(line).collect(),
        }
    }

    /// The next change: of ten, one of a service with its ten workloads, one of
    /// a policy, the others each of one pod.
    pub(super) fn change(&mut self) -> Change {
        // Never the same object twice within a while.
        let at = self.forms * 37;
        match self.forms % 10 {
            3 => {
                self.forms += 1;
                let at = at / 10 % self.scale.services();
                Change {
                    object: service(at, self.forms),
                    resource: format!(
                        "ns{ns}/s{at}.ns{ns}.svc.cluster.local",
                        ns = namespace_of(at)
                    ),
                }
            }
            7 => {
                self.forms += 1;
                let at = at / 10 % self.scale.policies();
                Change {
                    object: policy(at, self.forms),
                    resource: format!("ns{}/a{at}", namespace_of(at)),
                }
            }
            _ => self.change_pod(at % self.scale.pods()),
        }
    }

    /// Another form of one pod.
    pub(super) fn change_pod(&mut self, at: usize) -> Change {
        self.forms += 1;
        let namespace = namespace_of(service_of(at));
        Change {
            object: pod(at, self.forms),
            resource: format!("Kubernetes//Pod/ns{namespace}/p{at}"),
        }
    }
}

fn service_of(pod: usize) -> usize {
    pod / PODS_OF_SERVICE
}

fn node_of(pod: usize) -> usize {
    pod % NODES
}

/// Of a service, and of a policy.
fn namespace_of(at: usize) -> usize {
    at % NAMESPACES
}

fn namespace(name: &str, ambient: bool) -> Value {
    let mut labels = json!({"kubernetes.io/metadata.name": name});
    if ambient {
        labels["istio.io/dataplane-mode"] = json!("ambient");
    }
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn service(at: usize, form: usize) -> Value {
    let name = format!("s{at}");
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": format!("ns{}", namespace_of(at)), "labels": {"app": name}},
        "spec": {
            "type": "ClusterIP",
            // Clear of the addresses that a cluster gives its own services.
            "clusterIP": format!("10.96.{}.{}", 16 + at / 250, at % 250 + 1),
            "selector": {"app": name},
            "ports": [
                // Never the port that it had before: that would be no change.
                {"name": "http", "port": 80, "targetPort": 8080 + form % 50_000, "protocol": "TCP"},
                {"name": "metrics", "port": 9090, "targetPort": 9090, "protocol": "TCP"},
            ],
        },
    })
}

fn policy(at: usize, form: usize) -> Value {
    let namespace = format!("ns{}", namespace_of(at));
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": format!("a{at}"), "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": format!("s{at}")}},
            "action": "ALLOW",
            "rules": [{
                "from": [{"source": {"principals": [
                    format!("cluster.local/ns/{namespace}/sa/s{}", at + NAMESPACES),
                    format!("cluster.local/ns/{namespace}/sa/form-{form}"),
                ]}}],
                "to": [{"operation": {"ports": ["8080", "9090"]}}],
            }],
        },
    })
}

/// As large as pods usually are; most of it concerns no mesh.
fn pod(at: usize, form: usize) -> Value {
    let service = service_of(at);
    let (name, app, node) = (format!("p{at}"), format!("s{service}"), node_of(at));
    let namespace = format!("ns{}", namespace_of(service));
    let ip = format!(
        "10.{}.{}.{}",
        128 + at / 62_500,
        at / 250 % 250,
        at % 250 + 1
    );
    let image = format!("registry.example/{namespace}/{app}:1.{form}");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "uid": format!("uid-{name}"),
            "labels": {"app": app, "version": format!("v{form}"), "pod-template-hash": "5d4f8c7b9"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
                "blockOwnerDeletion": true, "name": format!("{app}-5d4f8c7b9"), "uid": format!("uid-rs-{app}")}],
        },
        "spec": {
            "nodeName": format!("n{node}"), "serviceAccountName": app,
            "containers": [{
                "name": "app", "image": image,
                "ports": [{"containerPort": 8080}, {"containerPort": 9090, "name": "metrics"}],
                "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "LOG_LEVEL", "value": "info"}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
                "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
            }],
            "volumes": [{"name": "token", "projected": {"sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}]}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": 300}],
        },
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "hostIP": format!("192.168.{}.{}", node / 250, node % 250 + 1),
            "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"},
                {"type": "ContainersReady", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [{"name": "app", "image": image, "imageID": "", "ready": true,
                "restartCount": 0, "started": true}],
        },
    })
}

fn system_pod(account: &str, node: usize) -> Value {
    let name = format!("{account}-n{node}");
    let ip = format!("192.168.{}.{}", node / 250, node % 250 + 1);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": SYSTEM, "uid": format!("uid-{name}"), "labels": {"app": account}},
        "spec": {"nodeName": format!("n{node}"), "serviceAccountName": account, "hostNetwork": true,
            "containers": [{"name": account, "image": account}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// Nodes, each with a proxy that is connected.
pub(super) const NODES: usize = 100;
/// Of the proxies and agents.
pub(super) const SYSTEM: &str = "istio-system";
const NAMESPACES: usize = 20;
const PODS_OF_SERVICE: usize = 10;
const PODS_OF_POLICY: usize = 50;
