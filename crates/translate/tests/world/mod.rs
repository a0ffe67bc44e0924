//! A mesh in memory, for tests of translations: answers [`World`]'s questions
//! from manifests alone.
//!
//! Simpler than the compiler's, and so bounded: labels `istio.io/use-waypoint`
//! on a Service, a ServiceEntry or a Namespace name a waypoint of the same
//! namespace (or of `istio.io/use-waypoint-namespace`), which is taken as
//! bound; pods are behind a waypoint that their own label names.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(
    dead_code,
    reason = "each test program that shares this uses a part of it"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::core::{ObjectMeta, Service};
use ambit_kube::{Kind, Located, Object, ObjectKey, Problem, Resolution, ServiceEntry};
use ambit_proto::waypoint::Protocol;
use ambit_translate::{
    Claim, MeshInfo, PortInfo, Referent, Referrer, SelectedWorkload, ServiceInfo, ServiceKind,
    WaypointInfo, World, gateway_api,
};

/// Objects and nothing else.
pub(crate) struct TestWorld {
    objects: Vec<Located<Object>>,
    mesh: MeshInfo,
    /// What the reader found.
    pub(crate) problems: Vec<Problem>,
}

impl TestWorld {
    /// Reads manifests; what can't be read is in `problems`.
    pub(crate) fn from_yaml(text: &str) -> Self {
        let loaded = ambit_kube::read_manifest("test.yaml", text);
        let config = loaded
            .objects
            .iter()
            .find_map(|located| match &located.object {
                Object::MeshConfig(config) => Some(config.spec.clone()),
                _ => None,
            })
            .unwrap_or_default();
        let mesh = MeshInfo {
            trust_domain: text_or(config.trust_domain.as_deref(), "cluster.local"),
            trust_domain_aliases: config
                .trust_domain_aliases
                .iter()
                .map(|alias| alias.as_str().into())
                .collect(),
            root_namespace: text_or(config.root_namespace.as_deref(), "istio-system"),
            cluster_domain: "cluster.local".into(),
            config: Arc::new(config),
        };
        Self {
            objects: loaded.objects,
            mesh,
            problems: loaded.problems,
        }
    }

    /// All objects, in the order of the manifests.
    pub(crate) fn all(&self) -> &[Located<Object>] {
        &self.objects
    }

    /// One object, which must be there.
    pub(crate) fn object_named(&self, kind: Kind, namespace: &str, name: &str) -> Located<Object> {
        self.object(&ObjectKey::new(kind, namespace, name))
            .unwrap_or_else(|| {
                panic!(
                    "no {kind} {namespace}/{name}; the reader says {:#?}",
                    self.problems
                )
            })
    }

    /// The services of all objects.
    pub(crate) fn services(&self) -> Vec<Arc<ServiceInfo>> {
        let mut services = Vec::new();
        for located in &self.objects {
            match &located.object {
                Object::Service(service) => services.push(Arc::new(self.of_service(service))),
                Object::ServiceEntry(entry) => {
                    services.extend(self.of_entry(entry).into_iter().map(Arc::new));
                }
                _ => {}
            }
        }
        services
    }

