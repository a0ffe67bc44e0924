use serde_json::json;

use super::*;

fn asked(verb: &str, path: &str, manager: &str, body: Value) -> Asked {
    Asked {
        verb: verb.to_owned(),
        path: path.to_owned(),
        manager: manager.to_owned(),
        force: true,
        body,
    }
}

#[test]
fn a_manager_owns_what_it_applied_last() {
    let mut state = State::default();
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}});
    state.answer(&asked("POST", "/s", "", object)).unwrap();
    let conditions =
        |list: Value| json!({"metadata": {"name": "s"}, "status": {"conditions": list}});
    let (one, two) = (
        json!({"type": "A", "status": "True"}),
        json!({"type": "B", "status": "True"}),
    );
    let at = "/s/s/status";
    let apply = |state: &mut State, manager: &str, list: Value| {
        let answer = state.answer(&asked("APPLY", at, manager, conditions(list)));
        answer.unwrap().1["status"]["conditions"].clone()
    };
    apply(&mut state, "x", json!([one]));
    assert_eq!(apply(&mut state, "y", json!([two])), json!([one, two]));
    assert_eq!(apply(&mut state, "x", json!([])), json!([two]));
}

#[test]
fn versions_are_checked_and_only_changes_count() {
    let mut state = State::default();
    let body = |version: &str| json!({"metadata": {"name": "l", "resourceVersion": version}, "spec": {"a": version}});
    let (_, made) = state.answer(&asked("POST", "/l", "", body(""))).unwrap();
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    assert!(
        state
            .answer(&asked("PUT", "/l/l", "", body(version)))
            .is_ok()
    );
    let stale = state.answer(&asked("PUT", "/l/l", "", body(version)));
    assert_eq!(stale.unwrap_err(), 409);
    let applied = |state: &mut State| {
        let body = json!({"metadata": {"name": "l"}, "spec": {"b": 1}});
        let answer = state.answer(&asked("APPLY", "/l/l", "m", body));
        answer.unwrap().1["metadata"].clone()
    };
    let first = applied(&mut state);
    assert_eq!(first, applied(&mut state));
    assert_eq!(first["generation"], json!(3));
}
