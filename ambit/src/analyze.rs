//! `ambit analyze`: what the reader and the compiler say about manifests, without a mesh.
//!
//! Two things differ from istioctl on purpose: every form of output exits by what was found, and a document that
//! can't be parsed wins over findings in the others.

mod report;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use ambit_compile::{Compiler, Settings};
use ambit_kube::{Change, Code, Problem, Severity};
use ambit_runtime::Env;
use ambit_source::Manifests;

use crate::args::{AnalyzeArguments, Format};
use crate::exit::{Exit, Failure};
use crate::streams::Streams;
use report::{Finding, Paint};

/// Reads, compiles, shows, and says by its exit what was found.
pub(crate) fn run(
    arguments: &AnalyzeArguments,
    env: &dyn Env,
    streams: &mut Streams<'_>,
) -> Result<Exit, Failure> {
    if arguments.recursive.is_some() {
        streams.note("-R has no effect: directories are always read with everything below them");
    }
    if arguments.use_kube == Some(true) {
        return Err(Failure::Usage(
            "a cluster can't be read yet: name files or directories",
        ));
    }
    let changes = read(&arguments.paths, streams)?;
    let settings = Settings {
        revision: arguments.revision.as_str().into(),
        system_namespace: arguments.istio_namespace.as_str().into(),
        ..Settings::default()
    };
    let problems = diagnose(settings, changes);
    let findings: Vec<Finding> =
        report::sorted(problems.iter().filter(|one| is_wanted(one, arguments)));
    show(&findings, arguments, env, streams)?;
    Ok(verdict(&findings, arguments, streams))
}

/// Everything that the files hold.
fn read(paths: &[PathBuf], streams: &mut Streams<'_>) -> Result<Vec<Change>, Failure> {
    let mut manifests = Manifests::default();
    for path in paths {
        if path == Path::new("-") {
            let text = streams.read_input()?;
            manifests.add_text(path, &text);
            continue;
        }
        let listing = ambit_source::list(path);
        if let Some((path, source)) = listing.faults.into_iter().next() {
            return Err(Failure::File { path, source });
        }
        for skipped in &listing.skipped {
            streams.note(&format!(
                "Skipping {}: not .yaml, .yml or .json",
                skipped.display()
            ));
        }
        for file in listing.files.keys() {
            manifests.add_file(file);
        }
    }
    Ok(manifests.changes())
}

/// The reader's problems and the compiler's.
fn diagnose(settings: Settings, changes: Vec<Change>) -> Vec<Problem> {
    let mut compiler = Compiler::new(settings);
    compiler.apply(changes.into_iter().chain([Change::Synced]));
    compiler.diagnostics()
}

/// Whether a problem is about what was asked for.
fn is_wanted(problem: &Problem, arguments: &AnalyzeArguments) -> bool {
    let Some(key) = &problem.key else { return true };
    let namespace = if key.kind == ambit_kube::Kind::Namespace {
        &key.name
    } else {
        &key.namespace
    };
    match &arguments.namespace {
        Some(wanted) => namespace.as_ref() == wanted || namespace.is_empty(),
        None => arguments.all_namespaces || !SYSTEM_NAMESPACES.contains(&namespace.as_ref()),
    }
}

fn show(
    findings: &[Finding],
    arguments: &AnalyzeArguments,
    env: &dyn Env,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let threshold = Severity::from(arguments.output_threshold);
    let shown: Vec<&Finding> = findings
        .iter()
        .filter(|one| one.level >= threshold)
        .collect();
    match arguments.output {
        Format::Json => streams.say_json(&shown)?,
        Format::Yaml => streams.say_yaml(&shown)?,
        Format::Log => {
            let paint = paint(arguments, env);
            for finding in &shown {
                streams.say(&finding.line(paint))?;
            }
            Exit::Ok
        }
    };
    if findings.is_empty() {
        streams.note(&report::clean(
            arguments.namespace.as_deref(),
            &arguments.paths,
        ));
    } else if shown.is_empty() {
        streams.note(&format!(
            "Nothing at {threshold} or above; {} below it not shown",
            findings.len()
        ));
    }
    Ok(())
}

/// Colour, unless it would end up in a file.
fn paint(arguments: &AnalyzeArguments, env: &dyn Env) -> Paint {
    let dumb = env.get("TERM").is_none_or(|term| term == "dumb") || env.get("NO_COLOR").is_some();
    match arguments
        .color
        .unwrap_or_else(|| !dumb && std::io::stdout().is_terminal())
    {
        true => Paint::Levels,
        false => Paint::Nothing,
    }
}

/// How the run ends. What isn't shown counts all the same.
fn verdict(findings: &[Finding], arguments: &AnalyzeArguments, streams: &mut Streams<'_>) -> Exit {
    let unparsable = |one: &Finding| UNPARSABLE.contains(&one.code);
    if !arguments.ignore_unknown && findings.iter().any(unparsable) {
        streams.note("Error: some input can't be parsed (--ignore-unknown goes on without it)");
        return Exit::Unparsable;
    }
    let threshold = Severity::from(arguments.failure_threshold);
    let counts =
        |one: &Finding| one.level >= threshold && !(arguments.ignore_unknown && unparsable(one));
    if findings.iter().any(counts) {
        streams.note(&format!(
            "Error: found something at {threshold} or above; see docs/diagnostics.md"
        ));
        return Exit::Findings;
    }
    Exit::Ok
}

/// Namespaces of the cluster itself, left out unless asked for.
const SYSTEM_NAMESPACES: [&str; 4] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "local-path-storage",
];
/// A document, or a whole file, of which nothing can be made out.
const UNPARSABLE: [Code; 4] = [
    Code::BROKEN_YAML,
    Code::NOT_AN_OBJECT,
    Code::UNREADABLE_FILE,
    Code::FILE_TOO_LARGE,
];
