//! How a finding is written.

use std::path::PathBuf;

use ambit_kube::{Code, Origin, Problem, Severity};
use serde::Serialize;

use super::Scope;

/// A diagnostic in the form of `cli-install-observability-contract` 2.1. The fields after `documentationUrl` are
/// ours: what a program would otherwise have to take out of the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    pub(super) code: Code,
    pub(super) level: Severity,
    /// `Kind namespace/name`; empty when it isn't known whose document it is.
    origin: String,
    /// `file:line`; empty for an object of the cluster.
    reference: String,
    message: String,
    documentation_url: String,
    document: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    /// `Kind name.namespace file:line`.
    #[serde(skip)]
    place: String,
}

/// Whether levels are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Nothing,
    Levels,
}

/// The findings by level, the worst first, then code, then origin; the same line only once.
pub(super) fn sorted<'p>(problems: impl Iterator<Item = &'p Problem>) -> Vec<Finding> {
    let mut problems: Vec<&Problem> = problems.collect();
    problems.sort_by(|a, b| {
        b.severity
            .cmp(&a.severity)
            .then_with(|| a.code.cmp(&b.code))
            .then_with(|| a.key.cmp(&b.key))
            .then_with(|| a.origin.cmp(&b.origin))
            .then_with(|| (&a.field, &a.message).cmp(&(&b.field, &b.message)))
    });
    let mut findings: Vec<Finding> = problems.into_iter().map(Finding::of).collect();
    findings.dedup();
    findings
}

impl Finding {
    fn of(problem: &Problem) -> Self {
        let reference = match is_live(problem) {
            true => String::new(),
            false => problem.origin.to_string(),
        };
        let origin = match &problem.key {
            None => String::new(),
            Some(key) if key.namespace.is_empty() => key.to_string(),
            Some(key) => format!("{} {}/{}", key.kind, key.namespace, key.name),
        };
        let key = problem.key.as_ref().map(ToString::to_string);
        let place = format!("{} {reference}", key.unwrap_or_default());
        let place = place.trim().to_owned();
        Self {
            code: problem.code,
            level: problem.severity,
            origin,
            reference,
            message: problem.to_string(),
            documentation_url: format!("{DOCUMENTATION}#{}", problem.code.as_str().to_lowercase()),
            document: problem.origin.document,
            field: problem.field.clone(),
            value: problem.value.clone(),
            remedy: problem.remedy.clone(),
            place,
        }
    }

    /// `<Level> [CODE] (<Kind> <name>.<namespace> <file:line>) <text>`.
    pub(super) fn line(&self, paint: Paint) -> String {
        let (before, after) = match (paint, self.level) {
            (Paint::Levels, Severity::Error) => ("\u{1b}[1;31m", "\u{1b}[0m"),
            (Paint::Levels, Severity::Warning) => ("\u{1b}[33m", "\u{1b}[0m"),
            (Paint::Levels, Severity::Info) | (Paint::Nothing, _) => ("", ""),
        };
        format!(
            "{before}{}{after} [{}] ({}) {}",
            self.level, self.code, self.place, self.message
        )
    }
}

/// Whether a problem is about an object of the cluster, rather than about a document of a file.
pub(super) fn is_live(problem: &Problem) -> bool {
    problem
        .key
        .as_ref()
        .is_some_and(|key| problem.origin == Origin::api(key))
}

/// What is said when there is nothing to say.
pub(super) fn clean(scope: &Scope<'_>, paths: &[PathBuf]) -> String {
    let what = match (scope.namespace.or(scope.live), paths) {
        (Some(_), _) if scope.all => "all namespaces".to_owned(),
        (Some(namespace), _) => format!("namespace: {namespace}"),
        (None, [one]) => one.display().to_string(),
        (None, paths) => format!("{} paths", paths.len()),
    };
    format!("\u{2714} No validation issues found when analyzing {what}.")
}

/// Where every code is explained.
const DOCUMENTATION: &str = "https://github.com/ambit-mesh/ambit/blob/main/docs/diagnostics.md";
