use serde_json::json;

use super::*;

const ENTRY: (&str, &str) = ("networking.istio.io", "ServiceEntry");
const POLICY: (&str, &str) = ("security.istio.io", "AuthorizationPolicy");

fn object((group, kind): (&str, &str), spec: Value) -> Value {
    json!({
        "apiVersion": format!("{group}/v1"), "kind": kind,
        "metadata": {"name": "x", "namespace": "shop"}, "spec": spec,
    })
}

fn entry() -> Value {
    let port = json!({"number": 80, "name": "http", "protocol": "HTTP"});
    json!({"hosts": ["a.com"], "resolution": "DNS", "ports": [port]})
}

fn review(operation: &str, (group, kind): (&str, &str), object: Value, old: Value) -> Request {
    let request = json!({
        "uid": "u", "kind": {"group": group, "version": "v1", "kind": kind},
        "resource": {"group": group, "version": "v1", "resource": "things"},
        "namespace": "shop", "operation": operation, "object": object, "oldObject": old,
    });
    serde_json::from_value(request).unwrap()
}

fn created(kind: (&str, &str), object: Value) -> Verdict {
    judge(
        &Settings::default(),
        &review("CREATE", kind, object, Value::Null),
    )
}

#[test]
fn what_is_good_goes_in_silently() {
    let verdict = created(ENTRY, object(ENTRY, entry()));
    assert!(
        verdict.refusals.is_empty() && verdict.warnings.is_empty(),
        "{verdict:?}"
    );
    assert!(verdict.object.is_some());
}

