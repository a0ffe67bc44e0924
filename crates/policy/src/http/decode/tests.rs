use super::*;

fn origin() -> Option<pb::Origin> {
    Some(pb::Origin {
        namespace: "shop".to_owned(),
        name: "p".to_owned(),
        ..pb::Origin::default()
    })
}

fn with_rule(rule: pb::AuthorizationRule) -> String {
    let wire = pb::Authorization {
        origin: origin(),
        rules: vec![rule],
        ..pb::Authorization::default()
    };
    HttpAuthorization::try_from(wire).unwrap_err().to_string()
}

fn operation(operation: pb::Operation) -> pb::AuthorizationRule {
    pb::AuthorizationRule {
        to: vec![operation],
        index: 2,
        ..pb::AuthorizationRule::default()
    }
}

fn condition(when: pb::When) -> pb::AuthorizationRule {
    pb::AuthorizationRule {
        when: vec![when],
        ..pb::AuthorizationRule::default()
    }
}

#[test]
fn errors_name_the_field() {
    use pb::string_match::Kind;
    let text = |kind| pb::StringMatch {
        kind: Some(kind),
        ignore_case: false,
    };
    assert_eq!(
        with_rule(operation(pb::Operation {
            ports: vec![70_000],
            ..pb::Operation::default()
        })),
        "rules[2].to.operation.ports: 70000 is not a port"
    );
    assert_eq!(
        with_rule(operation(pb::Operation {
            hosts: vec![text(Kind::Regex("a.*".to_owned()))],
            ..pb::Operation::default()
        })),
        "rules[2].to.operation.hosts: \"a.*\": authorization has no regular expressions"
    );
    assert_eq!(
        with_rule(operation(pb::Operation {
            paths: vec![pb::PathPattern {
                kind: Some(pb::path_pattern::Kind::Template("/{**}/{*}".to_owned())),
            }],
            ..pb::Operation::default()
        })),
        "rules[2].to.operation.paths: no operator may follow {**}"
    );
    assert_eq!(
        with_rule(condition(pb::When {
            key: Some(pb::when::Key::Header("a b".to_owned())),
            values: vec![text(Kind::Exact("x".to_owned()))],
            ..pb::When::default()
        })),
        "rules[0].when: \"a b\" is not a header name"
    );
    assert_eq!(
        with_rule(condition(pb::When {
            key: Some(pb::when::Key::Attribute("source.ip".to_owned())),
            values: vec![text(Kind::Exact("10.0.0.1".to_owned()))],
            ..pb::When::default()
        })),
        "rules[0].when: the condition has no values"
    );
}

#[test]
fn what_a_policy_needs() {
    let read = |wire| HttpAuthorization::try_from(wire).map(|p| p.key.to_string());
    assert_eq!(
        read(pb::Authorization::default()),
        Err(UnreadableHttp::Name)
    );
    let wire = pb::Authorization {
        origin: origin(),
        action: pb::AuthorizationAction::Custom.into(),
        ..pb::Authorization::default()
    };
    assert_eq!(read(wire), Err(UnreadableHttp::Provider));
    let wire = pb::Authorization {
        origin: origin(),
        action: 9,
        ..pb::Authorization::default()
    };
    assert_eq!(read(wire), Err(UnreadableHttp::Action(9)));
    let wire = pb::Authorization {
        origin: origin(),
        targets: vec![pb::Target {
            frontend: "cart".to_owned(),
            ..pb::Target::default()
        }],
        ..pb::Authorization::default()
    };
    assert!(matches!(
        read(wire),
        Err(UnreadableHttp::Target { index: 0, .. })
    ));
}
