//! What can be known of a document that parses, and can't be read in full.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::object::DEFAULT_NAMESPACE;
use crate::{Action, BrokenPolicy, Kind, ObjectKey, Reach};

/// The name and namespace that a document's metadata give, as far as they can be read.
pub(super) fn key(kind: Kind, value: &Value) -> Option<ObjectKey> {
    let metadata = value.get("metadata")?;
    let name = word(metadata.get("name")?)?;
    Some(ObjectKey::new(kind, namespace(kind, metadata), name))
}

/// A policy of which only parts can be read.
pub(super) fn policy(kind: Kind, value: &Value, unnamed: &str, why: String) -> BrokenPolicy {
    let metadata = value.get("metadata").unwrap_or(&Value::Null);
    let key = key(kind, value)
        .unwrap_or_else(|| ObjectKey::new(kind, namespace(kind, metadata), unnamed));
    let spec = value.get("spec");
    BrokenPolicy {
        key,
        action: (kind == Kind::AuthorizationPolicy)
            .then(|| action(spec))
            .flatten(),
        reach: reach(spec),
        labels: metadata.get("labels").and_then(read).unwrap_or_default(),
        why,
    }
}

fn namespace(kind: Kind, metadata: &Value) -> String {
    if !kind.is_namespaced() {
        return String::new();
    }
    metadata
        .get("namespace")
        .and_then(word)
        .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
}

fn action(spec: Option<&Value>) -> Option<Action> {
    match spec.and_then(|spec| spec.get("action")) {
        None => Some(Action::default()),
        Some(written) => read(written),
    }
}

fn reach(spec: Option<&Value>) -> Reach {
    let Some(spec) = spec else {
        return Reach::Namespace;
    };
    if !spec.is_object() {
        return Reach::Unknown;
    }
    let targets = match (spec.get("targetRefs"), spec.get("targetRef")) {
        (Some(many), _) => Some(read(many)),
        (None, Some(one)) => Some(read(one).map(|one| vec![one])),
        (None, None) => None,
    };
    match (targets, spec.get("selector")) {
        (Some(Some(targets)), None) if !targets.is_empty() => Reach::Targets(targets),
        (Some(_), _) => Reach::Unknown,
        (None, None) => Reach::Namespace,
        (None, Some(selector)) => match selector_labels(selector) {
            Some(labels) => Reach::Selector(labels),
            None => Reach::Unknown,
        },
    }
}

/// The labels, when the selector holds nothing else.
fn selector_labels(selector: &Value) -> Option<BTreeMap<String, String>> {
    let fields = selector.as_object()?;
    if fields.keys().any(|key| key != "matchLabels") {
        return None;
    }
    fields
        .get("matchLabels")
        .map_or_else(|| Some(BTreeMap::new()), read)
}

fn read<T: for<'de> Deserialize<'de>>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}

/// A name as text, also when somebody forgot the quotes round a number.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}
