//! A document that isn't well-formed YAML: what can still be known of it.

use std::sync::Arc;

use serde_json::Value;

use super::split::Document;
use super::{Loaded, Unread, glimpse, partial};
use crate::{Code, Located, Object, Origin, Problem, Severity};

/// JSON that isn't YAML: tabs for indentation, or several documents one after the other.
pub(super) fn json_stream(text: &str) -> Option<Vec<Value>> {
    let text = text.strip_prefix("---").unwrap_or(text);
    if !text.trim_start().starts_with('{') {
        return None;
    }
    serde_json::Deserializer::from_str(text)
        .into_iter()
        .collect::<Result<_, _>>()
        .ok()
}

/// Says that a document isn't well-formed, once per object that shows in it.
pub(super) fn read_malformed(
    document: &Document<'_>,
    origin: Origin,
    line: usize,
    why: &str,
    loaded: &mut Loaded,
) {
    let seen = glimpse::glimpses(document.text);
    let keys: Vec<_> = seen
        .iter()
        .map(|seen| partial::key(seen.kind, &seen.value))
        .collect();
    loaded.problems.push(Problem {
        code: Code::BROKEN_YAML,
        severity: Severity::Error,
        key: keys.iter().flatten().next().cloned(),
        origin: origin.at_line(line),
        field: None,
        value: None,
        message: format!("the document isn't well-formed: {why}"),
        remedy: Some(if why.starts_with("duplicate mapping key") {
            "write each key once; a line `---` stands between two objects".into()
        } else {
            "correct the syntax; the other documents of the file are read all the same".into()
        }),
    });
    if seen.is_empty() {
        loaded.unread.push(Unread {
            key: None,
            origin: origin.clone(),
        });
    }
    for (index, (seen, key)) in seen.into_iter().zip(keys).enumerate() {
        let origin = origin.at_line(seen.line + document.first_line - 1);
        if seen.kind.is_policy() {
            let unnamed = unnamed(&origin, &format!("{}-{index}", document.index));
            let why = format!("not well-formed at line {line}: {why}");
            let broken = partial::policy(seen.kind, &seen.value, &unnamed, why);
            if key.is_none() {
                loaded.unread.push(Unread {
                    key: None,
                    origin: origin.clone(),
                });
            }
            loaded
                .objects
                .push(Located::new(Object::Broken(Arc::new(broken)), origin));
        } else {
            loaded.unread.push(Unread { key, origin });
        }
    }
}

/// A name for a policy that has none, so that it can close what it is about; no real name has this form.
pub(super) fn unnamed(origin: &Origin, label: &str) -> String {
    let file: String = origin
        .file
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    format!("(unnamed {label} of {})", file.trim_matches('-'))
}
