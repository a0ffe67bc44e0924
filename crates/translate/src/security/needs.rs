//! What a policy needs to see of a request, which a node proxy doesn't.

use ambit_kube::{Action, AuthorizationPolicySpec, Condition, Operation, Source};

/// The first thing of a policy that only a waypoint can judge: its field.
pub(super) fn only_at_waypoint(spec: &AuthorizationPolicySpec) -> Option<String> {
    if matches!(spec.action, Action::Custom | Action::Audit) {
        return Some("spec.action".to_owned());
    }
    for (at, rule) in spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{at}]");
        for (at, from) in rule.from.iter().enumerate() {
            if let Some(name) = of_source(&from.source) {
                return Some(format!("{path}.from[{at}].source.{name}"));
            }
        }
        for (at, to) in rule.to.iter().enumerate() {
            if let Some(name) = of_operation(&to.operation) {
                return Some(format!("{path}.to[{at}].operation.{name}"));
            }
        }
        for (at, when) in rule.when.iter().enumerate() {
            if is_request_key(when) {
                return Some(format!("{path}.when[{at}].key"));
            }
        }
    }
    None
}

fn of_source(source: &Source) -> Option<&'static str> {
    first(&[
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
        ("trustDomains", &source.trust_domains),
        ("notTrustDomains", &source.not_trust_domains),
    ])
}

fn of_operation(operation: &Operation) -> Option<&'static str> {
    first(&[
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ])
}

fn is_request_key(when: &Condition) -> bool {
    !matches!(
        when.key.as_str(),
        "source.ip"
            | "source.namespace"
            | "source.principal"
            | "destination.ip"
            | "destination.port"
    )
}

fn first(lists: &[(&'static str, &Vec<String>)]) -> Option<&'static str> {
    let mut written = lists.iter().filter(|(_, list)| !list.is_empty());
    written.next().map(|(name, _)| *name)
}
