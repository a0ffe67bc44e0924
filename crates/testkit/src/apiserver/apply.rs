//! Who owns which fields, and what applying does to them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The fields of one manager: paths to everything that isn't a map or a keyed list.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Fields(BTreeSet<Vec<Step>>);

/// One step down an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Member(String),
    /// Of a list: the item with this key.
    Item(&'static str, String),
}

impl Fields {
    /// What a body applies: its status, or all but that.
    pub(super) fn of(body: &Value, status: bool) -> Self {
        let mut fields = Self::default();
        fields.collect(body, &mut Vec::new());
        fields.0.retain(|path| {
            let under = |name: &str| path.first() == Some(&Step::Member(name.to_owned()));
            let inherited = under("apiVersion") || under("kind");
            let of_meta = path.get(1).is_some_and(|step| {
                let kept = ["labels", "annotations", "ownerReferences", "finalizers"];
                kept.iter()
                    .any(|name| *step == Step::Member((*name).to_owned()))
            });
            !inherited && (!under("metadata") || (of_meta && !status)) && under("status") == status
        });
        fields
    }

    fn collect(&mut self, value: &Value, path: &mut Vec<Step>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (name, value) in map {
                    path.push(Step::Member(name.clone()));
                    self.collect(value, path);
                    path.pop();
                }
            }
            Value::Array(items) if key_of(items).is_some() => {
                let key = key_of(items).unwrap_or_default();
                for item in items {
                    let name = text(item.get(key));
                    path.push(Step::Item(key, name));
                    self.collect(item, path);
                    path.pop();
                }
            }
            _ => {
                self.0.insert(path.clone());
            }
        }
    }

    /// As `metadata.managedFields` has them.
    pub(super) fn written(&self) -> Value {
        let mut root = Value::Object(Map::new());
        for path in &self.0 {
            let mut at = &mut root;
            for step in path {
                let name = match step {
                    Step::Member(name) => format!("f:{name}"),
                    Step::Item(key, name) => format!("k:{}", serde_json::json!({*key: name})),
                };
                if let Some(map) = at.as_object_mut() {
                    at = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
                } else {
                    break;
                }
            }
        }
        root
    }

    /// Whether one of these fields would be changed by another's body.
    pub(super) fn contradicts(&self, other: &Self, now: &Value, body: &Value) -> bool {
        let mut both = self.0.intersection(&other.0);
        both.any(|path| find(now, path) != find(body, path))
    }
}

/// Takes away what its manager applied before and nobody applies now.
pub(super) fn prune(object: &mut Value, before: &Fields, now: &[Fields]) {
    for path in &before.0 {
        if !now.iter().any(|fields| fields.0.contains(path)) {
            remove(object, path);
        }
    }
}

/// Puts the fields of a body into an object.
pub(super) fn merge(object: &mut Value, body: &Value, fields: &Fields) {
    if object.is_null() {
        *object = Value::Object(Map::new());
        for name in ["apiVersion", "kind", "metadata"] {
            if let (Some(value), Some(object)) = (body.get(name), object.as_object_mut()) {
                object.insert(name.to_owned(), value.clone());
            }
        }
    }
    for path in &fields.0 {
        if let Some(value) = find(body, path) {
            insert(object, path, value.clone());
        }
    }
}

/// RFC 7386; a strategic one merges the items of lists by their keys.
pub(super) fn merge_patch(object: &mut Value, patch: &Value, strategic: bool) {
    match (object, patch) {
        (Value::Object(map), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    map.remove(name);
                } else {
                    let member = map.entry(name.clone()).or_insert(Value::Null);
                    merge_patch(member, value, strategic);
                }
            }
        }
        (Value::Array(items), Value::Array(patch)) if strategic && key_of(patch).is_some() => {
            let key = key_of(patch).unwrap_or_default();
            for change in patch {
                let same = |item: &&mut Value| item.get(key) == change.get(key);
                match items.iter_mut().find(same) {
                    Some(item) => merge_patch(item, change, strategic),
                    None => items.push(change.clone()),
                }
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

/// But for what the server keeps.
pub(super) fn is_same(one: &Value, other: &Value) -> bool {
    let plain = |value: &Value| {
        let mut value = value.clone();
        if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            for kept in KEPT {
                meta.remove(kept);
            }
        }
        value
    };
    plain(one) == plain(other)
}

const KEPT: [&str; 5] = [
    "resourceVersion",
    "generation",
    "uid",
    "creationTimestamp",
    "managedFields",
];

/// The member by which the items of a list are told apart.
fn key_of(items: &[Value]) -> Option<&'static str> {
    let all = |key: &str| {
        let mut items = items.iter();
        items.all(|item| item.get(key).is_some_and(Value::is_string))
    };
    (!items.is_empty()).then_some(())?;
    ["type", "name", "uid", "mountPath"]
        .into_iter()
        .find(|key| all(key))
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn find<'a>(value: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Member(name) => value.get(name),
        Step::Item(key, name) => {
            let mut items = value.as_array()?.iter();
            items.find(|item| text(item.get(key)) == *name)
        }
    })
}

fn insert(value: &mut Value, path: &[Step], new: Value) {
    let Some((step, rest)) = path.split_first() else {
        let nothing =
            new.as_array().is_some_and(Vec::is_empty) || new.as_object().is_some_and(Map::is_empty);
        // Nothing of ours in it: what others have stays.
        if !(nothing && (value.is_array() || value.is_object())) {
            *value = new;
        }
        return;
    };
    match step {
        Step::Member(name) => {
            if !value.is_object() {
                *value = Value::Object(Map::new());
            }
            if let Some(map) = value.as_object_mut() {
                insert(map.entry(name.clone()).or_insert(Value::Null), rest, new);
            }
        }
        Step::Item(key, name) => {
            if !value.is_array() {
                *value = Value::Array(Vec::new());
            }
            let Some(items) = value.as_array_mut() else {
                return;
            };
            let at = items.iter().position(|item| text(item.get(key)) == *name);
            let at = at.unwrap_or_else(|| {
                items.push(serde_json::json!({*key: name}));
                items.len() - 1
            });
            if let Some(item) = items.get_mut(at) {
                insert(item, rest, new);
            }
        }
    }
}

/// Whether what held it holds nothing any more.
fn remove(value: &mut Value, path: &[Step]) -> bool {
    match path {
        [] => return true,
        [Step::Member(name), rest @ ..] => {
            if let Some(map) = value.as_object_mut()
                && map.get_mut(name).is_some_and(|member| remove(member, rest))
            {
                map.remove(name);
            }
        }
        [Step::Item(key, name), rest @ ..] => {
            if let Some(items) = value.as_array_mut() {
                let at = items.iter().position(|item| text(item.get(*key)) == *name);
                let gone = at.and_then(|at| items.get_mut(at).map(|item| (at, remove(item, rest))));
                if let Some((at, true)) = gone {
                    items.remove(at);
                }
            }
        }
    }
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
