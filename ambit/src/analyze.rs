//! `ambit analyze`: what the reader and the compiler say about a cluster's objects, about manifests, or about a
//! cluster as it would be with them.
//!
//! Without a path the cluster is analysed, with paths these files alone, and with `-k` besides them both; upstream
//! reads the cluster unless it is told not to. Two things differ from istioctl on purpose: every form of output exits
//! by what was found, and a document that can't be parsed wins over findings in the others.

mod cluster;
mod input;
mod report;

use std::io::IsTerminal as _;

use ambit_compile::{Compiler, Settings};
use ambit_kube::{Change, Code, Problem, Severity};
use ambit_runtime::Env;

use crate::args::{AnalyzeArguments, Format};
use crate::exit::{Exit, Failure};
use crate::streams::Streams;
use cluster::Cluster;
use input::Input;
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
    let paths = arguments.all_paths();
    let mut cluster = match arguments.use_kube.unwrap_or(paths.is_empty()) {
        true => Some(Cluster::connect(arguments)?),
        false if paths.is_empty() => {
            return Err(Failure::Usage(
                "name files or directories, or leave out --use-kube=false",
            ));
        }
        false => None,
    };
    let files = Input::of(input::files(&paths, streams)?);
    let live = cluster.as_mut().map(Cluster::read).transpose()?;
    let live = Input::of(live.unwrap_or_default());
    let meant = cluster.as_ref().map(|cluster| cluster.namespace.clone());
    let scope = Scope {
        namespace: arguments.namespace.as_deref(),
        live: meant.as_deref(),
        all: arguments.all_namespaces,
    };
    if let (Some(name), false, true) = (scope.live, scope.all, paths.is_empty())
        && !cluster::has_namespace(&live.changes, name)
    {
        streams.note(&format!("namespace {name} isn't in the cluster"));
        return Ok(Exit::Ok);
    }
    let settings = Settings {
        revision: arguments.revision.as_str().into(),
        system_namespace: arguments.istio_namespace.as_str().into(),
        ..Settings::default()
    };
    let problems = diagnose(settings, live.under(files), cluster.as_mut(), streams);
    let findings: Vec<Finding> = report::sorted(problems.iter().filter(|one| scope.covers(one)));
    let clean = report::clean(&scope, &paths);
    show(&findings, &clean, arguments, env, streams)?;
    Ok(verdict(&findings, arguments, streams))
}

/// The readers' problems and the compiler's.
fn diagnose(
    settings: Settings,
    input: Input,
    cluster: Option<&mut Cluster>,
    streams: &mut Streams<'_>,
) -> Vec<Problem> {
    let given = input.keys();
    let Input {
        changes,
        mut problems,
    } = input;
    let mut compiler = Compiler::new(settings);
    compiler.learn(changes);
    if let Some(cluster) = cluster {
        compiler.derive_learnt();
        let wanted = compiler.wanted().difference(&given).cloned().collect();
        let referred = Input::of(cluster.referred(&wanted, streams));
        compiler.learn(referred.changes);
        let about = |one: &Problem| one.key.as_ref().is_some_and(|key| wanted.contains(key));
        problems.extend(referred.problems.into_iter().filter(about));
    }
    compiler.apply([Change::Problems(problems), Change::Synced]);
    compiler.diagnostics()
}

/// What was asked about.
struct Scope<'a> {
    /// As the arguments say.
    namespace: Option<&'a str>,
    /// Where a cluster is read, the namespace that is meant if none is said.
    live: Option<&'a str>,
    /// All of them.
    all: bool,
}

impl Scope<'_> {
    fn covers(&self, problem: &Problem) -> bool {
        let Some(key) = &problem.key else { return true };
        let namespace = match key.kind {
            ambit_kube::Kind::Namespace => &*key.name,
            _ => &*key.namespace,
        };
        let of_system = SYSTEM_NAMESPACES.contains(&namespace);
        match (self.namespace, self.live) {
            (Some(wanted), _) => namespace == wanted || namespace.is_empty(),
            (None, Some(_)) if report::is_live(problem) && self.all => !of_system,
            (None, Some(meant)) if report::is_live(problem) => {
                namespace == meant || namespace.is_empty()
            }
            (None, _) => self.all || !of_system,
        }
    }
}

fn show(
    findings: &[Finding],
    clean: &str,
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
        streams.note(clean);
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
