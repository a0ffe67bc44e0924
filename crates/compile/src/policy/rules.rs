//! The rules of an AuthorizationPolicy, translated for the node proxy (`control-plane-contract` 4.2, 4.3).
//!
//! A node proxy sees connections, not requests. An ALLOW rule that needs more is left out whole, so that less is
//! allowed. From a DENY rule the HTTP part is left out, so that more is denied; only when nothing else remains does
//! the rule lose its effect, and the policy's status says so.

use std::collections::BTreeSet;

use ambit_kube::{AuthorizationPolicySpec, Condition, Operation, Rule, Source};
use ambit_proto::security::{self, Action, Clause, Match};

use super::Fault;
use super::authorization::L7;

mod values;

use values::Values;

/// The translated rules, and what was left out of them.
pub(super) struct Reading {
    pub(super) rules: Vec<security::Rule>,
    pub(super) l7: Option<L7>,
}

/// Translates all rules; what can't be used becomes a fault.
pub(super) fn read(
    spec: &AuthorizationPolicySpec,
    action: Action,
    namespace: &str,
    faults: &mut Vec<Fault>,
) -> Reading {
    if action == Action::Deny && spec.rules.is_empty() {
        faults.push(Fault {
            field: "spec.rules".to_owned(),
            value: None,
            wrong: "a DENY without rules denies nothing".to_owned(),
            remedy: "write the rules, or one empty rule ({}) to deny everything",
        });
    }
    let mut values = Values { namespace, faults };
    let mut found = BTreeSet::new();
    let mut first = None;
    let mut effective = false;
    let mut rules = Vec::new();
    for (at, rule) in spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{at}]");
        let parts = Parts::read(&path, rule, &mut values);
        if parts.l7.is_empty() {
            rules.push(security::Rule {
                clauses: parts.all_clauses(),
            });
            effective = true;
            continue;
        }
        first.get_or_insert(path);
        found.extend(parts.l7.iter().cloned());
        if action == Action::Deny {
            let clauses = parts.wider_clauses();
            effective |= !clauses.is_empty();
            rules.push(security::Rule {
                clauses: or_never(clauses),
            });
        }
    }
    Reading {
        rules,
        l7: first.map(|field| L7 {
            found,
            no_effect: !effective,
            field,
        }),
    }
}

/// A rule without its HTTP attributes.
struct Parts {
    /// `to`, `from`, then each `when`.
    lists: Vec<Alternatives>,
    /// The HTTP attributes.
    l7: BTreeSet<String>,
}

/// Conditions of which one must hold.
#[derive(Default)]
struct Alternatives {
    matches: Vec<Match>,
    /// One of them consisted of HTTP attributes only: whether the list holds can't be told.
    open: bool,
}

impl Parts {
    fn read(path: &str, rule: &Rule, values: &mut Values<'_>) -> Self {
        let mut l7 = BTreeSet::new();
        let mut lists = Vec::new();
        let (mut to, mut from) = (Alternatives::default(), Alternatives::default());
        for (at, item) in rule.to.iter().enumerate() {
            let path = format!("{path}.to[{at}].operation");
            to.add(operation(&path, &item.operation, values, &mut l7));
        }
        for (at, item) in rule.from.iter().enumerate() {
            let path = format!("{path}.from[{at}].source");
            from.add(source(&path, &item.source, values, &mut l7));
        }
        lists.extend([to, from].into_iter().filter(|list| !list.is_absent()));
        for (at, item) in rule.when.iter().enumerate() {
            let mut list = Alternatives::default();
            list.add(condition(
                &format!("{path}.when[{at}]"),
                item,
                values,
                &mut l7,
            ));
            lists.push(list);
        }
        Self { lists, l7 }
    }

    fn all_clauses(self) -> Vec<Clause> {
        self.lists.into_iter().map(Alternatives::clause).collect()
    }

    /// Clauses that hold wherever the rule as written could hold; where that would be everywhere, those that hold
    /// wherever it surely does. None if there are none of either.
    fn wider_clauses(self) -> Vec<Clause> {
        let (open, closed): (Vec<_>, Vec<_>) = self.lists.into_iter().partition(|list| list.open);
        let kept = if closed.is_empty() { open } else { closed };
        let kept = kept.into_iter().filter(|list| !list.matches.is_empty());
        kept.map(Alternatives::clause).collect()
    }
}

impl Alternatives {
    fn add(&mut self, part: Match) {
        if part == Match::default() {
            self.open = true;
        } else {
            self.matches.push(part);
        }
    }

    fn is_absent(&self) -> bool {
        self.matches.is_empty() && !self.open
    }

    fn clause(self) -> Clause {
        Clause {
            matches: self.matches,
        }
    }
}

/// One clause that never holds stands for none at all, which would always hold.
fn or_never(clauses: Vec<Clause>) -> Vec<Clause> {
    if clauses.is_empty() {
        vec![Clause {
            matches: vec![Match::default()],
        }]
    } else {
        clauses
    }
}

