//! What is said of one object, from its text alone.

use ambit_cluster::{ALWAYS_REJECT, ALWAYS_REJECTED};
use ambit_compile::{Diagnostic, Settings, admission};
use ambit_kube::{Code, Located, Object, Problem, Severity, read_manifest};
use serde_json::Value;

use super::review::Request;

/// What came of an object.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Why it may not go in; empty if it may.
    pub(super) refusals: Vec<String>,
    /// A stable word for the first reason.
    pub(super) reason: &'static str,
    /// What its author should know.
    pub(super) warnings: Vec<String>,
    /// The object, where more could be said of it among all others.
    pub(super) object: Option<Located<Object>>,
}

impl Verdict {
    fn refuse(mut self, reason: &'static str, why: impl Into<String>) -> Self {
        if self.refusals.is_empty() {
            self.reason = reason;
        }
        self.refusals.push(why.into());
        self
    }

    /// Adds what the compiler says of the object among all others.
    pub(super) fn preview(&mut self, said: &[Diagnostic]) {
        for told in said {
            let text = text(told);
            if !self.warnings.contains(&text) && told.severity >= Severity::Warning {
                self.warnings.push(text);
            }
        }
    }
}

/// Judges a request. Costs the reading of the object and of nothing else.
pub(super) fn judge(settings: &Settings, request: &Request) -> Verdict {
    let verdict = Verdict::default();
    if !matches!(request.operation.as_str(), "CREATE" | "UPDATE") {
        return verdict;
    }
    if !request.object.is_object() {
        return verdict.refuse("no_object", "the request has no object");
    }
    let at = |pointer: &str| request.object.pointer(pointer);
    let text = |pointer: &str| at(pointer).and_then(Value::as_str);
    let annotations = at("/metadata/annotations").and_then(Value::as_object);
    if annotations.is_some_and(|all| all.contains_key(ALWAYS_REJECT)) {
        return verdict.refuse("always_reject", ALWAYS_REJECTED);
    }
    let kind = (request.kind.api_version(), request.kind.kind.as_str());
    if (text("/apiVersion"), text("/kind")) != (Some(kind.0.as_str()), Some(kind.1)) {
        return verdict.refuse("wrong_kind", "the object isn't of the kind of the request");
    }
    // What is on its way out, and what was there before we were, isn't held up: finalizers must go.
    let same = |pointer: &str| request.old_object.pointer(pointer) == at(pointer);
    let unchanged = request.operation == "UPDATE" && same("/spec") && same("/metadata/labels");
    if at("/metadata/deletionTimestamp").is_some() || unchanged {
        return verdict;
    }
    let object = named(request);
    let loaded = read_manifest(&place(request, &object), &object.to_string());
    let mut verdict = loaded.problems.iter().fold(verdict, problem);
    if !verdict.refusals.is_empty() {
        return verdict;
    }
    let Some(located) = loaded.objects.into_iter().next() else {
        return verdict;
    };
    for told in admission::refusals(settings, &located, &object) {
        match told.severity {
            Severity::Error => verdict = verdict.refuse("invalid", self::text(&told)),
            Severity::Warning => verdict.warnings.push(self::text(&told)),
            Severity::Info => {}
        }
    }
    verdict.object = Some(located);
    verdict
}

/// The object with the name and the namespace that it will have.
fn named(request: &Request) -> Value {
    let mut object = request.object.clone();
    let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return object;
    };
    let stem = meta.get("generateName").and_then(Value::as_str);
    let stem = stem.map(|stem| format!("{stem}x"));
    if meta
        .get("name")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
        && let Some(name) = stem
    {
        meta.insert("name".to_owned(), name.into());
    }
    if let Some(namespace) = request.namespace.as_ref().filter(|ns| !ns.is_empty()) {
        meta.entry("namespace")
            .or_insert_with(|| namespace.as_str().into());
    }
    meta.remove("managedFields");
    object
}

fn place(request: &Request, object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let parts = [Some(request.kind.kind.as_str()), namespace, name];
    let parts: Vec<&str> = parts.into_iter().flatten().collect();
    parts.join("/")
}

fn problem(mut verdict: Verdict, problem: &Problem) -> Verdict {
    let refused = match problem.code {
        // Nothing that somebody wrote is passed over in silence.
        Code::UNKNOWN_FIELD => Some("unknown_field"),
        Code::UNKNOWN_KIND | Code::WRONG_API_VERSION => Some("unknown_kind"),
        _ if problem.severity == Severity::Error => Some("unreadable"),
        _ => None,
    };
    match refused {
        Some(reason) => verdict.refuse(reason, text(problem)),
        None => {
            verdict.warnings.push(text(problem));
            verdict
        }
    }
}

fn text(told: &Problem) -> String {
    format!("{} {told}", told.code)
}

#[cfg(test)]
mod tests;
