//! No field of a kind of Gateway API is dropped in silence: whatever its types
//! don't have is said, wherever it stands (`docs/diagnostics.md`, AMB0106).

use ambit_kube::read_manifest;
use serde_json::{Value, json};

/// Objects that have every map that their kinds can have, or nearly.
const OBJECTS: &str = include_str!("fixtures/gateway_kinds.json");

/// Pointers of all maps within.
fn maps(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.push(at.to_owned());
            for (key, value) in map {
                maps(value, &format!("{at}/{key}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                maps(item, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// A pointer as a problem writes the field.
fn written(pointer: &str) -> String {
    let mut out = String::new();
    for part in pointer.split('/').skip(1) {
        if part.parse::<usize>().is_ok() {
            out.push_str(&format!("[{part}]"));
        } else {
            out.push_str(if out.is_empty() { "" } else { "." });
            out.push_str(part);
        }
    }
    out
}

/// Maps whose keys are the user's own.
const FREE: [&str; 2] = ["/labels", "/matchLabels"];

#[test]
fn a_field_that_the_types_lack_is_said_wherever_it_stands() {
    let mut places = 0;
    let objects: Vec<Value> = serde_json::from_str(OBJECTS).unwrap();
    for object in objects {
        let clean = read_manifest("a.json", &object.to_string());
        assert!(clean.problems.is_empty(), "{:#?}", clean.problems);
        assert_eq!(clean.objects.len(), 1);
        let mut found = Vec::new();
        maps(&object["spec"], "/spec", &mut found);
        for pointer in found {
            if FREE.iter().any(|free| pointer.ends_with(free)) {
                continue;
            }
            let mut with = object.clone();
            let map = with.pointer_mut(&pointer).and_then(Value::as_object_mut);
            map.unwrap().insert("fromTheFuture".into(), json!({"a": 1}));
            let loaded = read_manifest("a.json", &with.to_string());
            let field = format!("{}.fromTheFuture", written(&pointer));
            let said = loaded.problems.iter().find(|problem| {
                problem.code.to_string() == "AMB0106" && problem.field.as_deref() == Some(&field)
            });
            let said = said.unwrap_or_else(|| panic!("{field}: {:#?}", loaded.problems));
            assert!(said.remedy.is_some(), "{said:?}");
            let key = said.key.as_ref().map(ToString::to_string);
            assert!(key.is_some_and(|key| key.contains('a')), "{said:?}");
            places += 1;
        }
    }
    assert!(places > 100, "{places}");
}