    fn of_service(&self, service: &Service) -> ServiceInfo {
        let meta = &service.metadata;
        let spec = service.spec.clone().unwrap_or_default();
        let kind = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
            (Some("ExternalName"), _) => ServiceKind::ExternalName,
            (_, Some("None")) => ServiceKind::Headless,
            _ => ServiceKind::ClusterIp,
        };
        let ports = spec.ports.unwrap_or_default();
        let ports = ports.iter().map(|port| {
            port_info(
                port.port,
                port.name.as_deref().unwrap_or_default(),
                port.app_protocol.as_deref(),
            )
        });
        let (namespace, name) = names(meta);
        ServiceInfo {
            object: ObjectKey::new(Kind::Service, &*namespace, &*name),
            hostname: format!("{name}.{namespace}.svc.cluster.local").into(),
            ports: ports.collect(),
            kind,
            annotations: annotations(meta),
            waypoints: self.bound(meta),
            namespace,
            name,
        }
    }

    fn of_entry(&self, entry: &ServiceEntry) -> Vec<ServiceInfo> {
        let (namespace, name) = names(&entry.metadata);
        let spec = &entry.spec;
        let kind = match spec.resolution {
            Resolution::None => ServiceKind::EntryNone,
            Resolution::Static => ServiceKind::Entry,
            _ => ServiceKind::EntryDns,
        };
        let ports: Vec<PortInfo> = spec
            .ports
            .iter()
            .map(|port| {
                let number = i32::try_from(port.number).unwrap();
                let declared = Some(port.protocol.as_str()).filter(|text| !text.is_empty());
                port_info(number, &port.name, declared)
            })
            .collect();
        let of_host = |host: &String| ServiceInfo {
            object: ObjectKey::new(Kind::ServiceEntry, &*namespace, &*name),
            namespace: Arc::clone(&namespace),
            name: Arc::clone(&name),
            hostname: host.as_str().into(),
            ports: ports.clone(),
            kind,
            annotations: annotations(&entry.metadata),
            waypoints: self.bound(&entry.metadata),
        };
        spec.hosts.iter().map(of_host).collect()
    }

    fn bound(&self, meta: &ObjectMeta) -> Vec<(Arc<str>, Arc<str>)> {
        let (namespace, _) = names(meta);
        let labels = |meta: &ObjectMeta| meta.labels.clone().unwrap_or_default();
        let mut found = labels(meta);
        if !found.contains_key(USE) {
            let space = self.object(&ObjectKey::new(Kind::Namespace, "", &*namespace));
            found = space
                .and_then(|located| located.object.metadata().map(labels))
                .unwrap_or_default();
        }
        match found.get(USE) {
            None => Vec::new(),
            Some(name) if name == "none" => Vec::new(),
            Some(name) => {
                let other = found.get("istio.io/use-waypoint-namespace");
                let space = other.map_or(&*namespace, |other| other.as_str());
                vec![(space.into(), name.as_str().into())]
            }
        }
    }
}

impl World for TestWorld {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<ServiceInfo>> {
        let key = ObjectKey::new(Kind::Service, namespace, name);
        self.services().into_iter().find(|one| one.object == key)
    }

    fn service_entry(&self, namespace: &str, name: &str) -> Vec<Arc<ServiceInfo>> {
        let key = ObjectKey::new(Kind::ServiceEntry, namespace, name);
        let mut services = self.services();
        services.retain(|one| one.object == key);
        services
    }

    fn host(&self, hostname: &str, client_namespace: &str) -> Option<Arc<ServiceInfo>> {
        let mut services = self.services();
        services.retain(|service| *service.hostname == *hostname);
        let own = services
            .iter()
            .position(|service| *service.namespace == *client_namespace);
        (!services.is_empty()).then(|| services.swap_remove(own.unwrap_or(0)))
    }

    fn hosts_under(&self, suffix: &str, _client_namespace: &str) -> Vec<Arc<ServiceInfo>> {
        let suffix = format!(".{suffix}");
        let mut services = self.services();
        services.retain(|service| service.hostname.ends_with(&suffix));
        services
    }

    fn namespace_exists(&self, namespace: &str) -> bool {
        self.objects.iter().any(|located| {
            let key = located.object.key();
            *key.namespace == *namespace || (key.kind == Kind::Namespace && *key.name == *namespace)
        })
    }

    fn granted(&self, from: &Referrer<'_>, to: &Referent<'_>) -> bool {
        self.objects(Kind::ReferenceGrant, to.namespace)
            .iter()
            .any(|located| match &located.object {
                Object::ReferenceGrant(grant) => {
                    grant.spec.from.iter().any(|source| {
                        source.group == from.group
                            && source.kind == from.kind
                            && source.namespace == from.namespace
                    }) && grant.spec.to.iter().any(|target| {
                        target.group == to.group
                            && target.kind == to.kind
                            && target.name.as_deref().is_none_or(|name| name == to.name)
                    })
                }
                _ => false,
            })
    }

    fn config_map(&self, namespace: &str, name: &str, key: &str) -> Option<Arc<str>> {
        match self
            .object(&ObjectKey::new(Kind::ConfigMap, namespace, name))?
            .object
        {
            Object::ConfigMap(map) => map.data.get(key).map(|text| text.as_str().into()),
            _ => None,
        }
    }

    fn secret(&self, namespace: &str, name: &str, key: &str) -> Option<Arc<[u8]>> {
        match self
            .object(&ObjectKey::new(Kind::Secret, namespace, name))?
            .object
        {
            Object::Secret(secret) => secret.value(key).map(Into::into),
            _ => None,
        }
    }

