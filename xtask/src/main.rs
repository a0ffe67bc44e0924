//! Repository tools: `cargo run -p xtask -- tidy`.
#![allow(
    clippy::indexing_slicing,
    reason = "indexing a JSON value answers null"
)]

mod charts;
mod docs;
mod graph;
mod licences;
mod sources;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value;

fn main() -> Result<ExitCode> {
    let command = std::env::args().nth(1);
    let problems = match command.as_deref() {
        Some("tidy") => tidy()?,
        other => bail!("usage: xtask tidy (not {other:?})"),
    };
    #[allow(clippy::print_stderr, reason = "a tool that prints what it found")]
    for problem in &problems {
        eprintln!("tidy: {problem}");
    }
    Ok(if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Every rule of the house that a program can check.
fn tidy() -> Result<Vec<String>> {
    let own = metadata(&["--no-deps"])?;
    let all = metadata(&[])?;
    let mut problems = graph::check(&own)?;
    problems.extend(licences::check(&all)?);
    problems.extend(sources::check()?);
    problems.extend(docs::check()?);
    problems.extend(charts::check()?);
    Ok(problems)
}

fn metadata(arguments: &[&str]) -> Result<Value> {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version=1"])
        .args(arguments)
        .output()
        .context("run cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
