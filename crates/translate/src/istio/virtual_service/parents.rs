//! Which frontends a VirtualService binds, and for whom (1.12, 3.1).

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_kube::VirtualServiceSpec;
use ambit_proto::waypoint::Parent;

use crate::istio::say::{Fault, Say};
use crate::istio::{codes, hosts, mesh};
use crate::{ServiceInfo, World};

/// The frontends of one VirtualService.
#[derive(Debug, Default)]
pub(super) struct Parents {
    /// For all clients.
    pub(super) producer: Vec<Parent>,
    /// For clients of the VirtualService's namespace.
    pub(super) consumer: Vec<Parent>,
    /// Namespaces of the waypoints that serve them.
    pub(super) waypoints: Vec<Arc<str>>,
    /// Service ports of all of them.
    pub(super) ports: Vec<u16>,
}

impl Parents {
    pub(super) fn is_empty(&self) -> bool {
        self.producer.is_empty() && self.consumer.is_empty()
    }
}

/// Whether a list of gateways, of the object or of a match, includes mesh traffic.
pub(super) fn for_mesh(gateways: &[String]) -> bool {
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh")
}

/// Finds them; says for each host that binds none why.
pub(super) fn find(
    say: &mut Say,
    spec: &VirtualServiceSpec,
    namespace: &str,
    world: &dyn World,
) -> Parents {
    let mut found = Parents::default();
    if spec.hosts.is_empty() {
        // A delegate; its roots put it in place.
        return found;
    }
    if !for_mesh(&spec.gateways) {
        say.info(
            codes::NOT_FOR_MESH,
            Fault {
                field: "spec.gateways",
                value: &spec.gateways.join(", "),
                message: "it is for gateways only, so it says nothing about mesh traffic",
                remedy: "add `mesh` to the list if it should hold for calls inside the mesh",
            },
        );
        return found;
    }
    let mut bound = BTreeSet::new();
    for (at, host) in spec.hosts.iter().enumerate() {
        let field = format!("spec.hosts[{at}]");
        for service in of_host(say, host, &field, spec, (namespace, world)) {
            if bound.insert(service.key()) {
                bind(say, &service, &field, spec, (namespace, world), &mut found);
            }
        }
    }
    found
}

fn of_host(
    say: &mut Say,
    host: &str,
    field: &str,
    spec: &VirtualServiceSpec,
    (namespace, world): (&str, &dyn World),
) -> Vec<Arc<ServiceInfo>> {
    if host == "*" || host.is_empty() || host.trim_start_matches("*.").contains('*') {
        say.error(
            codes::BAD_HOST,
            Fault {
                field,
                value: host,
                message: "such a host can't be used for mesh traffic",
                remedy: "name the service, or a `*.` pattern of services",
            },
        );
        return Vec::new();
    }
    let full = hosts::expand(host, namespace, world);
    let services = hosts::services(&full, namespace, world);
    if services.is_empty() {
        let meant = format!("{full}.svc.{}", world.mesh().cluster_domain);
        let remedy = if full.split('.').count() == 2 && world.host(&meant, namespace).is_some() {
            format!("write {meant}: only names without a dot are completed")
        } else {
            "check the name; a host outside the cluster needs a ServiceEntry".to_owned()
        };
        let fault = Fault {
            field,
            value: host,
            message: "no service of the mesh has this host, so nothing is routed for it",
            remedy: &remedy,
        };
        if spec.gateways.iter().any(|gateway| gateway != "mesh") {
            say.info(codes::NO_SUCH_HOST, fault);
        } else {
            say.warning(codes::NO_SUCH_HOST, fault);
        }
    }
    services
}

fn bind(
    say: &mut Say,
    service: &ServiceInfo,
    field: &str,
    spec: &VirtualServiceSpec,
    (namespace, world): (&str, &dyn World),
    found: &mut Parents,
) {
    let default = mesh::virtual_service_export(world.mesh());
    let seen_by = |viewer: &str| hosts::visible(&spec.export_to, namespace, viewer, default);
    let waypoints: Vec<_> = service.waypoints.iter().map(|(ns, _)| ns.clone()).collect();
    if waypoints.is_empty() {
        say.warning(
            codes::NO_WAYPOINT,
            Fault {
                field,
                value: &service.hostname,
                message: "no waypoint serves this host, so nothing of it is in force for the host",
                remedy: "label the service or its namespace with istio.io/use-waypoint",
            },
        );
        return;
    }
    let parent = Parent {
        frontend: service.key(),
        port: 0,
    };
    let producer =
        *service.namespace == *namespace || waypoints.iter().any(|ns| **ns == *namespace);
    let seen = if producer {
        waypoints.iter().any(|waypoint| seen_by(waypoint))
    } else {
        seen_by(namespace)
    };
    if !seen {
        say.warning(
            codes::NOT_EXPORTED,
            Fault {
                field: "spec.exportTo",
                value: &spec.export_to.join(", "),
                message: &format!("it isn't shown to the waypoint of {}", service.hostname),
                remedy: "add the waypoint's namespace, or remove exportTo",
            },
        );
        return;
    }
    if producer {
        found.producer.push(parent);
    } else {
        say.info(
            codes::CLIENTS_ONLY,
            Fault {
                field,
                value: &service.hostname,
                message: &format!(
                    "the service is another namespace's, so this holds for clients of {namespace} only"
                ),
                remedy: &format!(
                    "to have it hold for all clients, move it to namespace {}",
                    service.namespace
                ),
            },
        );
        found.consumer.push(parent);
    }
    for waypoint in waypoints {
        if !found.waypoints.contains(&waypoint) {
            found.waypoints.push(waypoint);
        }
    }
    for port in &service.ports {
        if !found.ports.contains(&port.number) {
            found.ports.push(port.number);
        }
    }
}