    fn objects(&self, kind: Kind, namespace: &str) -> Vec<Located<Object>> {
        let mut found: Vec<_> = self
            .objects
            .iter()
            .filter(|located| {
                let key = located.object.key();
                key.kind == kind && *key.namespace == *namespace
            })
            .cloned()
            .collect();
        found.sort_by_key(|located| located.object.key().name);
        found
    }

    fn claims(&self, kind: Kind, namespace: &str, service: &ObjectKey) -> Vec<Claim> {
        let routes = self.objects(kind, namespace).into_iter();
        let claims = routes.flat_map(|route| gateway_api::claims(&route.object));
        claims
            .filter(|(of, _)| of == service)
            .map(|(_, claim)| claim)
            .collect()
    }

    fn object(&self, key: &ObjectKey) -> Option<Located<Object>> {
        let mut objects = self.objects.iter();
        objects
            .find(|located| located.object.key() == *key)
            .cloned()
    }

    fn namespaces_with(&self, kind: Kind) -> Vec<Arc<str>> {
        let mut found: Vec<Arc<str>> = self
            .objects
            .iter()
            .filter(|located| located.object.kind() == kind)
            .map(|located| located.object.key().namespace.to_string().into())
            .collect();
        found.sort();
        found.dedup();
        found
    }

    fn waypoint(&self, namespace: &str, name: &str) -> Option<Arc<WaypointInfo>> {
        let key = ObjectKey::new(Kind::Gateway, namespace, name);
        let Object::Gateway(gateway) = self.object(&key)?.object else {
            return None;
        };
        let class = gateway.spec.gateway_class_name.as_str();
        ["istio-waypoint", "ambit-waypoint"]
            .contains(&class)
            .then(|| {
                Arc::new(WaypointInfo {
                    namespace: namespace.into(),
                    name: name.into(),
                    class: class.into(),
                })
            })
    }

    fn selected(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<SelectedWorkload> {
        let pods = self.objects(Kind::Pod, namespace).into_iter();
        pods.filter_map(|located| {
            let meta = located.object.metadata()?.clone();
            let own = meta.labels.clone().unwrap_or_default();
            let fits = labels
                .iter()
                .all(|(key, value)| own.get(key) == Some(value));
            let (_, name) = names(&meta);
            fits.then(|| SelectedWorkload {
                uid: format!("Kubernetes//Pod/{namespace}/{name}").into(),
                behind: self.bound(&meta).into_iter().next(),
            })
        })
        .collect()
    }

    fn mesh(&self) -> &MeshInfo {
        &self.mesh
    }
}

fn names(meta: &ObjectMeta) -> (Arc<str>, Arc<str>) {
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    (namespace.into(), text_or(meta.name.as_deref(), ""))
}

fn annotations(meta: &ObjectMeta) -> Vec<(Arc<str>, Arc<str>)> {
    let annotations = meta.annotations.clone().unwrap_or_default();
    annotations
        .iter()
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect()
}

fn text_or(text: Option<&str>, default: &str) -> Arc<str> {
    text.unwrap_or(default).into()
}

fn port_info(number: i32, name: &str, declared: Option<&str>) -> PortInfo {
    PortInfo {
        number: u16::try_from(number).unwrap(),
        name: name.into(),
        app_protocol: declared.map(Into::into),
        protocol: protocol(number, name, declared),
    }
}

/// `waypoint-contract` 1.8.
fn protocol(number: i32, name: &str, declared: Option<&str>) -> Protocol {
    let prefix = name.split('-').next().unwrap_or_default();
    let word = declared.unwrap_or(prefix).to_ascii_lowercase();
    // The name `grpc-web` has a dash of its own.
    if declared.is_none() && name.to_ascii_lowercase().starts_with("grpc-web") {
        return Protocol::GrpcWeb;
    }
    match word.as_str() {
        "kubernetes.io/h2c" | "http2" => Protocol::Http2,
        "kubernetes.io/ws" | "http" | "http_proxy" => Protocol::Http,
        "grpc" => Protocol::Grpc,
        "grpc-web" => Protocol::GrpcWeb,
        "kubernetes.io/wss" | "https" | "tls" => Protocol::Tls,
        "tcp" | "udp" | "mongo" | "redis" | "mysql" => Protocol::Tcp,
        _ if [25, 53, 3306, 27017].contains(&number) => Protocol::Tcp,
        _ => Protocol::Auto,
    }
}

const USE: &str = "istio.io/use-waypoint";
