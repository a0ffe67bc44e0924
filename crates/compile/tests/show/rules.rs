//! A rule in one line: clauses, which are AND-ed, joined by `&`; their matches, which are OR-ed, by `|`; the fields of a
//! match, which are AND-ed, by `+`; values, which are OR-ed, by a comma.

use ambit_proto::security::{self, string_match::MatchType};

use super::show_ip;

pub(crate) fn show_rule(rule: &security::Rule) -> String {
    let clauses = rule.clauses.iter().map(|clause| {
        let matches: Vec<_> = clause.matches.iter().map(show_match).collect();
        matches.join(" | ")
    });
    let clauses: Vec<_> = clauses.collect();
    if clauses.is_empty() {
        return "always".to_owned();
    }
    clauses.join(" & ")
}

fn show_match(of: &security::Match) -> String {
    let fields = [
        ("namespaces", strings(&of.namespaces)),
        ("notNamespaces", strings(&of.not_namespaces)),
        ("principals", strings(&of.principals)),
        ("notPrincipals", strings(&of.not_principals)),
        ("sourceIps", blocks(&of.source_ips)),
        ("notSourceIps", blocks(&of.not_source_ips)),
        ("destinationIps", blocks(&of.destination_ips)),
        ("notDestinationIps", blocks(&of.not_destination_ips)),
        ("ports", numbers(&of.destination_ports)),
        ("notPorts", numbers(&of.not_destination_ports)),
        ("serviceAccounts", accounts(&of.service_accounts)),
        ("notServiceAccounts", accounts(&of.not_service_accounts)),
    ];
    let fields = fields.iter().filter(|(_, values)| !values.is_empty());
    let fields: Vec<_> = fields
        .map(|(name, values)| format!("{name}={}", values.join(",")))
        .collect();
    if fields.is_empty() {
        return "(empty)".to_owned();
    }
    fields.join(" + ")
}

fn strings(of: &[security::StringMatch]) -> Vec<String> {
    let shown = of.iter().map(|one| match one.match_type.as_ref().unwrap() {
        MatchType::Exact(text) => text.clone(),
        MatchType::Prefix(text) => format!("{text}*"),
        MatchType::Suffix(text) => format!("*{text}"),
        MatchType::Presence(_) => "*".to_owned(),
    });
    shown.collect()
}

fn blocks(of: &[security::Address]) -> Vec<String> {
    let shown = of
        .iter()
        .map(|one| format!("{}/{}", show_ip(&one.address), one.length));
    shown.collect()
}

fn numbers(of: &[u32]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

fn accounts(of: &[security::ServiceAccountMatch]) -> Vec<String> {
    let shown = of
        .iter()
        .map(|one| format!("{}/{}", one.namespace, one.service_account));
    shown.collect()
}
