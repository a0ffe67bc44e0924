//! The semantics tables of `cases/`, one test per case.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};

use ambit_policy::{
    Action, Attrs, Authorization, Blocked, BlockedWhy, Match, PolicySet, Rule, Scope, Trace,
    Verdict, evaluate, evaluate_with,
};
use ambit_types::{NamespacedName, SpiffeId};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    policies: Vec<Policy>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Policy {
    key: String,
    action: Action,
    #[serde(default)]
    dry_run: bool,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    clause: String,
    #[serde(default)]
    policies: Vec<String>,
    #[serde(default)]
    unknown: Vec<String>,
    #[serde(default)]
    unreadable: Vec<String>,
    #[serde(default)]
    r#match: Option<Match>,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    peer: Option<String>,
    #[serde(default)]
    source: Option<IpAddr>,
    #[serde(default)]
    destination: Option<SocketAddr>,
    want: Want,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Want {
    LetIn(bool),
    Text(String),
}

impl Case {
    /// The verdict, which must be the same with and without a trace.
    fn verdict(&self, set: &PolicySet<'_>) -> (Verdict, Trace) {
        let peer: Option<SpiffeId> = self
            .peer
            .as_ref()
            .map(|principal| format!("spiffe://{principal}").parse().unwrap());
        let attrs = Attrs {
            source_ip: self.source.unwrap_or([10, 0, 0, 1].into()),
            destination: self
                .destination
                .unwrap_or_else(|| "10.0.0.2:80".parse().unwrap()),
            peer: peer.as_ref(),
        };
        let mut trace = Trace::default();
        let verdict = evaluate_with(set, &attrs, &mut trace);
        assert_eq!(verdict, evaluate(set, &attrs), "traced and plain disagree");
        (verdict, trace)
    }
}

fn key(text: &str) -> NamespacedName {
    text.parse().unwrap()
}

fn policy(name: &str, action: Action, dry_run: bool, rules: &[Rule]) -> Authorization {
    Authorization {
        key: key(name),
        scope: Scope::Namespace,
        action,
        rules: rules.to_vec(),
        dry_run,
    }
}

fn run(table: &str, name: &str) {
    let table: Table = serde_saphyr::from_str(table).unwrap();
    let case = table.cases.iter().find(|case| case.name == name).unwrap();
    assert!(!case.clause.is_empty(), "a case cites its clause");
    let known: Vec<_> = table
        .policies
        .iter()
        .map(|one| policy(&one.key, one.action, one.dry_run, &one.rules))
        .collect();
    let rules: Vec<Rule> = case
        .r#match
        .iter()
        .map(one_match)
        .chain(case.rules.clone())
        .collect();
    let own = policy("test/own", Action::Allow, false, &rules);
    let unknown: Vec<_> = case.unknown.iter().map(|name| key(name)).collect();
    let unreadable: Vec<_> = case.unreadable.iter().map(|name| key(name)).collect();

    let mut set = PolicySet::default();
    for name in &case.policies {
        set.push(known.iter().find(|one| one.key == key(name)).unwrap());
    }
    let unknown = unknown.iter().map(|key| (key, BlockedWhy::Unknown));
    let unreadable = unreadable.iter().map(|key| (key, BlockedWhy::Unreadable));
    for (key, why) in unknown.chain(unreadable) {
        set.block(Blocked { key, why });
    }
    match &case.want {
        Want::Text(text) => {
            let (verdict, trace) = case.verdict(&set);
            assert_eq!(verdict.to_string(), *text, "{:#?}", trace.lines);
        }
        Want::LetIn(want) => {
            set.push(&own);
            let (verdict, trace) = case.verdict(&set);
            assert_eq!(verdict.is_allow(), *want, "{:#?}", trace.lines);
        }
    }
}

fn one_match(one: &Match) -> Rule {
    Rule {
        clauses: vec![ambit_policy::Clause {
            matches: vec![one.clone()],
        }],
    }
}

/// One test per named case, and one that no case of the file is left out.
macro_rules! table {
    ($module:ident, $file:literal, [$($case:ident),+ $(,)?]) => {
        mod $module {
            const TABLE: &str = include_str!($file);

            $(#[test]
            fn $case() {
                super::run(TABLE, stringify!($case));
            })+

            #[test]
            fn every_case_is_a_test() {
                let table: super::Table = serde_saphyr::from_str(TABLE).unwrap();
                let in_file: Vec<_> = table.cases.iter().map(|case| case.name.as_str()).collect();
                assert_eq!(in_file, [$(stringify!($case)),+]);
            }
        }
    };
}

table!(
    verdicts,
    "cases/verdicts.yaml",
    [
        nothing_binds,
        deny_matches,
        deny_of_another_allows,
        deny_beats_allow,
        allow_matches,
        allows_are_alternatives,
        no_allow_matches,
        allow_without_rules_denies_everything,
        deny_without_rules_does_nothing,
        rule_without_clauses_always_matches,
        deny_all_denies_plaintext,
        dry_run_deny_decides_nothing,
        dry_run_allow_is_no_allow_policy,
        dry_run_deny_beside_allow,
        strict_refuses_plaintext,
        strict_takes_any_identity,
        strict_beside_allow_for_plaintext,
        unknown_policy_denies,
        unreadable_policy_denies,
        a_deny_that_matches_is_named_before_an_unknown_one,
    ]
);

table!(
    matches,
    "cases/matches.yaml",
    [
        rules_are_alternatives,
        clauses_must_all_hold,
        clauses_that_all_hold,
        matches_are_alternatives,
        clause_without_matches_holds,
        clause_without_matches_beside_a_false_one,
        match_with_all_fields_empty_is_false,
        empty_match_beside_a_true_one,
        fields_must_all_hold,
        fields_that_all_hold,
        empty_field_is_ignored,
        values_of_a_field_are_alternatives,
        no_value_of_a_negative_field_may_match,
        negative_field_without_a_hit,
        positive_and_negative_together,
        principal_exact,
        principal_exact_has_no_scheme,
        principal_exact_of_another_trust_domain,
        principal_exact_is_not_a_prefix,
        principal_prefix,
        principal_prefix_across_parts,
        principal_prefix_too_long,
        principal_suffix,
        principal_suffix_of_another,
        principal_presence,
        not_principal_hit,
        not_principal_miss,
        plaintext_has_no_principal,
        plaintext_matches_no_prefix,
        plaintext_passes_not_principals,
        plaintext_passes_not_principals_exact,
        plaintext_has_no_namespace,
        plaintext_is_in_no_namespace,
        plaintext_passes_not_namespaces,
        plaintext_has_no_account,
        plaintext_passes_not_accounts,
        plaintext_has_an_address,
        namespace_exact,
        namespace_prefix,
        namespace_suffix,
        namespace_presence,
        namespace_of_another,
        not_namespace_hit,
        account_of_any_trust_domain,
        account_of_another_namespace,
        not_account_hit,
        source_outside_the_range,
        not_source_hit,
        bare_address_is_one_address,
        mapped_source_is_v4,
        mapped_range_is_v4,
        v6_source,
        all_of_v6_is_not_v4,
        destination_ip,
        not_destination_ip_hit,
        destination_port_is_the_final_one,
        destination_port_of_another,
    ]
);