fn source(
    path: &str,
    source: &Source,
    values: &mut Values<'_>,
    l7: &mut BTreeSet<String>,
) -> Match {
    if *source == Source::default() {
        values.gap(
            path,
            "a source without a condition",
            "say whom it is about, or leave it out",
        );
    }
    for (name, list) in [
        ("trustDomains", &source.trust_domains),
        ("notTrustDomains", &source.not_trust_domains),
    ] {
        if let Some(value) = list.first() {
            values.fault(
                &format!("{path}.{name}"),
                value,
                "node proxies have no condition on trust domains, and without it the rule would be another one",
                "write principals that begin with the trust domain, for example cluster.local/*",
            );
        }
    }
    let exclusive = !source.principals.is_empty() || !source.namespaces.is_empty();
    if let Some(account) = source.service_accounts.first().filter(|_| exclusive) {
        values.fault(
            &format!("{path}.serviceAccounts"),
            account,
            "serviceAccounts don't go together with principals or namespaces",
            "use one of them",
        );
    }
    note_l7(
        l7,
        &[
            ("requestPrincipals", &source.request_principals),
            ("notRequestPrincipals", &source.not_request_principals),
            ("remoteIpBlocks", &source.remote_ip_blocks),
            ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
        ],
    );
    let at = |name: &str| format!("{path}.{name}");
    Match {
        namespaces: values.strings(&at("namespaces"), &source.namespaces),
        not_namespaces: values.strings(&at("notNamespaces"), &source.not_namespaces),
        principals: values.principals(&at("principals"), &source.principals),
        not_principals: values.principals(&at("notPrincipals"), &source.not_principals),
        source_ips: values.blocks(&at("ipBlocks"), &source.ip_blocks),
        not_source_ips: values.blocks(&at("notIpBlocks"), &source.not_ip_blocks),
        service_accounts: values.accounts(&at("serviceAccounts"), &source.service_accounts),
        not_service_accounts: values
            .accounts(&at("notServiceAccounts"), &source.not_service_accounts),
        ..Match::default()
    }
}

fn operation(
    path: &str,
    operation: &Operation,
    values: &mut Values<'_>,
    l7: &mut BTreeSet<String>,
) -> Match {
    if *operation == Operation::default() {
        values.gap(
            path,
            "an operation without a condition",
            "say what it is about, or leave it out",
        );
    }
    note_l7(
        l7,
        &[
            ("hosts", &operation.hosts),
            ("notHosts", &operation.not_hosts),
            ("methods", &operation.methods),
            ("notMethods", &operation.not_methods),
            ("paths", &operation.paths),
            ("notPaths", &operation.not_paths),
        ],
    );
    Match {
        destination_ports: values.ports(&format!("{path}.ports"), &operation.ports),
        not_destination_ports: values.ports(&format!("{path}.notPorts"), &operation.not_ports),
        ..Match::default()
    }
}

fn condition(
    path: &str,
    condition: &Condition,
    values: &mut Values<'_>,
    l7: &mut BTreeSet<String>,
) -> Match {
    let (yes, no) = (format!("{path}.values"), format!("{path}.notValues"));
    let (these, none) = (&condition.values, &condition.not_values);
    if these.is_empty() && none.is_empty() {
        values.fault(
            path,
            &condition.key,
            "a condition without values",
            "write values or notValues",
        );
    }
    let mut part = Match::default();
    match condition.key.as_str() {
        "source.ip" => {
            part.source_ips = values.blocks(&yes, these);
            part.not_source_ips = values.blocks(&no, none);
        }
        "source.namespace" => {
            part.namespaces = values.strings(&yes, these);
            part.not_namespaces = values.strings(&no, none);
        }
        "source.principal" => {
            part.principals = values.principals(&yes, these);
            part.not_principals = values.principals(&no, none);
        }
        "destination.ip" => {
            part.destination_ips = values.blocks(&yes, these);
            part.not_destination_ips = values.blocks(&no, none);
        }
        "destination.port" => {
            part.destination_ports = values.ports(&yes, these);
            part.not_destination_ports = values.ports(&no, none);
        }
        key if is_http_attribute(key) => {
            l7.insert(key.to_owned());
        }
        key => values.fault(
            &format!("{path}.key"),
            key,
            "not an attribute of a condition",
            "use source.ip, source.namespace, source.principal, destination.ip, destination.port or an HTTP attribute",
        ),
    }
    part
}

fn note_l7(l7: &mut BTreeSet<String>, lists: &[(&str, &Vec<String>)]) {
    let written = lists.iter().filter(|(_, list)| !list.is_empty());
    l7.extend(written.map(|(name, _)| (*name).to_owned()));
}

/// Attributes that exist, but that a node proxy can't see.
fn is_http_attribute(key: &str) -> bool {
    const NAMES: [&str; 7] = [
        "remote.ip",
        "source.serviceAccount",
        "source.trustDomain",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "connection.sni",
    ];
    let subscripted = ["request.headers[", "request.auth.claims["];
    NAMES.contains(&key)
        || key.starts_with("experimental.")
        || subscripted
            .iter()
            .any(|prefix| key.starts_with(prefix) && key.ends_with(']'))
}
