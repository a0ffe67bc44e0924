use std::collections::BTreeMap;
use std::path::Path;

use ambit_kube::{Change, Code, Object, Severity};

use super::Manifests;

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

fn service(name: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

fn gate(head: &str, action: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{{head}}}\nspec: {{action: {action}}}\n"
    )
}

/// One word per change: `+` applied, `-` deleted, `!` the codes of the problems.
fn brief(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| match change {
            Change::Apply(located) => {
                let broken = if matches!(located.object, Object::Broken(_)) {
                    "broken "
                } else {
                    ""
                };
                format!("+{broken}{} @{}", located.object.key(), located.origin)
            }
            Change::Delete(key) => format!("-{key}"),
            Change::Problems(problems) => {
                let codes: Vec<&str> = problems
                    .iter()
                    .map(|problem| problem.code.as_str())
                    .collect();
                format!("!{}", codes.join(" "))
            }
            other => format!("{other:?}"),
        })
        .collect()
}

/// Adds a text and says what changed.
fn add(manifests: &mut Manifests, path: &str, text: &str) -> Vec<String> {
    manifests.add_text(Path::new(path), text);
    brief(&manifests.changes())
}

#[test]
fn only_what_changed_is_told() {
    let mut set = Manifests::default();
    let both = format!("{}---\n{}", namespace("shop"), namespace("bank"));
    assert_eq!(
        add(&mut set, "a.yaml", &both),
        [
            "+Namespace bank @a.yaml:5",
            "+Namespace shop @a.yaml:1",
            "!"
        ]
    );
    assert_eq!(add(&mut set, "a.yaml", &both), [""; 0]);
    assert_eq!(
        add(&mut set, "a.yaml", &namespace("shop")),
        ["-Namespace bank"]
    );
    set.remove_file(Path::new("a.yaml"));
    assert_eq!(brief(&set.changes()), ["-Namespace shop"]);
}

#[test]
fn an_object_that_moves_to_another_file_is_not_deleted() {
    let mut set = Manifests::default();
    add(&mut set, "a.yaml", &namespace("shop"));
    set.remove_file(Path::new("a.yaml"));
    assert_eq!(
        add(&mut set, "b.yaml", &namespace("shop")),
        ["+Namespace shop @b.yaml:1"]
    );
}

#[test]
fn the_first_of_two_documents_is_in_force_whatever_comes_first() {
    for order in [["a.yaml", "b.yaml"], ["b.yaml", "a.yaml"]] {
        let mut set = Manifests::default();
        for path in order {
            let port = if path == "a.yaml" { "80" } else { "81" };
            set.add_text(Path::new(path), &service("cart", port));
        }
        let changes = set.changes();
        assert_eq!(
            brief(&changes),
            ["+Service cart.shop @a.yaml:1", "!AMB0111"]
        );
        let Some(Change::Problems(problems)) = changes.last() else {
            panic!("{changes:?}")
        };
        assert_eq!(problems[0].severity, Severity::Error);
        assert!(
            problems[0].message.contains("a.yaml:1") && problems[0].message.contains("b.yaml:1")
        );
        set.remove_file(Path::new("a.yaml"));
        assert_eq!(brief(&set.changes()), ["+Service cart.shop @b.yaml:1", "!"]);
    }
}

#[test]
fn a_document_that_turns_bad_keeps_its_last_good_form() {
    for (bad, why) in [
        (service("cart", "web"), "AMB0107 AMB0123"),
        (service("cart", "\"80"), "AMB0101 AMB0123"),
        ("kind: [".to_owned(), "AMB0101 AMB0123"),
        ("nothing yet".to_owned(), "AMB0102 AMB0123"),
    ] {
        let mut set = Manifests::default();
        add(
            &mut set,
            "a.yaml",
            &format!("{}---\n{}", service("cart", "80"), namespace("shop")),
        );
        let told = add(
            &mut set,
            "a.yaml",
            &format!("{bad}\n---\n{}", namespace("shop")),
        );
        assert_eq!(told.last().unwrap(), &format!("!{why}"), "{bad}");
        assert!(
            told.iter().all(|word| !word.starts_with('-')),
            "{bad}: {told:?}"
        );
        // Still there when another file changes, and gone when its document is.
        assert_eq!(
            add(&mut set, "b.yaml", &namespace("bank")),
            ["+Namespace bank @b.yaml:1"]
        );
        let told = add(&mut set, "a.yaml", &namespace("shop"));
        assert!(
            told.contains(&"-Service cart.shop".to_owned()),
            "{bad}: {told:?}"
        );
        assert_eq!(told.last().unwrap(), "!", "{bad}");
    }
}

