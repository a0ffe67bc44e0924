//! Session persistence as Gateway API writes it now, `cookie` and `header`
//! blocks (`waypoint-contract` 2.6), for types that have the older names only.
//!
//! Owns the renaming and what is said where the older names can't carry it;
//! what a session means is decided where routes are translated.

use serde_json::{Map, Value};

use super::dispatch::Item;
use super::path::FieldPath;
use super::say::shown;
use crate::{Code, Kind, Problem, Severity};

impl Item<'_> {
    /// Writes the older names for the newer ones, wherever the kind has them.
    pub(super) fn older_names(&self, kind: Kind, value: &mut Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        match kind {
            Kind::XBackendTrafficPolicy => {
                let at = FieldPath::of(&["spec", SESSION]);
                let session = value.pointer_mut("/spec/sessionPersistence");
                self.session(&at, session, &mut problems);
            }
            Kind::HttpRoute | Kind::GrpcRoute => {
                let rules = value.pointer_mut("/spec/rules");
                let rules = rules.and_then(Value::as_array_mut);
                for (index, rule) in rules.into_iter().flatten().enumerate() {
                    let at = FieldPath::of(&["spec", "rules"]).index(index).key(SESSION);
                    self.session(&at, rule.get_mut(SESSION), &mut problems);
                }
            }
            _ => {}
        }
        problems
    }

    fn session(&self, at: &FieldPath, session: Option<&mut Value>, problems: &mut Vec<Problem>) {
        let Some(session) = session.and_then(Value::as_object_mut) else {
            return;
        };
        let header = session.get("type").and_then(Value::as_str) == Some("Header");
        let (block, other) = if header {
            ("header", "cookie")
        } else {
            ("cookie", "header")
        };
        if let Some(found) = session.remove(other) {
            problems.push(Problem {
                message: format!("sessions of this type have no `{other}`"),
                value: Some(shown(&found)),
                remedy: Some(format!(
                    "write `{block}`, or the type that `{other}` belongs to"
                )),
                ..self.problem(Code::WRONG_TYPE, Severity::Error, &at.key(other))
            });
        }
        // What isn't a map stays, and is reported as a field of that name.
        if let Some(Value::Object(_)) = session.get(block)
            && let Some(Value::Object(fields)) = session.remove(block)
        {
            self.block(&at.key(block), fields, session, problems);
        }
    }

    fn block(
        &self,
        at: &FieldPath,
        fields: Map<String, Value>,
        session: &mut Map<String, Value>,
        problems: &mut Vec<Problem>,
    ) {
        let cookie = at.last_key() == Some("cookie");
        if cookie {
            session.remove("cookieConfig");
        }
        for (name, field) in fields {
            let at = at.key(&name);
            match (name.as_str(), cookie) {
                ("name", _) => {
                    session.insert("sessionName".to_owned(), field);
                }
                ("lifetimeType", true) => {
                    let mut config = Map::new();
                    config.insert(name, field);
                    session.insert("cookieConfig".to_owned(), Value::Object(config));
                }
                ("path", true) if field.as_str() == Some("/") => {}
                ("path", true) => problems.push(Problem {
                    message: "the field isn't used: a session's cookie is for the path /".into(),
                    value: Some(shown(&field)),
                    remedy: Some("remove it, or use type Header to keep cookies apart".into()),
                    ..self.problem(Code::FIELD_NOT_USED, Severity::Warning, &at)
                }),
                _ => {
                    let known = if cookie {
                        "name, path, lifetimeType"
                    } else {
                        "name"
                    };
                    problems.push(Problem {
                        message: "sessionPersistence has no such field; it is ignored".into(),
                        value: Some(shown(&field)),
                        remedy: Some(format!("known here: {known}")),
                        ..self.problem(Code::UNKNOWN_FIELD, Severity::Warning, &at)
                    });
                }
            }
        }
    }
}

const SESSION: &str = "sessionPersistence";
