//! What is said about a document: the words of its problems.

use serde_json::Value;

use super::dispatch::{Item, Layout};
use super::path::FieldPath;
use super::schema::Fields;
use super::suggest::nearest;
use super::typed::Misfit;
use super::{mesh, names};
use crate::{Code, Kind, ObjectKey, Problem, Severity};

impl Item<'_> {
    /// Says what is wrong with the object's name and namespace.
    pub(super) fn check_names(&self, kind: Kind, value: &Value, problems: &mut Vec<Problem>) {
        let name = FieldPath::of(&["metadata", "name"]);
        match name.find(value) {
            None => problems.push(Problem {
                message: format!("this {kind} has no name"),
                remedy: Some("write metadata.name; generateName is for the API server only".into()),
                ..self.problem(Code::MISSING_FIELD, Severity::Error, &name)
            }),
            Some(Value::String(text)) => {
                if let Some(fault) = names::fault(kind, text) {
                    problems.push(self.bad_name(&name, text, fault));
                }
            }
            Some(_) => {}
        }
        let namespace = FieldPath::of(&["metadata", "namespace"]);
        if let Some(Value::String(text)) = namespace.find(value)
            && kind.is_namespaced()
            && let Some(fault) = names::label_fault(text)
        {
            problems.push(self.bad_name(&namespace, text, fault));
        }
    }

    fn bad_name(&self, at: &FieldPath, text: &str, fault: &str) -> Problem {
        Problem {
            message: format!("not a name that Kubernetes accepts: {fault}"),
            value: Some(shown(&text.into())),
            remedy: Some("use lower-case letters, digits and `-`".into()),
            ..self.problem(Code::BAD_NAME, Severity::Error, at)
        }
    }

    /// A policy field that is written and empty.
    pub(super) fn empty(&self, value: &Value, at: &FieldPath) -> Problem {
        Problem {
            message:
                "the field is written but holds nothing, so it would match as if it weren't there"
                    .into(),
            value: at.find(value).map(shown),
            remedy: Some("give it a value or remove it".into()),
            ..self.problem(Code::EMPTY_VALUE, Severity::Error, at)
        }
    }

    /// A field that the kind doesn't have.
    pub(super) fn unknown_field(&self, kind: Kind, value: &Value, at: &FieldPath) -> Problem {
        let name = at.last_key().unwrap_or_default();
        if kind == Kind::MeshConfig && at.0.len() == 2 && mesh::is_upstream_setting(name) {
            return Problem {
                message: "the setting has no meaning in ambient mode and isn't used".into(),
                ..self.problem(Code::FIELD_NOT_USED, Severity::Info, at)
            };
        }
        let parent = FieldPath(
            at.0.iter()
                .take(at.0.len().saturating_sub(1))
                .cloned()
                .collect(),
        );
        let closes = kind.is_policy() && at.first_key() != Some("metadata");
        let fields = Fields::of(kind);
        let siblings = fields.at(&parent);
        let remedy = if let Some(near) = nearest(name, siblings.iter().copied()) {
            format!("did you mean `{near}`?")
        } else if let Some(home) = fields.home_of(name) {
            format!("`{name}` belongs in {home}; check the indentation")
        } else if siblings.is_empty() || siblings.len() > MAX_SIBLINGS {
            "remove it or correct its name".into()
        } else {
            format!("known here: {}", siblings.join(", "))
        };
        Problem {
            message: if closes {
                format!(
                    "{kind} has no such field; with a part unread the policy can't be put in force"
                )
            } else {
                format!("{kind} has no such field; it is ignored")
            },
            value: at.find(value).map(shown),
            remedy: Some(remedy),
            ..self.problem(
                Code::UNKNOWN_FIELD,
                if closes {
                    Severity::Error
                } else {
                    Severity::Warning
                },
                at,
            )
        }
    }

    /// A value that doesn't fit.
    pub(super) fn misfit(&self, kind: Kind, value: &Value, misfit: &Misfit) -> Problem {
        if let Some(missing) = misfit.missing_field() {
            let at = misfit.at.key(missing);
            return Problem {
                message: format!("the required field `{missing}` is missing"),
                remedy: Some(format!("write {at}")),
                ..self.problem(Code::MISSING_FIELD, Severity::Error, &at)
            };
        }
        let found = misfit.at.find(value);
        let words = misfit.allowed_words();
        let remedy = match (found, misfit.expected()) {
            (Some(Value::String(word)), _) if !words.is_empty() => {
                nearest(word, words.iter().copied()).map_or_else(
                    || format!("write one of {}", words.join(", ")),
                    |near| format!("did you mean {near}? Allowed: {}", words.join(", ")),
                )
            }
            (Some(Value::Number(_) | Value::Bool(_)), Some(expected))
                if expected.contains("string") =>
            {
                "put the value in quotes".into()
            }
            (Some(Value::String(_)), Some(expected)) if expected.contains("sequence") => {
                "write a list: `[value]`, or one `- value` per line".into()
            }
            (_, Some(expected)) => format!("write {expected}"),
            _ => format!("see the fields of {kind}"),
        };
        Problem {
            message: misfit.why.clone(),
            value: found.map(shown),
            remedy: Some(remedy),
            ..self.problem(Code::WRONG_TYPE, Severity::Error, &misfit.at)
        }
    }

    /// A problem at a field, without words yet.
    pub(super) fn problem(&self, code: Code, severity: Severity, at: &FieldPath) -> Problem {
        let field = match (self.layout, self.in_node(at)) {
            (Layout::SettingsText, Some(at)) => format!("data.mesh: {at}"),
            (_, Some(at)) => at.to_string(),
            (_, None) => at.to_string(),
        };
        Problem {
            code,
            severity,
            key: None::<ObjectKey>,
            origin: self.origin.at_line(self.line_of(at)),
            field: (!field.is_empty()).then_some(field),
            value: None,
            message: String::new(),
            remedy: None,
        }
    }
}

/// Fields that nobody writes by hand and whose version skew is harmless.
pub(super) fn is_let_be(at: &FieldPath) -> bool {
    match at.first_key() {
        Some("status") => true,
        Some("metadata") => at.0.len() > 1 && at.to_string().starts_with("metadata.managedFields"),
        Some("apiVersion" | "kind") => at.0.len() == 1,
        _ => false,
    }
}

/// A value in a message: JSON, shortened.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= MAX_SHOWN {
        return text;
    }
    text.chars().take(MAX_SHOWN).chain("…".chars()).collect()
}

/// Characters of a value in a message.
const MAX_SHOWN: usize = 60;
/// More fields than this aren't listed in a message.
const MAX_SIBLINGS: usize = 16;
