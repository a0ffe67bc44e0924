//! Pages that name the test that shows each row, as ‹name›: every such name is
//! a case of a semantics table or conformance scenario, or a test function.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Where cases and test functions are.
const PLACES: &[&str] = &[
    "crates",
    "e2e",
    "node-agent",
    "cni",
    "waypoint",
    "ztunnel",
    "istiod-lite",
    "ambit",
];
const PAGES: &[&str] = &[
    "docs/acceptance.md",
    "docs/waypoint.md",
    "docs/waypoint-easy-to-get-wrong.md",
];

pub(crate) fn check() -> Result<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("a workspace")?;
    let mut known = BTreeSet::new();
    for place in PLACES {
        collect(&root.join(place), &mut known)?;
    }
    let mut problems = Vec::new();
    for page in PAGES {
        let text = fs::read_to_string(root.join(page)).with_context(|| format!("read {page}"))?;
        problems.extend(unknown(page, &text, &known));
    }
    Ok(problems)
}

/// Names of the page that no test has.
fn unknown(page: &str, text: &str, known: &BTreeSet<String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for name in line.split('‹').skip(1) {
            match name.split_once('›') {
                Some((name, _)) if known.contains(name) => {}
                Some((name, _)) => {
                    problems.push(format!("{page}:{}: no test is called {name:?}", number + 1))
                }
                None => problems.push(format!("{page}:{}: ‹ without ›", number + 1)),
            }
        }
    }
    problems
}

fn collect(dir: &Path, known: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let extension = path.extension().unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, known)?;
        } else if extension == "rs" {
            functions(&fs::read_to_string(&path)?, known);
        } else if extension == "yaml" {
            cases(&fs::read_to_string(&path)?, known);
        }
    }
    Ok(())
}

/// Functions under `#[test]` or `#[tokio::test]`.
fn functions(text: &str, known: &mut BTreeSet<String>) {
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= line.contains("test");
            continue;
        }
        let function = line.strip_prefix("async ").unwrap_or(line);
        if let (true, Some(rest)) = (is_test, function.strip_prefix("fn ")) {
            known.extend(rest.split_once('(').map(|(name, _)| name.to_owned()));
        }
        is_test = is_test && line.starts_with("//");
    }
}

/// Cases of tables: a list item that begins with its name and cites a clause, or is written in one line.
fn cases(text: &str, known: &mut BTreeSet<String>) {
    let mut lines = text.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("- name: ") {
            if lines.peek().is_some_and(|next| next.starts_with("clause:")) {
                known.insert(name.trim_matches('"').to_owned());
            }
        } else if let Some(rest) = line.strip_prefix("- {name: ") {
            known.extend(
                rest.split_once(", clause: ")
                    .map(|(name, _)| name.trim_matches('"').to_owned()),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_where_tests_have_them() {
        let mut known = BTreeSet::new();
        functions("#[test]\nfn one() {}\nfn two() {}\n", &mut known);
        cases(
            "- name: a case, with a comma\n  clause: 1\n- name: no case\n- {name: short, clause: \"1\"}\n",
            &mut known,
        );
        assert!(unknown("p", "‹one› ‹a case, with a comma› ‹short›", &known).is_empty());
        assert_eq!(unknown("p", "‹two› ‹no case›\n‹short", &known).len(), 3);
    }
}
