//! The forms of manifests that users have (`e2e/fixtures/seeds`): each is read, or answered with a field and what to
//! use. A file says what it wants in lines `# want: CODE field`.

use std::path::Path;

use ambit_kube::{Loaded, Object, read_manifest};

fn read(name: &str, text: &str) -> (Loaded, Vec<String>, Vec<String>) {
    let loaded = read_manifest(name, text);
    let brief = |problem: &ambit_kube::Problem| {
        format!(
            "{} {}",
            problem.code,
            problem.field.as_deref().unwrap_or("-")
        )
    };
    let mut said: Vec<String> = loaded.problems.iter().map(brief).collect();
    let wanted = text
        .lines()
        .filter_map(|line| line.strip_prefix("# want: "));
    let mut wanted: Vec<String> = wanted.map(str::to_owned).collect();
    said.sort();
    wanted.sort();
    (loaded, said, wanted)
}

#[test]
fn every_form_is_read_or_answered() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/fixtures/seeds");
    let mut files = 0;
    let mut documents = 0;
    for entry in std::fs::read_dir(&directory).expect("the fixtures are there") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let (loaded, said, wanted) = read(&name, &text);
        assert_eq!(said, wanted, "{name}: {:#?}", loaded.problems);
        for problem in &loaded.problems {
            assert!(problem.remedy.is_some(), "{name}: no remedy: {problem}");
            assert!(problem.origin.line > 0, "{name}: no line: {problem}");
        }
        let broken = loaded
            .objects
            .iter()
            .any(|one| matches!(one.object, Object::Broken(_)));
        assert!(!broken, "{name}: a policy couldn't be read");
        files += 1;
        documents += loaded.objects.len() + loaded.problems.len();
    }
    assert!(
        files >= 8 && documents >= 26,
        "{files} files, {documents} documents"
    );
}
