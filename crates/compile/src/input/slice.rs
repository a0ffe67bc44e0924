//! What is kept of an EndpointSlice: pods that it points at, and endpoints that are no pods.

use std::net::IpAddr;
use std::sync::Arc;

use ambit_kube::core::EndpointSlice as SliceObject;
use ambit_kube::k8s_openapi::api::discovery::v1::Endpoint as EndpointObject;
use ambit_types::NamespacedName;

use super::parse_ip;

/// An EndpointSlice that belongs to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The service's name; same namespace.
    pub(crate) service: Arc<str>,
    /// TCP ports, by the name of the service's port.
    pub(crate) ports: Box<[(Box<str>, u16)]>,
    /// Pods by name and uid.
    pub(crate) pods: Box<[(NamespacedName, Box<str>)]>,
    /// Everything else that has an address.
    pub(crate) endpoints: Box<[Endpoint]>,
}

/// An endpoint that is no pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// At least one.
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) ready: bool,
}

impl Slice {
    /// None for a slice that gives nothing: of no service, or of names instead of addresses.
    pub(crate) fn new(object: &SliceObject, namespace: &Arc<str>) -> Option<Self> {
        let labels = object.metadata.labels.as_ref()?;
        let service = labels.get("kubernetes.io/service-name")?.as_str().into();
        if object.address_type == "FQDN" {
            return None;
        }
        let ports = object.ports.iter().flatten().filter_map(|port| {
            let tcp = port.protocol.as_deref().unwrap_or("TCP") == "TCP";
            let number = u16::try_from(port.port.filter(|_| tcp)?).ok()?;
            Some((port.name.as_deref().unwrap_or_default().into(), number))
        });
        let (mut pods, mut endpoints) = (Vec::new(), Vec::<Endpoint>::new());
        for endpoint in &object.endpoints {
            if let Some(pod) = pod_of(endpoint, namespace) {
                pods.push(pod);
            } else if let Some(endpoint) = Endpoint::new(endpoint)
                && !endpoints
                    .iter()
                    .any(|known| known.first() == endpoint.first())
            {
                endpoints.push(endpoint);
            }
        }
        Some(Self {
            service,
            ports: ports.collect(),
            pods: pods.into(),
            endpoints: endpoints.into(),
        })
    }

    /// The port of that name.
    pub(crate) fn port(&self, name: &str) -> Option<u16> {
        let found = self.ports.iter().find(|(known, _)| **known == *name);
        found.map(|(_, port)| *port)
    }
}

impl Endpoint {
    /// None when an address can't be parsed, or there is none.
    fn new(object: &EndpointObject) -> Option<Self> {
        let addresses: Option<Box<[_]>> = object.addresses.iter().map(|ip| parse_ip(ip)).collect();
        let ready = object
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready);
        Some(Self {
            addresses: addresses.filter(|addresses| !addresses.is_empty())?,
            ready: ready.unwrap_or(true),
        })
    }

    pub(crate) fn first(&self) -> Option<&IpAddr> {
        self.addresses.first()
    }
}

fn pod_of(endpoint: &EndpointObject, namespace: &Arc<str>) -> Option<(NamespacedName, Box<str>)> {
    let target = endpoint.target_ref.as_ref()?;
    if target.kind.as_deref() != Some("Pod") {
        return None;
    }
    let name = target.name.as_deref().unwrap_or_default();
    let pod = match target.namespace.as_deref() {
        None | Some("") => NamespacedName::new(Arc::clone(namespace), name),
        Some(other) => NamespacedName::new(other, name),
    };
    Some((pod, target.uid.as_deref().unwrap_or_default().into()))
}
