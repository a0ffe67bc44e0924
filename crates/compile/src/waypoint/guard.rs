//! The policy by which a service's workloads admit its waypoint only (ADR 0011): a DENY with `notPrincipals`, so that
//! every node proxy enforces it.

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_proto::security::{
    Action, Address, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match,
};
use ambit_proto::workload::Workload;
use ambit_types::NamespacedName;

use super::backend::decoded;
use super::binding::Ask;
use super::gateway::WaypointFact;
use crate::facts::ServiceFact;
use crate::output::AuthorizationResource;
use crate::outputs::{Output, Outputs};
use crate::view::View;

/// The policy of a service; none if it isn't guarded, or has no workload.
///
/// Refused is whoever isn't its waypoint, at the ports that the service leads to, unless it is a workload of the
/// service itself: by its account and its address, since an account may have others too. Probes of kubelets don't
/// reach the node proxy (`ztunnel-contract` 7.1).
pub(crate) fn guard(view: &View<'_>, outputs: &Outputs, service: &Arc<str>) -> Output {
    let fact = view.service_by_key(service).filter(|fact| fact.guarded);
    let Some(fact) = fact else {
        return Output::default();
    };
    let members: Vec<_> = outputs
        .members(service)
        .filter_map(|(resource, _)| decoded(resource))
        .collect();
    if members.is_empty() {
        return Output::default();
    }
    let domain = &*view.store.mesh.trust_domain;
    let mut ports: BTreeSet<u32> = BTreeSet::new();
    let mut accounts = BTreeSet::new();
    let mut addresses: BTreeSet<Vec<u8>> = BTreeSet::new();
    for member in &members {
        let list = member.services.get(&**service);
        ports.extend(
            list.iter()
                .flat_map(|list| &list.ports)
                .map(|port| port.target_port),
        );
        if !member.service_account.is_empty() {
            let (namespace, account) = (&member.namespace, &member.service_account);
            accounts.insert(principal(domain, namespace, account));
        }
        addresses.extend(member.addresses.iter().map(|address| address.to_vec()));
    }
    let mut clauses = vec![clause(vec![Match {
        not_principals: exact(waypoints(domain, &fact)),
        destination_ports: ports.into_iter().collect(),
        ..Match::default()
    }])];
    if !accounts.is_empty() && !addresses.is_empty() {
        clauses.push(clause(vec![
            Match {
                not_principals: exact(accounts),
                ..Match::default()
            },
            Match {
                not_source_ips: addresses.into_iter().map(whole).collect(),
                ..Match::default()
            },
        ]));
    }
    let message = Authorization {
        name: name(&fact),
        namespace: fact.info.namespace.to_string(),
        scope: Scope::WorkloadSelector.into(),
        action: Action::Deny.into(),
        rules: vec![Rule { clauses }],
        ..Authorization::default()
    };
    Output {
        authorizations: vec![AuthorizationResource::new(&message)],
        ..Output::default()
    }
}

/// The names of the policies that guard a workload, in the order of its services.
pub(crate) fn guards_of(view: &View<'_>, message: &Workload) -> Vec<String> {
    let facts = message.services.keys().filter_map(|service| {
        let (namespace, host) = service.split_once('/')?;
        // The facts mark the members when this changes (`ingest::Spread`).
        view.facts.service(namespace, host)
    });
    let guarded = facts.filter(|fact| fact.guarded);
    guarded
        .map(|fact| format!("{}/{}", fact.info.namespace, name(fact)))
        .collect()
}

/// With what the names of these policies begin; users' are moved aside.
pub(crate) const GUARD_PREFIX: &str = "ambit_waypoint_only_";

fn name(fact: &ServiceFact) -> String {
    // A ServiceEntry has several hosts, a Service one; a host belongs to one of them in a namespace.
    format!("{GUARD_PREFIX}{}", fact.info.hostname)
}

/// Who may come: the accounts of its waypoints' pods; of one that isn't there, the account that it would have.
fn waypoints(domain: &str, fact: &ServiceFact) -> BTreeSet<String> {
    let mut bound = fact.binding.bound().peekable();
    if bound.peek().is_none()
        && let Ask::For(NamespacedName { namespace, name }, _) = &fact.binding.ask
    {
        return [principal(domain, namespace, name)].into();
    }
    bound.flat_map(|fact| principals(domain, fact)).collect()
}

/// The identities of a waypoint.
pub(super) fn principals(domain: &str, fact: &WaypointFact) -> impl Iterator<Item = String> {
    let accounts = fact.accounts.iter();
    let all: Vec<_> = accounts
        .map(|account| principal(domain, &fact.gateway.namespace, account))
        .collect();
    all.into_iter()
}

/// As policies write an identity: without its scheme.
fn principal(domain: &str, namespace: &str, account: &str) -> String {
    format!("{domain}/ns/{namespace}/sa/{account}")
}

fn clause(matches: Vec<Match>) -> Clause {
    Clause { matches }
}

pub(super) fn exact(texts: BTreeSet<String>) -> Vec<StringMatch> {
    let texts = texts.into_iter();
    texts
        .map(|text| StringMatch {
            match_type: Some(string_match::MatchType::Exact(text)),
        })
        .collect()
}

fn whole(address: Vec<u8>) -> Address {
    let bits = if address.len() == 4 { 32 } else { 128 };
    Address {
        address,
        length: bits,
    }
}
