//! Rules on the text of sources: length, module docs, what may not be written.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Lines of a source file outside of its tests.
const MAX_LINES: usize = 500;

pub(crate) fn check() -> Result<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("a workspace")?;
    let mut files = Vec::new();
    rust_files(root, &mut files)?;
    let mut problems = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        let name = file
            .strip_prefix(root)
            .unwrap_or(&file)
            .display()
            .to_string();
        let is_test = name.contains("/tests") || name.ends_with("tests.rs");
        if !is_test && !text.starts_with("//!") {
            problems.push(format!("{name}: no module doc that says what it owns"));
        }
        let lines = text
            .split("#[cfg(test)]")
            .next()
            .unwrap_or_default()
            .lines()
            .count();
        if !is_test && lines > MAX_LINES && !text.contains("//! Long because") {
            problems.push(format!(
                "{name}: {lines} lines; cut it, or say `//! Long because ...` in its module doc"
            ));
        }
        if text.contains("TODO") && !text.contains("TODO(#") && !name.starts_with("xtask") {
            problems.push(format!("{name}: a TODO without an issue number"));
        }
    }
    for required in [
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "README.md",
        "LICENSE",
        "docs/adr",
    ] {
        if !root.join(required).exists() {
            problems.push(format!("{required} is missing"));
        }
    }
    Ok(problems)
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