#[test]
fn refusals_say_the_field_and_what_to_do() {
    let mut spec = entry();
    spec["hosts"] = json!(["*"]);
    let verdict = created(ENTRY, object(ENTRY, spec));
    assert_eq!(verdict.reason, "invalid");
    let why = &verdict.refusals[0];
    for part in ["AMB0217", "spec.hosts[0]", "write a DNS name"] {
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn unknown_fields_kinds_and_versions_are_refused() {
    let mut unknown = object(ENTRY, entry());
    unknown["spec"]["hots"] = json!(["b.com"]);
    let mut deep = object(ENTRY, entry());
    deep["spec"]["ports"][0]["colour"] = "blue".into();
    let policy = object(POLICY, json!({"rules": [{"form": ["x"]}]}));
    for (kind, object) in [(ENTRY, unknown), (ENTRY, deep), (POLICY, policy)] {
        let verdict = created(kind, object);
        assert_eq!(verdict.reason, "unknown_field", "{verdict:?}");
    }
    let nobody = ("networking.istio.io", "ServiceEntrance");
    let verdict = created(nobody, object(nobody, entry()));
    assert_eq!(verdict.reason, "unknown_kind");
    let mut version = object(ENTRY, entry());
    version["apiVersion"] = "networking.istio.io/v7".into();
    let mut request = review("CREATE", ENTRY, version, Value::Null);
    request.kind.version = "v7".to_owned();
    assert_eq!(judge(&Settings::default(), &request).reason, "unknown_kind");
}

#[test]
fn the_object_is_of_the_kind_of_the_request() {
    assert_eq!(created(POLICY, object(ENTRY, entry())).reason, "wrong_kind");
    assert_eq!(created(ENTRY, json!({})).reason, "wrong_kind");
    assert_eq!(created(ENTRY, Value::Null).reason, "no_object");
    assert_eq!(created(ENTRY, json!([])).reason, "no_object");
}

#[test]
fn kinds_that_are_not_read_go_in_with_a_word_about_it() {
    for (kind, spec) in [
        (("networking.istio.io", "Gateway"), json!({"servers": []})),
        (("networking.istio.io", "Sidecar"), json!({})),
        (("networking.istio.io", "WorkloadGroup"), json!({})),
    ] {
        let verdict = created(kind, object(kind, spec));
        assert!(verdict.refusals.is_empty(), "{kind:?}: {verdict:?}");
    }
    let gateway = ("networking.istio.io", "Gateway");
    let verdict = created(gateway, object(gateway, json!({"servers": []})));
    assert!(verdict.warnings[0].contains("isn't read"), "{verdict:?}");
}

#[test]
fn the_trial_is_always_refused_in_words_of_its_own() {
    let mut trial = object(ENTRY, entry());
    trial["metadata"]["annotations"] = json!({ALWAYS_REJECT: "true"});
    let verdict = created(ENTRY, trial);
    assert_eq!(verdict.refusals, [ALWAYS_REJECTED]);
}

#[test]
fn what_is_on_its_way_out_or_was_there_before_is_not_held_up() {
    let bad = object(ENTRY, json!({"hosts": []}));
    let mut ending = bad.clone();
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let mut annotated = bad.clone();
    annotated["metadata"]["annotations"] = json!({"a": "b"});
    let judged = |operation, object: &Value, old: &Value| {
        let request = review(operation, ENTRY, object.clone(), old.clone());
        judge(&Settings::default(), &request).refusals.is_empty()
    };
    assert!(!judged("CREATE", &bad, &Value::Null));
    assert!(judged("UPDATE", &ending, &bad));
    assert!(
        judged("UPDATE", &annotated, &bad),
        "only its metadata changes"
    );
    let good = object(ENTRY, entry());
    assert!(!judged("UPDATE", &bad, &good));
    assert!(judged("UPDATE", &good, &bad));
    assert!(judged("DELETE", &Value::Null, &bad));
}

#[test]
fn names_and_namespaces_that_the_server_fills_in_are_not_missed() {
    let mut generated = object(ENTRY, entry());
    generated["metadata"] = json!({"generateName": "entry-"});
    let verdict = created(ENTRY, generated);
    assert!(verdict.refusals.is_empty(), "{verdict:?}");
    let key = verdict.object.unwrap().object.key();
    assert_eq!((&*key.namespace, &*key.name), ("shop", "entry-x"));
}

#[test]
fn an_object_of_a_mebibyte_is_judged() {
    let mut spec = entry();
    let filler = "x".repeat(60);
    let endpoints: Vec<Value> = (0..4000)
        .map(|at| {
            let labels = json!({"a": filler, "b": filler, "c": filler, "d": filler});
            json!({"address": format!("10.1.{}.{}", at / 250, at % 250), "labels": labels})
        })
        .collect();
    spec["resolution"] = "STATIC".into();
    spec["endpoints"] = json!(endpoints);
    let object = object(ENTRY, spec);
    assert!(object.to_string().len() > 1 << 20);
    let verdict = created(ENTRY, object);
    assert!(
        verdict.refusals.is_empty(),
        "{:?}",
        verdict.refusals.first()
    );
}

#[test]
fn nothing_that_a_client_can_send_ends_in_a_panic() {
    let shapes = [
        json!(null),
        json!([]),
        json!({}),
        json!("x"),
        json!(1),
        json!([[]]),
        json!({"a": null}),
        json!(1e300),
        json!({"matchLabels": {"a": {}}}),
        json!([{"source": null}]),
        json!("\u{0}\u{202e}"),
    ];
    let fields = [
        "rules",
        "selector",
        "targetRefs",
        "targetRef",
        "action",
        "provider",
        "hosts",
        "ports",
        "endpoints",
        "addresses",
        "workloadSelector",
        "resolution",
        "address",
        "labels",
        "mtls",
        "portLevelMtls",
        "location",
        "jwtRules",
        "http",
    ];
    let kinds = [
        POLICY,
        ENTRY,
        ("security.istio.io", "PeerAuthentication"),
        ("security.istio.io", "RequestAuthentication"),
        ("networking.istio.io", "WorkloadEntry"),
        ("networking.istio.io", "VirtualService"),
        ("networking.istio.io", "DestinationRule"),
        ("telemetry.istio.io", "Telemetry"),
        ("", ""),
        ("x", "y"),
    ];
    for kind in kinds {
        for shape in &shapes {
            created(kind, object(kind, shape.clone()));
            for field in fields {
                created(kind, object(kind, json!({field: shape})));
            }
            let mut odd = object(kind, json!({}));
            odd["metadata"] = shape.clone();
            created(kind, odd);
        }
    }
}

#[test]
fn what_is_said_among_all_others_becomes_warnings_once() {
    let mut verdict = created(ENTRY, object(ENTRY, entry()));
    let told = Problem {
        code: Code("AMB0212"),
        severity: Severity::Warning,
        key: None,
        origin: verdict.object.as_ref().unwrap().origin.clone(),
        field: Some("spec.hosts".to_owned()),
        value: None,
        message: "taken".to_owned(),
        remedy: None,
    };
    let info = Problem {
        severity: Severity::Info,
        ..told.clone()
    };
    verdict.preview(&[told.clone(), told, info]);
    assert_eq!(verdict.warnings, ["AMB0212 taken (field spec.hosts)"]);
}
