//! Destinations of VirtualService rules: host, port, subset, weight (3.2, 1.12).
//!
//! Owns what a destination that isn't there becomes: a part that is answered
//! with 503, never a part that is left out.

use ambit_kube::{VsDestination, VsDestinationWeight};
use ambit_proto::waypoint::{BackendRef, Invalid, Rewrite};

use super::{Scope, UNUSABLE, headers};
use crate::istio::say::{Fault, Say};
use crate::istio::{codes, destination_rule, hosts};
use crate::{ServiceInfo, ServiceKind};

/// The weighted destinations of a rule; an error is why the rule can't be used.
pub(super) fn weighted(
    say: &mut Say,
    route: &[VsDestinationWeight],
    path: &str,
    scope: &Scope<'_>,
) -> Result<Vec<BackendRef>, String> {
    let several = route.len() > 1;
    let mut total: u64 = 0;
    let mut refs = Vec::new();
    for (at, entry) in route.iter().enumerate() {
        let field = format!("{path}.route[{at}]");
        let Ok(weight) = u32::try_from(entry.weight) else {
            let message = "a weight can't be negative";
            weights(
                say,
                &format!("{field}.weight"),
                &entry.weight.to_string(),
                message,
            );
            return Err(message.to_owned());
        };
        total += u64::from(weight);
        let mut built = reference(
            say,
            &entry.destination,
            &format!("{field}.destination"),
            scope,
        );
        // A single destination gets everything, whatever its weight.
        built.weight = if several { weight } else { 1 };
        let changes = headers::operations(say, entry.headers.as_ref(), &field);
        built.request_headers = changes.request;
        built.response_headers = changes.response;
        built.rewrite = changes.host.map(|hostname| Rewrite {
            hostname,
            path: None,
        });
        // One without weight is never chosen, but it stays in the list: the
        // order of header operations goes by how many are written (3.2).
        refs.push(built);
    }
    if several && total == 0 {
        let message = "no destination has a weight";
        weights(say, &format!("{path}.route"), "0", message);
        return Err(message.to_owned());
    }
    if total > u64::from(u32::MAX) {
        let message = "the weights add up to more than 4294967295";
        weights(say, &format!("{path}.route"), &total.to_string(), message);
        return Err(message.to_owned());
    }
    Ok(refs)
}

fn weights(say: &mut Say, field: &str, value: &str, message: &str) {
    say.error(
        codes::BAD_WEIGHTS,
        Fault {
            field,
            value,
            message: &format!("{message}, so requests of this rule get 503"),
            remedy: "give at least one destination a weight above 0",
        },
    );
}

/// One destination, without weight.
pub(super) fn reference(
    say: &mut Say,
    destination: &VsDestination,
    path: &str,
    scope: &Scope<'_>,
) -> BackendRef {
    let host = hosts::expand(&destination.host, scope.namespace, scope.world);
    let subset = destination.subset.clone().unwrap_or_default();
    let written = destination.port.map_or(0, |port| port.number);
    let Some(service) = scope.world.host(&host, scope.namespace) else {
        say.error(
            codes::NO_DESTINATION,
            Fault {
                field: &format!("{path}.host"),
                value: &destination.host,
                message: "it isn't a service of the mesh, so its share of requests gets 503",
                remedy: "check name and namespace; a host outside the cluster needs a ServiceEntry",
            },
        );
        return BackendRef {
            service: format!("{}/{host}", scope.namespace),
            port: written,
            subset,
            invalid: unusable(format!("no service {host}")),
            ..BackendRef::default()
        };
    };
    let mut built = BackendRef {
        service: service.key(),
        subset,
        ..BackendRef::default()
    };
    match port(&service, written) {
        Some(port) => built.port = port,
        None => {
            say.error(
                codes::NO_PORT,
                Fault {
                    field: &format!("{path}.port.number"),
                    value: &written.to_string(),
                    message: "the service doesn't have this port, so its share of requests gets 503",
                    remedy: "write a port of the Service, not a target port",
                },
            );
            built.port = written;
            built.invalid = unusable(format!("{host} has no port {written}"));
        }
    }
    if !built.subset.is_empty() && !has_subset(&service, &built.subset, scope) {
        say.error(
            codes::NO_SUBSET,
            Fault {
                field: &format!("{path}.subset"),
                value: &built.subset,
                message: "no DestinationRule that holds for the host has this subset, so its share of requests gets 503",
                remedy: "add the subset to the host's DestinationRule in the waypoint's or the service's namespace",
            },
        );
        built.invalid = unusable(format!("{host} has no subset {}", built.subset));
    }
    built
}

fn unusable(reason: String) -> Option<Invalid> {
    Some(Invalid {
        reason,
        status: UNUSABLE,
    })
}

/// The port to call; 0 is the one that the request came to (1.12).
fn port(service: &ServiceInfo, written: u32) -> Option<u32> {
    if written == 0 {
        return Some(match service.ports.as_slice() {
            [only] => only.number.into(),
            _ => 0,
        });
    }
    let open = service.kind == ServiceKind::EntryNone && service.ports.is_empty();
    let known = |port: &crate::PortInfo| u32::from(port.number) == written;
    (open || service.ports.iter().any(known)).then_some(written)
}

fn has_subset(service: &ServiceInfo, subset: &str, scope: &Scope<'_>) -> bool {
    scope
        .waypoints
        .iter()
        .any(|waypoint| destination_rule::has_subset(service, waypoint, subset, scope.world))
}