#[test]
fn a_policy_that_turns_bad_is_told_as_broken() {
    let mut set = Manifests::default();
    add(
        &mut set,
        "a.yaml",
        &gate("name: gate, namespace: shop", "DENY"),
    );
    let told = add(
        &mut set,
        "a.yaml",
        &gate("name: gate, namespace: shop", "DENI"),
    );
    assert_eq!(
        told,
        [
            "+broken AuthorizationPolicy gate.shop @a.yaml:1",
            "!AMB0107"
        ]
    );
    let told = add(
        &mut set,
        "a.yaml",
        &gate("name: gate, namespace: shop", "\"DENY"),
    );
    assert_eq!(
        told,
        [
            "+broken AuthorizationPolicy gate.shop @a.yaml:2",
            "!AMB0101"
        ]
    );
}

#[test]
fn a_policy_that_loses_its_name_is_taken_for_the_one_that_was_there() {
    let mut set = Manifests::default();
    let unnamed = gate("namespace: shop", "DENY");
    add(
        &mut set,
        "a.yaml",
        &gate("name: gate, namespace: shop", "DENY"),
    );
    assert_eq!(add(&mut set, "a.yaml", &unnamed), ["!AMB0108 AMB0123"]);
    // Never good: it closes its namespace.
    let told = add(&mut set, "b.yaml", &unnamed);
    assert_eq!(
        told[0],
        "+broken AuthorizationPolicy (unnamed 1 of b-yaml).shop @b.yaml:1"
    );
}

#[test]
fn a_file_that_cannot_be_read_keeps_everything() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.yaml");
    std::fs::write(&path, namespace("shop")).unwrap();
    let mut set = Manifests::default();
    set.add_file(&path);
    set.changes();
    std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    set.add_file(&path);
    assert_eq!(brief(&set.changes()), ["!AMB0121 AMB0123"]);
    std::fs::write(
        &path,
        vec![b'#'; usize::try_from(crate::MAX_FILE_BYTES).unwrap() + 1],
    )
    .unwrap();
    set.add_file(&path);
    let changes = set.changes();
    let Change::Problems(problems) = &changes[0] else {
        panic!("{changes:?}")
    };
    assert_eq!(problems[0].code, Code::FILE_TOO_LARGE);
    std::fs::remove_file(&path).unwrap();
    set.add_file(&path);
    assert_eq!(brief(&set.changes()), ["-Namespace shop", "!"]);
}

/// Any history ends as a look at the files that there are: objects, and problems in their order.
#[test]
fn any_history_ends_as_a_first_look() {
    let mut state: u64 = 7;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    let mut set = Manifests::default();
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut objects: BTreeMap<String, String> = BTreeMap::new();
    let mut problems = Vec::new();
    for _ in 0..300 {
        let path = format!("{}.yaml", random(4));
        if random(5) == 0 {
            set.remove_file(Path::new(&path));
            files.remove(&path);
        } else {
            let documents = (0..random(4)).map(|_| match random(2) {
                0 => namespace(&format!("n{}", random(4))),
                _ => service(&format!("s{}", random(4)), &format!("8{}", random(2))),
            });
            let text = documents.collect::<Vec<_>>().join("---\n");
            set.add_text(Path::new(&path), &text);
            files.insert(path, text);
        }
        if random(3) == 0 {
            continue;
        }
        for change in set.changes() {
            match change {
                Change::Apply(located) => {
                    let key = located.object.key().to_string();
                    objects.insert(key, format!("{located:?}"));
                }
                Change::Delete(key) => {
                    assert!(objects.remove(&key.to_string()).is_some(), "{key}");
                }
                Change::Problems(now) => problems = now,
                other => panic!("{other:?}"),
            }
        }
        let mut first = Manifests::default();
        for (path, text) in &files {
            first.add_text(Path::new(path), text);
        }
        let mut there = BTreeMap::new();
        let mut wrong = Vec::new();
        for change in first.changes() {
            match change {
                Change::Apply(located) => {
                    let key = located.object.key().to_string();
                    there.insert(key, format!("{located:?}"));
                }
                Change::Problems(now) => wrong = now,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(objects, there);
        assert_eq!(problems, wrong);
    }
}
