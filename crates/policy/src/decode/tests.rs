use super::*;
use pb::string_match::{MatchType, Presence};
use proptest::prelude::*;

fn wire(one: pb::Match) -> pb::Authorization {
    pb::Authorization {
        name: "policy".into(),
        namespace: "shop".into(),
        rules: vec![pb::Rule {
            clauses: vec![pb::Clause { matches: vec![one] }],
        }],
        ..Default::default()
    }
}

fn text(match_type: Option<MatchType>) -> Vec<pb::StringMatch> {
    vec![pb::StringMatch { match_type }]
}

fn net(address: &[u8], length: u32) -> Vec<pb::Address> {
    vec![pb::Address {
        address: address.to_vec(),
        length,
    }]
}

fn fault(one: pb::Match) -> String {
    Authorization::try_from(wire(one)).unwrap_err().to_string()
}

/// Upstream drops each of these, which widens or empties the match around it
/// (`ztunnel-contract` 4.4, 12.A 11).
#[test]
fn one_unreadable_element_makes_the_policy_unreadable() {
    let cases = [
        (
            pb::Match {
                source_ips: net(&[10, 0, 0], 8),
                ..Default::default()
            },
            "rule 0, sourceIps: an address has 3 bytes, not 4 or 16",
        ),
        (
            pb::Match {
                not_destination_ips: net(&[10, 0, 0, 0], 33),
                ..Default::default()
            },
            "rule 0, notDestinationIps: the prefix length 33 is too long for 10.0.0.0",
        ),
        (
            pb::Match {
                not_principals: text(None),
                ..Default::default()
            },
            "rule 0, notPrincipals: none of exact, prefix, suffix or presence is set",
        ),
        (
            pb::Match {
                principals: text(Some(MatchType::Prefix(String::new()))),
                ..Default::default()
            },
            "rule 0, principals: the text to compare with is empty",
        ),
        (
            pb::Match {
                destination_ports: vec![80, 70_000],
                ..Default::default()
            },
            "rule 0, destinationPorts: 70000 is not a port",
        ),
    ];
    for (one, want) in cases {
        assert_eq!(fault(one), want);
    }
}

#[test]
fn unknown_enums_and_a_missing_name_are_unreadable() {
    let good = wire(pb::Match::default());
    let cases = [
        (
            pb::Authorization {
                scope: 3,
                ..good.clone()
            },
            "unknown scope 3",
        ),
        (
            pb::Authorization {
                action: 2,
                ..good.clone()
            },
            "unknown action 2",
        ),
        (
            pb::Authorization {
                name: String::new(),
                ..good
            },
            "the policy has no name",
        ),
    ];
    for (policy, want) in cases {
        assert_eq!(
            Authorization::try_from(policy).unwrap_err().to_string(),
            want
        );
    }
}

#[test]
fn every_field_arrives() {
    let exact = |t: &str| text(Some(MatchType::Exact(t.into())));
    let account = |name: &str| {
        vec![pb::ServiceAccountMatch {
            namespace: "ns".into(),
            service_account: name.into(),
        }]
    };
    let policy = Authorization::try_from(pb::Authorization {
        scope: pb::Scope::WorkloadSelector.into(),
        action: pb::Action::Deny.into(),
        dry_run: true,
        ..wire(pb::Match {
            namespaces: exact("a"),
            not_namespaces: text(Some(MatchType::Suffix("b".into()))),
            principals: text(Some(MatchType::Presence(Presence {}))),
            not_principals: text(Some(MatchType::Prefix("c".into()))),
            source_ips: net(&[10, 0, 0, 0], 8),
            not_source_ips: net(&[10, 1, 0, 0], 16),
            destination_ips: net(&[0; 16], 0),
            not_destination_ips: net(&[192, 0, 2, 1], 32),
            destination_ports: vec![80],
            not_destination_ports: vec![81],
            service_accounts: account("d"),
            not_service_accounts: account("e"),
            ..Default::default()
        })
    })
    .unwrap();
    assert_eq!(policy.key.to_string(), "shop/policy");
    assert_eq!(policy.scope, Scope::WorkloadSelector);
    assert_eq!(policy.action, Action::Deny);
    assert!(policy.dry_run);
    let one = &policy.rules[0].clauses[0].matches[0];
    assert_eq!(one.namespaces, [StringMatch::exact("a").unwrap()]);
    assert_eq!(one.not_namespaces, [StringMatch::suffix("b").unwrap()]);
    assert_eq!(one.principals, [StringMatch::Presence()]);
    assert_eq!(one.not_principals, [StringMatch::prefix("c").unwrap()]);
    assert_eq!(one.source_ips, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(one.not_source_ips, ["10.1.0.0/16".parse().unwrap()]);
    assert_eq!(one.destination_ips, ["::/0".parse().unwrap()]);
    assert_eq!(one.not_destination_ips, ["192.0.2.1/32".parse().unwrap()]);
    assert_eq!(one.destination_ports, [80]);
    assert_eq!(one.not_destination_ports, [81]);
    assert_eq!(&*one.service_accounts[0].service_account, "d");
    assert_eq!(&*one.not_service_accounts[0].service_account, "e");
}

/// An empty rule, clause or match keeps its place: each level has its own
/// meaning of empty.
#[test]
fn empties_are_kept_at_every_level() {
    let policy = Authorization::try_from(pb::Authorization {
        rules: vec![
            pb::Rule { clauses: vec![] },
            pb::Rule {
                clauses: vec![
                    pb::Clause { matches: vec![] },
                    pb::Clause {
                        matches: vec![pb::Match::default()],
                    },
                ],
            },
        ],
        ..wire(pb::Match::default())
    })
    .unwrap();
    assert!(policy.rules[0].clauses.is_empty());
    assert!(policy.rules[1].clauses[0].matches.is_empty());
    assert_eq!(policy.rules[1].clauses[1].matches, [Match::default()]);
}

proptest! {
    /// Any address and length is either a CIDR that contains its own address,
    /// or unreadable: never a panic, never another range.
    #[test]
    fn ranges_contain_their_address(bytes in prop::collection::vec(any::<u8>(), 0..20), length in 0_u32..200) {
        let one = pb::Match { source_ips: net(&bytes, length), ..Default::default() };
        if let Ok(policy) = Authorization::try_from(wire(one)) {
            let range = policy.rules[0].clauses[0].matches[0].source_ips[0];
            let written = if bytes.len() == 4 {
                IpAddr::from(<[u8; 4]>::try_from(&bytes[..]).unwrap())
            } else {
                IpAddr::from(<[u8; 16]>::try_from(&bytes[..]).unwrap())
            };
            prop_assert!(range.contains(&written) || range.contains(&written.to_canonical()));
        }
    }
}
