use ambit_policy::{Attrs, evaluate};

use super::*;
use crate::policies::Instead;
use crate::{StateConfig, UnknownPolicy};

fn policy(namespace: &str, name: &str, scope: policy_pb::Scope) -> policy_pb::Authorization {
    policy_pb::Authorization {
        name: name.into(),
        namespace: namespace.into(),
        scope: scope.into(),
        action: policy_pb::Action::Deny.into(),
        ..Default::default()
    }
}

/// The policy with a match that can't be read.
fn broken(mut policy: policy_pb::Authorization) -> policy_pb::Authorization {
    let one = policy_pb::Match {
        principals: vec![policy_pb::StringMatch { match_type: None }],
        ..Default::default()
    };
    let clauses = vec![policy_pb::Clause { matches: vec![one] }];
    policy.rules = vec![policy_pb::Rule { clauses }];
    policy
}

/// The policy as a DENY of everything.
fn closed(mut policy: policy_pb::Authorization) -> policy_pb::Authorization {
    policy.rules = vec![policy_pb::Rule::default()];
    policy
}

fn named_policy(policy: policy_pb::Authorization) -> (String, policy_pb::Authorization) {
    (format!("{}/{}", policy.namespace, policy.name), policy)
}

/// Three workloads: one in `shop`, one there that lists `shop/p`, one in `web`.
fn with_workloads(config: StateConfig) -> (StateWriter, StateReader) {
    let (mut writer, reader) = new(config);
    let listing = pb::Workload {
        authorization_policies: vec!["shop/p".into()],
        ..pod("listing", [10, 0, 0, 2])
    };
    let web = pb::Workload {
        namespace: "web".into(),
        ..pod("web", [10, 0, 0, 3])
    };
    let all = [pod("plain", [10, 0, 0, 1]), listing, web];
    writer.apply_addresses(all.map(named).to_vec(), &[]);
    (writer, reader)
}

/// The verdicts for the three.
fn verdicts(reader: &StateReader) -> [String; 3] {
    let view = reader.view();
    ["plain", "listing", "web"].map(|name| {
        let workload = view.workload(&format!("c//Pod/shop/{name}")).unwrap();
        let attrs = Attrs {
            source_ip: [10, 0, 0, 9].into(),
            destination: ([10, 0, 0, 1], 80).into(),
            peer: None,
        };
        evaluate(&view.policies_for(workload), &attrs).to_string()
    })
}

const OPEN: &str = "no allow policies";
const DENIED: &str = "explicitly denied by shop/p";
const UNKNOWN: &str = "explicitly denied by shop/p: this policy is not known here";
const UNREADABLE: &str = "explicitly denied by shop/p: this policy cannot be read";

#[test]
fn scopes_bind_what_they_say() {
    use policy_pb::Scope;
    let cases = [
        (Scope::Global, [DENIED, DENIED, DENIED]),
        (Scope::Namespace, [DENIED, DENIED, OPEN]),
        (Scope::WorkloadSelector, [OPEN, DENIED, OPEN]),
    ];
    for (scope, want) in cases {
        let (mut writer, reader) = with_workloads(StateConfig::default());
        let one = named_policy(closed(policy("shop", "p", scope)));
        assert!(writer.apply_authorizations(vec![one], &[]).is_empty());
        assert_eq!(verdicts(&reader), want, "{scope:?}");
    }
}

#[test]
fn a_change_of_scope_moves_it() {
    use policy_pb::Scope;
    let (mut writer, reader) = with_workloads(StateConfig::default());
    for (scope, want) in [
        (Scope::Global, [DENIED, DENIED, DENIED]),
        (Scope::WorkloadSelector, [OPEN, DENIED, OPEN]),
        (Scope::Namespace, [DENIED, DENIED, OPEN]),
    ] {
        let one = named_policy(closed(policy("shop", "p", scope)));
        writer.apply_authorizations(vec![one], &[]);
        assert_eq!(verdicts(&reader), want, "{scope:?}");
    }
    writer.apply_authorizations(vec![], &["shop/p".into()]);
    assert_eq!(verdicts(&reader), [OPEN, UNKNOWN, OPEN]);
    assert!(writer.view.policies.is_empty());
}

#[test]
fn an_unknown_listed_policy_denies_unless_told_otherwise() {
    let (_writer, reader) = with_workloads(StateConfig::default());
    assert_eq!(verdicts(&reader), [OPEN, UNKNOWN, OPEN]);
    let (_writer, reader) = with_workloads(StateConfig {
        unknown_policy: UnknownPolicy::Skip,
        ..StateConfig::default()
    });
    assert_eq!(verdicts(&reader), [OPEN, OPEN, OPEN]);
}

