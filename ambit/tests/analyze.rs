//! `ambit analyze` as somebody runs it: files in, lines and exit codes out.

mod program;

use program::{ambit, ambit_reading, fixture};

#[test]
fn manifests_in_order_are_said_to_be() {
    let run = ambit(&["analyze", &fixture("shop")]);
    assert_eq!((run.code, run.output.as_str()), (0, ""), "{}", run.notes);
    assert!(
        run.notes.contains("Skipping") && run.notes.contains("NOTES.txt"),
        "{}",
        run.notes
    );
    assert!(
        run.notes
            .contains("\u{2714} No validation issues found when analyzing"),
        "{}",
        run.notes
    );
}

#[test]
fn a_slip_in_a_policy_names_everything_and_fails_the_run() {
    let run = ambit(&["analyze", &fixture("broken/typo.yaml")]);
    assert_eq!(run.code, 79, "{}{}", run.output, run.notes);
    let line = run
        .output
        .lines()
        .find(|line| line.contains("AMB0106"))
        .expect("the unknown field");
    assert!(
        line.starts_with("Error [AMB0106] (AuthorizationPolicy gate.shop "),
        "{line}"
    );
    assert!(line.contains("typo.yaml:16) "), "{line}");
    assert!(
        line.contains("field spec.rules[0].from[0].source.principels"),
        "{line}"
    );
    assert!(line.contains("cluster.local/ns/shop/sa/cart"), "{line}");
    assert!(line.ends_with("did you mean `principals`?"), "{line}");
}

#[test]
fn input_that_cannot_be_parsed_has_its_own_exit() {
    let broken = fixture("broken/quote.yaml");
    let run = ambit(&["analyze", &broken]);
    assert_eq!(run.code, 65, "{}{}", run.output, run.notes);
    let line = run
        .output
        .lines()
        .find(|line| line.contains("AMB0101"))
        .expect("the broken document");
    assert!(line.contains("quote.yaml:7"), "{line}");
    // The other document is read all the same.
    assert!(
        run.output.contains("Info [AMB0104]") && run.output.contains("Deployment"),
        "{}",
        run.output
    );
    assert_eq!(ambit(&["analyze", "--ignore-unknown", &broken]).code, 0);
    // A whole directory: what can't be parsed wins over findings.
    assert_eq!(ambit(&["analyze", &fixture("broken")]).code, 65);
    assert_eq!(
        ambit(&["analyze", "--ignore-unknown", &fixture("broken")]).code,
        79
    );
}

#[test]
fn every_form_of_output_has_the_same_exit() {
    for form in ["log", "json", "yaml"] {
        let run = ambit(&["analyze", "-o", form, &fixture("broken/typo.yaml")]);
        assert_eq!(run.code, 79, "{form}");
    }
}

#[test]
fn json_has_the_fields_of_the_contract_and_those_in_the_message() {
    let run = ambit(&["analyze", "-o", "json", &fixture("broken/typo.yaml")]);
    let found: serde_json::Value = serde_json::from_str(&run.output).expect("an array");
    let one = found
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["code"] == "AMB0106")
        .unwrap();
    assert_eq!(one["level"], "Error");
    assert_eq!(one["origin"], "AuthorizationPolicy shop/gate");
    assert!(one["reference"].as_str().unwrap().ends_with("typo.yaml:16"));
    assert!(
        one["documentationUrl"]
            .as_str()
            .unwrap()
            .ends_with("docs/diagnostics.md#amb0106")
    );
    assert_eq!(one["field"], "spec.rules[0].from[0].source.principels");
    assert_eq!(one["document"], 2);
    assert_eq!(one["remedy"], "did you mean `principals`?");
    assert!(one["message"].as_str().unwrap().contains("no such field"));
    let clean = ambit(&["analyze", "-o", "json", &fixture("shop")]);
    assert_eq!((clean.code, clean.output.trim()), (0, "[]"));
}

#[test]
fn thresholds_choose_what_fails_and_what_shows() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n";
    let run = ambit_reading(deployment, &["analyze", "-"]);
    assert_eq!(run.code, 0);
    assert!(
        run.output.starts_with("Info [AMB0104] (-:2) Deployment"),
        "{}",
        run.output
    );
    assert_eq!(
        ambit_reading(deployment, &["analyze", "-", "--failure-threshold", "Info"]).code,
        79
    );
    let run = ambit_reading(
        deployment,
        &[
            "analyze",
            "-",
            "--output-threshold",
            "warning",
            "--failure-threshold",
            "info",
        ],
    );
    assert_eq!(
        (run.code, run.output.as_str()),
        (79, ""),
        "what isn't shown counts"
    );
}

#[test]
fn a_namespace_can_be_picked() {
    let pod = |namespace: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a, namespace: {namespace}}}\nspec: {{prots: []}}\n---\n"
        )
    };
    let text = ["shop", "bank", "kube-system"].map(pod).concat();
    let namespaces = |arguments: &[&str]| {
        let run = ambit_reading(&text, arguments);
        let seen = |namespace: &&str| run.output.contains(&format!("Service a.{namespace} "));
        ["shop", "bank", "kube-system"]
            .into_iter()
            .filter(seen)
            .collect::<Vec<_>>()
    };
    assert_eq!(namespaces(&["analyze", "-"]), ["shop", "bank"]);
    assert_eq!(namespaces(&["analyze", "-", "-n", "bank"]), ["bank"]);
    assert_eq!(
        namespaces(&["analyze", "-", "-A"]),
        ["shop", "bank", "kube-system"]
    );
}

