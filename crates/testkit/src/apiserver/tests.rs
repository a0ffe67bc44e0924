use serde_json::json;

use super::*;

fn asked(verb: &str, path: &str, manager: &str, body: Value) -> Asked {
    let query = [("fieldManager", manager), ("force", "true")];
    Asked {
        verb: verb.to_owned(),
        path: path.to_owned(),
        query: query
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        body,
        ..Asked::default()
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

#[test]
fn a_strategic_patch_merges_lists_by_name() {
    let mut state = State::default();
    let hooks = |list: Value| json!({"metadata": {"name": "c"}, "hooks": list});
    let both = hooks(json!([{"name": "a", "x": {"y": 1}}, {"name": "b"}]));
    state.put("/c/c/c", both);
    let change = hooks(json!([{"name": "a", "x": {"z": 2}}]));
    let patch = |strategic| Asked {
        strategic,
        ..asked("PATCH", "/c/c/c", "", change.clone())
    };
    let (_, merged) = state.answer(&patch(true)).unwrap();
    let want = json!([{"name": "a", "x": {"y": 1, "z": 2}}, {"name": "b"}]);
    assert_eq!(merged["hooks"], want);
    let (_, replaced) = state.answer(&patch(false)).unwrap();
    assert_eq!(replaced["hooks"], change["hooks"]);
}

async fn get(server: &ApiServer, uri: &str) -> Response<AnswerBody> {
    let request = Request::get(uri).body(String::new()).unwrap();
    server.answer(request).await.unwrap()
}

async fn text(answer: Response<AnswerBody>) -> String {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.into()).unwrap()
}

#[tokio::test]
async fn lists_come_in_pages_of_what_is_selected() {
    let server = ApiServer::unbound();
    for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
        let labels = json!({"app": if name == "b" { "y" } else { "x" }});
        let metadata = json!({"name": name, "namespace": format!("n{at}"), "labels": labels});
        server.add(
            "/api/v1/pods",
            json!({"metadata": metadata, "spec": {"nodeName": "n"}}),
        );
    }
    let names = async |query: &str| {
        let answer = text(get(&server, &format!("/api/v1/pods?{query}")).await).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let items = answer["items"].as_array().unwrap().iter();
        let names = items.map(|item| item["metadata"]["name"].as_str().unwrap());
        let next = answer["metadata"]["continue"].as_str().unwrap();
        (names.collect::<Vec<_>>().join(" "), next.to_owned())
    };
    assert_eq!(names("").await.0, "a b c");
    assert_eq!(names("labelSelector=app%3Dx").await.0, "a c");
    assert_eq!(names("labelSelector=app!=x,app").await.0, "b");
    assert_eq!(names("fieldSelector=metadata.name=b").await.0, "b");
    assert_eq!(names("fieldSelector=spec.nodeName!=n").await.0, "");
    let (first, next) = names("limit=2").await;
    assert_eq!(first, "a b");
    let rest = names(&format!("limit=2&continue={}", next.replace('"', "%22"))).await;
    assert_eq!(rest, ("c".to_owned(), String::new()));
    assert_eq!(get(&server, "/apis/a/v1/unknowns").await.status(), 404);
}

#[tokio::test]
async fn a_watch_tells_what_happened_after_its_version_until_it_is_ended() {
    let server = ApiServer::unbound();
    let pod =
        |app: &str| json!({"metadata": {"name": "p", "namespace": "n", "labels": {"app": app}}});
    let version = server.add("/api/v1/pods", pod("x"));
    server.add("/api/v1/pods", pod("y"));
    server.remove("/api/v1/pods", "n", "p");
    let watch = async |from: u64, more: &str| {
        let uri = format!("/api/v1/namespaces/n/pods?watch=1&resourceVersion={from}{more}");
        let answer = get(&server, &uri).await;
        // What happened is told before the end is.
        let mut body = answer.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        server.end_watches();
        assert!(body.frame().await.is_none());
        let lines = String::from_utf8(first.into()).unwrap();
        let lines = lines.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["type"].as_str().unwrap().to_owned()
        });
        lines.collect::<Vec<_>>()
    };
    assert_eq!(watch(version, "").await, ["MODIFIED", "DELETED"]);
    assert_eq!(watch(version, "&labelSelector=app=x").await, ["DELETED"]);
    assert_eq!(watch(0, "&labelSelector=app=y").await, ["ADDED", "DELETED"]);
    server.compact();
    let expired = get(&server, "/api/v1/pods?watch=1&resourceVersion=1").await;
    assert!(text(expired).await.contains("410"));
}

#[tokio::test]
async fn what_is_restored_is_as_it_was_and_no_watch_says_so() {
    let server = ApiServer::unbound();
    let named = |name: &str| json!({"metadata": {"name": name}});
    server.add("/api/v1/nodes", named("old"));
    let old = server.snapshot();
    let version = server.add("/api/v1/nodes", named("new"));
    server.remove("/api/v1/nodes", "", "old");
    server.restore(&old);
    assert_eq!(server.paths(), ["/api/v1/nodes/old"]);
    assert_eq!(server.add("/api/v1/nodes", named("other")), version);
    server.set_down(true);
    let request = Request::get("/api/v1/nodes").body(String::new()).unwrap();
    assert!(server.answer(request).await.is_err());
    server.set_down(false);
    server.trouble_once("LIST", "/nodes", Trouble::Say(403, "not you"));
    let refused = get(&server, "/api/v1/nodes").await;
    assert_eq!(refused.status(), 403);
    assert!(text(refused).await.contains("not you"));
    server.trouble_once("LIST", "/nodes", Trouble::Cut);
    let cut = get(&server, "/api/v1/nodes").await.into_body();
    assert!(cut.collect().await.is_err());
    assert!(
        text(get(&server, "/api/v1/nodes").await)
            .await
            .contains("other")
    );
}
