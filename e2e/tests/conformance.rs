//! The conformance scenarios of Gateway API for mesh on a mesh of namespaces.

use std::path::Path;

use ambit_e2e::{Options, conformance, programs, scenario};
use anyhow::Result;

#[allow(clippy::print_stdout, reason = "says what holds")]
/// Runs the scenarios of one file, all of them, and fails with all that fail.
fn scenarios(file: &'static str) {
    let mut options = Options::shop();
    options.scenario = programs::scenarios().join("conformance");
    scenario::on(file, options, async |cluster| {
        if file == "tls.yaml" {
            conformance::run_secure(cluster).await?;
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
        let mut failed = Vec::new();
        for scenario in conformance::read(&path.join(file))? {
            let outcome: Result<()> = scenario.run(cluster).await;
            match outcome {
                Ok(()) => println!("holds: {} ({})", scenario.name, scenario.clause),
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
        anyhow::ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(())
    });
}

#[test]
fn mesh() {
    scenarios("mesh.yaml");
}

#[test]
fn matching() {
    scenarios("matching.yaml");
}

#[test]
fn filters() {
    scenarios("filters.yaml");
}

#[test]
fn resilience() {
    scenarios("resilience.yaml");
}

#[test]
fn status() {
    scenarios("status.yaml");
}

#[test]
fn tls() {
    scenarios("tls.yaml");
}
