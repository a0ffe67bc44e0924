//! The forms of manifests that users have (`e2e/fixtures/seeds`), in a mesh with a waypoint: what isn't done as it is
//! written is said with object and field. A file says what it wants in lines `# then: CODE OBJECT FIELD` (for the
//! reader's own problems see `kube`'s test of the same name), and what a waypoint gets of it in `# gives: KIND OBJECT`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ambit_compile::{Compiler, Settings, Snapshot};
use ambit_kube::{Change, Problem, Severity, read_manifest};
use ambit_proto::waypoint::{self as pb, TYPES};
use prost::Message;

/// What a file announces, and what is true of it.
#[derive(Default)]
struct Form {
    wanted: Vec<String>,
    said: Vec<String>,
    gives: Vec<String>,
}

fn announced(text: &str, mark: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(mark));
    lines.map(str::to_owned).collect()
}

fn brief(problem: &Problem) -> String {
    let object = problem
        .key
        .as_ref()
        .map_or_else(|| "-".to_owned(), ToString::to_string);
    let field = problem.field.as_deref().unwrap_or("-");
    format!("{} {object} {field}", problem.code)
}

/// Every waypoint resource by the object that it came from: `Route VirtualService/store/basket`.
fn given(snapshot: &Snapshot) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut note = |kind: &str, origin: Option<&pb::Origin>| {
        if let Some(from) = origin {
            all.insert(format!(
                "{kind} {}/{}/{}",
                from.kind, from.namespace, from.name
            ));
        }
    };
    for (type_url, resources) in TYPES.iter().zip(snapshot.waypoint.iter()) {
        let kind = type_url.rsplit('.').next().unwrap();
        for resource in resources {
            let body = resource.body.clone();
            match kind {
                "Route" => note(kind, pb::Route::decode(body).unwrap().origin.as_ref()),
                "Authorization" => {
                    note(
                        kind,
                        pb::Authorization::decode(body).unwrap().origin.as_ref(),
                    );
                }
                "Authentication" => {
                    note(
                        kind,
                        pb::Authentication::decode(body).unwrap().origin.as_ref(),
                    );
                }
                "Backend" => {
                    for origin in pb::Backend::decode(body).unwrap().policy_origins {
                        note(kind, Some(&origin));
                    }
                }
                _ => {}
            }
        }
    }
    all
}

#[test]
fn every_form_works_or_is_answered() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/fixtures/seeds");
    let mut forms: BTreeMap<String, Form> = BTreeMap::new();
    let mut compiler = Compiler::new(Settings::default());
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        objects.extend(read_manifest(&name, &text).objects);
        let form = forms.entry(name).or_default();
        form.wanted = announced(&text, "# then: ");
        form.gives = announced(&text, "# gives: ");
    }
    compiler.apply(objects.into_iter().map(Change::Apply));
    for problem in compiler.diagnostics() {
        let file = problem.origin.file.to_string();
        // What is merely told needs nothing done.
        let is_told = problem.severity == Severity::Info;
        assert!(is_told || problem.remedy.is_some(), "no remedy: {problem}");
        assert!(problem.origin.line > 0, "no line: {problem}");
        let form = forms
            .get_mut(&file)
            .unwrap_or_else(|| panic!("of no file: {problem}"));
        form.said.push(brief(&problem));
    }
    let given = given(&compiler.snapshot());
    for (name, form) in &mut forms {
        form.said.sort();
        form.wanted.sort();
        assert_eq!(form.said, form.wanted, "{name}: {:#?}", form.said);
        for resource in &form.gives {
            assert!(
                given.contains(resource),
                "{name} gives no {resource}: {given:#?}"
            );
        }
    }
    assert!(forms.len() >= 10, "{} files", forms.len());
}
