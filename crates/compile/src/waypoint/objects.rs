//! Objects whose meaning translations tell: what each gives, to whom, and what is said of it.

use ambit_kube::{Object, ObjectKey, Problem};
use ambit_proto::waypoint::{Backend, BackendPort, Resolution};
use ambit_translate::{ServiceInfo, ServiceKind};

use super::frontend::origin;
use super::status;
use crate::outputs::Output;
use crate::view::View;

/// What an object of a kind that has no store of its own gives.
pub(crate) fn object(view: &View<'_>, key: &ObjectKey) -> Option<Output> {
    let located = view.store.raw(key)?;
    Some(match &located.object {
        Object::Gateway(gateway) => status::gateway(view, key, (gateway, located)),
        _ => return None,
    })
}

/// A service as waypoints of a namespace call it.
pub(super) fn backend(
    view: &View<'_>,
    info: &ServiceInfo,
    _waypoint_namespace: &str,
) -> (Backend, Vec<Problem>) {
    let ports = info.ports.iter().map(|port| BackendPort {
        number: port.number.into(),
        name: port.name.to_string(),
        protocol: port.protocol.into(),
        policy: None,
    });
    let message = Backend {
        origin: Some(origin(view, &info.object)),
        namespace: info.namespace.to_string(),
        name: info.name.to_string(),
        hostname: info.hostname.to_string(),
        ports: ports.collect(),
        resolution: match info.kind {
            ServiceKind::EntryDns | ServiceKind::ExternalName => Resolution::Dns.into(),
            ServiceKind::EntryNone => Resolution::Passthrough.into(),
            ServiceKind::ClusterIp | ServiceKind::Headless | ServiceKind::Entry => {
                Resolution::Static.into()
            }
        },
        ..Backend::default()
    };
    (message, Vec::new())
}