#[test]
fn a_policy_that_was_never_good_denies_what_it_would_bind() {
    use policy_pb::Scope;
    let cases = [
        (
            i32::from(Scope::Global),
            [UNREADABLE, UNREADABLE, UNREADABLE],
        ),
        (Scope::Namespace.into(), [UNREADABLE, UNREADABLE, OPEN]),
        (Scope::WorkloadSelector.into(), [OPEN, UNREADABLE, OPEN]),
        // Not even the scope can be read: its namespace.
        (77, [UNREADABLE, UNREADABLE, OPEN]),
    ];
    for (scope, want) in cases {
        let (mut writer, reader) = with_workloads(StateConfig::default());
        let mut one = broken(policy("shop", "p", Scope::Global));
        one.scope = scope;
        let rejected = writer.apply_authorizations(vec![named_policy(one)], &[]);
        assert_eq!(rejected.len(), 1);
        assert_eq!(verdicts(&reader), want, "{scope}");
        let problems = reader.view().policy_problems();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].instead, Instead::Deny);
    }
}

#[test]
fn bytes_that_are_no_policy_deny_their_namespace() {
    let (mut writer, reader) = with_workloads(StateConfig::default());
    let garbage = Bytes::from_static(&[0xff; 8]);
    let rejected = writer.apply_authorizations_encoded(vec![("shop/p".into(), garbage)], &[]);
    assert_eq!(rejected.len(), 1);
    assert_eq!(verdicts(&reader), [UNREADABLE, UNREADABLE, OPEN]);
}

#[test]
fn a_policy_keeps_its_last_good_form() {
    use policy_pb::Scope;
    let (mut writer, reader) = with_workloads(StateConfig::default());
    let good = closed(policy("shop", "p", Scope::WorkloadSelector));
    writer.apply_authorizations(vec![named_policy(good.clone())], &[]);
    let wider = broken(policy("shop", "p", Scope::Global));
    let rejected = writer.apply_authorizations(vec![named_policy(wider)], &[]);
    assert_eq!(
        rejected,
        [(
            "shop/p".to_owned(),
            "rule 0, principals: none of exact, prefix, suffix or presence is set".to_owned()
        )]
    );
    assert_eq!(verdicts(&reader), [OPEN, DENIED, OPEN], "scope included");
    let problems = reader.view().policy_problems();
    assert_eq!(problems[0].instead, Instead::LastGood);
    // Twice broken is still the last good form, and a good one ends it.
    let again = broken(policy("shop", "p", Scope::Namespace));
    writer.apply_authorizations(vec![named_policy(again)], &[]);
    assert_eq!(verdicts(&reader), [OPEN, DENIED, OPEN]);
    writer.apply_authorizations(vec![named_policy(policy("shop", "p", Scope::Global))], &[]);
    assert_eq!(
        verdicts(&reader),
        [OPEN, OPEN, OPEN],
        "a DENY without rules"
    );
    assert!(reader.view().policy_problems().is_empty());
}

#[test]
fn removing_an_unreadable_policy_ends_its_denial() {
    let (mut writer, reader) = with_workloads(StateConfig::default());
    let one = broken(policy("shop", "p", policy_pb::Scope::Namespace));
    writer.apply_authorizations(vec![named_policy(one)], &[]);
    writer.apply_authorizations(vec![], &["shop/p".into()]);
    assert_eq!(verdicts(&reader), [OPEN, UNKNOWN, OPEN]);
    assert!(writer.view.policies.is_empty());
}

#[test]
fn an_unreadable_dry_run_decides_nothing() {
    let (mut writer, reader) = with_workloads(StateConfig::default());
    let mut one = broken(policy("shop", "p", policy_pb::Scope::Global));
    one.dry_run = true;
    assert_eq!(
        writer
            .apply_authorizations(vec![named_policy(one)], &[])
            .len(),
        1
    );
    assert_eq!(verdicts(&reader), [OPEN, OPEN, OPEN]);
    assert_eq!(reader.view().policy_problems()[0].instead, Instead::Nothing);
}

#[test]
fn a_policy_must_have_its_resources_name() {
    let (mut writer, reader) = with_workloads(StateConfig::default());
    let one = policy("web", "q", policy_pb::Scope::Namespace);
    let rejected = writer.apply_authorizations(vec![("shop/p".into(), one)], &[]);
    assert_eq!(
        rejected[0].1,
        "the resource is named \"shop/p\", its policy web/q"
    );
    assert_eq!(verdicts(&reader), [UNREADABLE, UNREADABLE, OPEN]);
}

#[test]
fn only_policies_count_up_the_policies() {
    let (mut writer, reader) = with_workloads(StateConfig::default());
    writer.apply_authorizations(vec![], &["shop/unknown".into()]);
    assert_eq!(
        reader.view().versions(),
        Versions {
            addresses: 1,
            policies: 0
        }
    );
    let one = named_policy(policy("shop", "p", policy_pb::Scope::Global));
    writer.apply_authorizations(vec![one], &[]);
    assert_eq!(
        reader.view().versions(),
        Versions {
            addresses: 1,
            policies: 1
        }
    );
}