#[test]
fn one_object_in_two_files_names_both() {
    let directory = tempfile::tempdir().unwrap();
    for (file, port) in [("a.yaml", 80), ("b.yaml", 81)] {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}\n"
        );
        std::fs::write(directory.path().join(file), text).unwrap();
    }
    let run = ambit(&["analyze", directory.path().to_str().unwrap()]);
    assert_eq!(run.code, 79);
    let line = run
        .output
        .lines()
        .find(|line| line.contains("AMB0111"))
        .expect("the duplicate");
    assert!(
        line.contains("a.yaml:1") && line.contains("b.yaml:1"),
        "{line}"
    );
}

/// `kubectl get pods,replicasets,namespaces -o yaml`.
#[test]
fn what_was_read_out_of_a_cluster_makes_no_findings() {
    let run = ambit(&["analyze", "-A", "-f", &fixture("dump.yaml")]);
    assert_eq!((run.code, run.output.as_str()), (0, ""), "{}", run.notes);
    // The same annotation, where somebody has written it.
    let text = std::fs::read_to_string(fixture("dump.yaml")).unwrap();
    let written = text.replace("    resourceVersion: \"9\"\n", "");
    let written = written.replace("    creationTimestamp: \"2026-01-01T00:00:00Z\"\n", "");
    let run = ambit_reading(&written, &["analyze", "-A", "-"]);
    for code in ["AMB0104", "AMB0106", "AMB0203"] {
        assert!(run.output.contains(code), "{code}: {}", run.output);
    }
}

#[test]
fn wrong_calls_say_so() {
    for (arguments, code) in [
        (&["analyze"][..], 1),
        (&["analyze", "--use-kube=false"], 64),
        (&["analyse", "x"], 64),
        (&["analyze", "--failure-threshold", "Fatal", "-"], 64),
        (&["analyze", "-n", "a", "-A", "-"], 64),
        (&["analyze", "-k", "-"], 1),
        (&["analyze", "-c", "no/such/file"], 1),
        (&["analyze", "no/such/place"], 1),
        (&["help"], 0),
        (&["version"], 0),
    ] {
        let run = ambit(arguments);
        assert_eq!(run.code, code, "{arguments:?}: {}{}", run.output, run.notes);
        let answer = if code == 0 { &run.output } else { &run.notes };
        assert!(!answer.is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_recursive_flag_is_accepted_and_does_no_harm() {
    assert_eq!(
        ambit(&["analyze", "-R", &fixture("broken/typo.yaml")]).code,
        79
    );
    assert_eq!(
        ambit(&["analyze", "--use-kube=false", &fixture("shop")]).code,
        0
    );
}

#[test]
fn every_code_is_documented() {
    let documentation = include_str!("../../docs/diagnostics.md");
    let sources = [
        include_str!("../../crates/kube/src/problem.rs"),
        include_str!("../../crates/compile/src/codes.rs"),
    ];
    let codes = sources
        .iter()
        .flat_map(|source| source.split("(\"").skip(1))
        .filter_map(|rest| rest.split('"').next());
    let codes: Vec<&str> = codes
        .filter(|code| code.starts_with("AMB") || code.starts_with("IST"))
        .collect();
    assert!(codes.len() > 20, "{codes:?}");
    for code in codes {
        let anchor = format!("<a id=\"{}\"></a>{code} |", code.to_lowercase());
        assert!(documentation.contains(&anchor), "{code}");
    }
}

/// The forms that guides to other meshes show: each that isn't done says what to use.
#[test]
fn the_forms_that_users_have_are_answered() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/fixtures/seeds");
    let run = ambit(&["analyze", seeds]);
    assert_eq!(run.code, 79, "{}{}", run.output, run.notes);
    for (object, remedy) in [
        (
            "(TrafficSplit basket-split.store ",
            "write apiVersion: split.smi-spec.io/v1alpha2",
        ),
        (
            "(ServiceProfile shipping.store ",
            "name it shipping.store.svc.cluster.local",
        ),
        (
            "(HTTPRoute basket-canary.store ",
            "add a parentRef with group \"\" and kind Service",
        ),
        (
            "Gateway (networking.istio.io/v1beta1) front-door.store",
            "gatewayClassName istio-waypoint",
        ),
        (
            "IstioOperator (install.istio.io/v1alpha1) plane",
            "a MeshConfig document",
        ),
        (
            "(Namespace older ",
            "label the namespace or the pod istio.io/dataplane-mode=ambient",
        ),
    ] {
        let line = run.output.lines().find(|line| line.contains(object));
        let line = line.unwrap_or_else(|| panic!("nothing of {object}: {}", run.output));
        assert!(line.contains(remedy), "{line}");
    }
    let errors = run.output.lines().filter(|line| line.starts_with("Error"));
    assert_eq!(errors.count(), 2, "{}", run.output);
}
