use super::*;

const OUTPUT: &str = "\
=== RUN   TestMesh
    conformance.go:88: Running conformance tests with:
=== RUN   TestMesh/GatewayModifyListeners
    conformance.go:60: Skipping GatewayModifyListeners: suite does not support Gateway
=== RUN   TestMesh/MeshBasic
=== RUN   TestMesh/MeshBasic/0_request_to_'echo/'
    apply.go:1: 2026-11-21T19:00:00Z: --- not a verdict
=== RUN   TestMesh/MeshConsumerRoute
    conformance.go:60: Skipping MeshConsumerRoute: test explicitly skipped
--- FAIL: TestMesh (14.21s)
    --- SKIP: TestMesh/GatewayModifyListeners (0.01s)
    --- PASS: TestMesh/MeshBasic (1.20s)
        --- PASS: TestMesh/MeshBasic/0_request_to_'echo/' (1.11s)
    --- FAIL: TestMesh/MeshPorts (31.00s)
        --- FAIL: TestMesh/MeshPorts/2_request_to_'echo/' (30.11s)
    --- SKIP: TestMesh/MeshConsumerRoute (0.00s)
FAIL
";

fn test(name: &str, verdict: Verdict) -> Test {
    Test {
        name: name.to_owned(),
        verdict,
        seconds: "1.00".to_owned(),
    }
}

/// As the suite writes it: one profile has no extended tests, and says nothing
/// of features then.
fn report(core: &str, features: &[&str]) -> String {
    let features = features.join(",");
    format!(
        "gatewayAPIChannel: experimental\ngatewayAPIVersion: v1.6.3\nmode: default\n\
         implementation: {{version: v0.1.0}}\nprofiles:\n\
         - name: MESH-GRPC\n  core: {core}\n\
         - name: MESH-HTTP\n  core: {core}\n  extended: {{result: success, statistics: \
         {{Failed: 0, Passed: 7, Skipped: 0}}, supportedFeatures: [{features}]}}\n"
    )
}

const GOOD: &str = "{result: success, statistics: {Failed: 0, Passed: 9, Skipped: 0}}";

fn whole() -> Vec<Test> {
    let mesh = (0..TESTS).map(|n| test(&format!("Mesh{n}"), Verdict::Passed));
    let needs = "suite does not support Gateway".to_owned();
    mesh.chain([test("GatewayX", Verdict::Skipped(needs))])
        .collect()
}

#[test]
fn verdicts_are_read_of_tests_and_not_of_their_cases() {
    let tests = read(OUTPUT);
    let seen: Vec<_> = tests.iter().map(|t| (&*t.name, &t.verdict)).collect();
    let no_gateway = Verdict::Skipped("suite does not support Gateway".to_owned());
    let left_out = Verdict::Skipped("test explicitly skipped".to_owned());
    assert_eq!(
        seen,
        [
            ("GatewayModifyListeners", &no_gateway),
            ("MeshBasic", &Verdict::Passed),
            ("MeshPorts", &Verdict::Failed),
            ("MeshConsumerRoute", &left_out),
        ]
    );
    assert_eq!(tests[2].seconds, "31.00");
}

#[test]
fn a_whole_run_has_no_complaints() {
    let good = report(GOOD, OF_A_MESH);
    assert_eq!(complaints(&whole(), &good).unwrap(), Vec::<String>::new());
    assert_eq!(
        report_name(&good).unwrap(),
        "experimental-v0.1.0-default-report.yaml"
    );
    let page = page(&whole(), &good).unwrap();
    assert!(page.contains("| Mesh3 | passed |") && !page.contains("GatewayX"));
}

#[test]
fn what_failed_or_was_skipped_or_is_missing_is_said() {
    let good = report(GOOD, OF_A_MESH);
    let with = |change: &dyn Fn(&mut Vec<Test>)| {
        let mut tests = whole();
        change(&mut tests);
        complaints(&tests, &good).unwrap().join("; ")
    };
    let said = with(&|tests| tests[0].verdict = Verdict::Failed);
    assert!(said.contains("Mesh0 failed"), "{said}");
    let skipped = Verdict::Skipped("suite does not support MeshX".to_owned());
    let said = with(&|tests| tests[1].verdict = skipped.clone());
    assert!(said.contains("Mesh1 was skipped"), "{said}");
    let said = with(&|tests| drop(tests.remove(0)));
    assert!(said.contains("21 of 22"), "{said}");
    let said = with(&|tests| tests[TESTS].verdict = Verdict::Failed);
    assert!(said.contains("GatewayX"), "{said}");
}

#[test]
fn a_report_that_is_not_clean_is_no_success() {
    let failed = "{result: failure, statistics: {Failed: 1, Passed: 8, Skipped: 0}}";
    let said = complaints(&whole(), &report(failed, OF_A_MESH)).unwrap();
    assert_eq!(said.len(), PROFILES.len(), "{said:?}");
    assert!(said[0].contains("Failed"), "{said:?}");
    let partly = "{result: partial, statistics: {Failed: 0, Passed: 8, Skipped: 1}}";
    assert!(
        !complaints(&whole(), &report(partly, OF_A_MESH))
            .unwrap()
            .is_empty()
    );
    let fewer = &OF_A_MESH[..OF_A_MESH.len() - 1];
    let said = complaints(&whole(), &report(GOOD, fewer)).unwrap();
    assert_eq!(said, ["the report lacks MeshHTTPRouteSchemeRedirect"]);
    let all = report(GOOD, OF_A_MESH);
    let less = all.replace(
        "supportedFeatures",
        "unsupportedFeatures: [X], supportedFeatures",
    );
    let said = complaints(&whole(), &less).unwrap();
    assert_eq!(said, ["the report has X as unsupported"]);
    assert!(complaints(&whole(), "profiles: []").is_err());
}

#[test]
fn the_namespaces_that_wait_are_those_of_the_suite() {
    let file = programs::scenarios().join("cluster/conformance.yaml");
    let objects = crate::manifests::parse(&fs::read_to_string(file).unwrap()).unwrap();
    for name in NAMESPACES {
        let of = |kind: &str, field: &str| {
            let mut all = objects.iter().filter(|o| o["kind"] == kind);
            all.any(|o| o["metadata"][field] == *name)
        };
        assert!(
            of("Namespace", "name") && of("Gateway", "namespace"),
            "{name}"
        );
    }
}
