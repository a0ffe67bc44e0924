//! BackendTLSPolicy and XBackendTrafficPolicy as part of a service's `Backend`.
//!
//! Owns where in a `Backend` a policy of one port, or of all, has to stand so
//! that the proxy finds it whatever subset is asked for.

use ambit_proto::waypoint::{
    Backend, BackendPort, Invalid, Rule, SubsetPort, TrafficPolicy, retry_budget,
};

use super::{tls, traffic};
use crate::{ServiceInfo, World};

/// Puts what the policies of a service's namespace say into its `Backend`,
/// where nothing else has said it. Call it when DestinationRules are merged.
///
/// TLS that was asked for and can't be had makes the port `invalid` (503): it
/// never falls back to plain text (2.7). Says nothing; the policies' own units
/// report ([`super::backend_tls_policy`], [`super::backend_traffic_policy`]).
pub fn apply_backend_policies(backend: &mut Backend, service: &ServiceInfo, world: &dyn World) {
    if let Some(found) = traffic::of_service(service, world) {
        backend.policy_origins.push(found.origin);
        if let Some(budget) = found.budget {
            everywhere(backend, &|policy| {
                policy
                    .retry_budget
                    .get_or_insert(ambit_proto::waypoint::RetryBudget {
                        kind: Some(retry_budget::Kind::Window(budget)),
                    });
            });
        }
        if let Some(session) = found.session {
            let rule = backend.default_rule.get_or_insert_with(Rule::default);
            rule.session.get_or_insert(session);
        }
    }
    let applied = tls::of_service(service, world);
    for found in &applied {
        if !backend.policy_origins.contains(&found.origin) {
            backend.policy_origins.push(found.origin.clone());
        }
    }
    let first = applied.first();
    let same = applied.len() == service.ports.len()
        && applied
            .iter()
            .all(|one| Some(&one.tls) == first.map(|f| &f.tls));
    match first {
        Some(first) if same => everywhere(backend, &|policy| secure(policy, first)),
        _ => {
            for found in &applied {
                at_port(backend, service, found.port, &|policy| {
                    secure(policy, found)
                });
            }
        }
    }
}

fn secure(policy: &mut TrafficPolicy, found: &tls::Applied) {
    if policy.tls.is_some() || policy.invalid.is_some() {
        return;
    }
    match &found.tls {
        Ok(tls) => policy.tls = Some(tls.clone()),
        Err(reason) => {
            policy.invalid = Some(Invalid {
                reason: reason.clone(),
                status: 503,
            });
        }
    }
}

/// Every place that the proxy may take a policy from.
fn everywhere(backend: &mut Backend, change: &dyn Fn(&mut TrafficPolicy)) {
    change(backend.policy.get_or_insert_with(TrafficPolicy::default));
    let ports = backend.ports.iter_mut();
    ports
        .filter_map(|port| port.policy.as_mut())
        .for_each(change);
    for subset in &mut backend.subsets {
        subset.policy.iter_mut().for_each(change);
        let ports = subset.ports.iter_mut();
        ports
            .filter_map(|port| port.policy.as_mut())
            .for_each(change);
    }
}

/// Every place for one port, made where it isn't there: a port's policy stands
/// for the whole, so that it begins as a copy.
fn at_port(
    backend: &mut Backend,
    service: &ServiceInfo,
    number: u16,
    change: &dyn Fn(&mut TrafficPolicy),
) {
    let number = u32::from(number);
    let whole = backend.policy.clone().unwrap_or_default();
    if !backend.ports.iter().any(|port| port.number == number) {
        let known = service.ports.iter().find(|p| u32::from(p.number) == number);
        backend.ports.extend(known.map(|port| BackendPort {
            number,
            name: port.name.to_string(),
            protocol: port.protocol.into(),
            policy: None,
        }));
    }
    let ports = backend.ports.iter_mut();
    for port in ports.filter(|port| port.number == number) {
        change(port.policy.get_or_insert_with(|| whole.clone()));
    }
    for subset in &mut backend.subsets {
        let there = subset.ports.iter().any(|port| port.number == number);
        if let (false, Some(policy)) = (there, &subset.policy) {
            let policy = Some(policy.clone());
            subset.ports.push(SubsetPort { number, policy });
        }
        let ports = subset.ports.iter_mut();
        for port in ports.filter(|port| port.number == number) {
            change(port.policy.get_or_insert_with(TrafficPolicy::default));
        }
    }
}
