//! Kubernetes' strategic merge, for the kinds that run a waypoint.

use serde_json::{Map, Value};

/// Lays a patch on an object: maps member by member, lists item by item where their items have a key, other lists
/// and values as a whole. `null` takes a member away; `$patch: delete` an item, `$patch: replace` what is there.
pub(super) fn merge(object: &mut Value, patch: &Value) {
    merge_member("", object, patch);
}

fn merge_member(name: &str, object: &mut Value, patch: &Value) {
    match patch {
        Value::Object(members) => merge_map(object, members),
        Value::Array(items) => merge_list(name, object, items),
        _ => *object = patch.clone(),
    }
}

fn merge_map(object: &mut Value, members: &Map<String, Value>) {
    let replaces = directive(members) == Some("replace");
    if replaces || !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Some(map) = object.as_object_mut() else {
        return;
    };
    for (name, value) in members {
        if name == DIRECTIVE {
            continue;
        }
        if value.is_null() {
            map.remove(name);
        } else {
            merge_member(name, map.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

fn merge_list(name: &str, object: &mut Value, items: &[Value]) {
    let replaces = items.iter().any(|item| {
        let members = item.as_object();
        members.is_some_and(|of| of.len() == 1 && directive(of) == Some("replace"))
    });
    let (Some(key), false) = (key(name, items), replaces) else {
        let plain = items.iter().filter(|item| item.get(DIRECTIVE).is_none());
        *object = plain.map(without_nulls).collect();
        return;
    };
    if !object.is_array() {
        *object = Value::Array(Vec::new());
    }
    let Some(list) = object.as_array_mut() else {
        return;
    };
    for item in items {
        let at = list
            .iter()
            .position(|known| known.get(key) == item.get(key));
        if item.as_object().and_then(directive) == Some("delete") {
            if let Some(at) = at {
                list.remove(at);
            }
            continue;
        }
        let at = at.unwrap_or_else(|| {
            list.push(Value::Null);
            list.len() - 1
        });
        if let Some(known) = list.get_mut(at) {
            merge_member("", known, item);
        }
    }
}

/// A new value; what it takes away isn't there.
fn without_nulls(value: &Value) -> Value {
    let mut new = Value::Null;
    merge(&mut new, value);
    new
}

fn directive(members: &Map<String, Value>) -> Option<&str> {
    members.get(DIRECTIVE).and_then(Value::as_str)
}

/// By which member the items of a list are told apart, as Kubernetes' types declare it.
fn key(list: &str, items: &[Value]) -> Option<&'static str> {
    Some(match list {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "secrets" => "name",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "hostAliases" => "ip",
        "topologySpreadConstraints" => "topologyKey",
        "ownerReferences" => "uid",
        "ports" if items.iter().any(|item| item.get("containerPort").is_some()) => "containerPort",
        "ports" => "port",
        _ => return None,
    })
}

const DIRECTIVE: &str = "$patch";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Object, patch, result.
    #[test]
    fn as_kubernetes_merges() {
        let pod = json!({"containers": [
            {"name": "a", "image": "x", "args": ["1", "2"], "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "2"}],
             "ports": [{"containerPort": 80, "name": "http"}], "volumeMounts": [{"mountPath": "/a", "name": "v"}]},
        ], "tolerations": [{"key": "t"}], "volumes": [{"name": "v", "emptyDir": {}}]});
        let cases = [
            (
                json!({"a": 1}),
                json!({"b": {"c": 2}}),
                json!({"a": 1, "b": {"c": 2}}),
            ),
            (
                json!({"a": {"b": 1, "c": 2}}),
                json!({"a": {"b": null}}),
                json!({"a": {"c": 2}}),
            ),
            (
                json!({"a": {"b": 1}}),
                json!({"a": {"$patch": "replace", "c": 2}}),
                json!({"a": {"c": 2}}),
            ),
            (
                json!({"args": ["1"]}),
                json!({"args": ["2"]}),
                json!({"args": ["2"]}),
            ),
            (
                json!({"ports": [{"port": 1, "name": "a"}]}),
                json!({"ports": [{"port": 1, "nodePort": 3}, {"port": 2}]}),
                json!({"ports": [{"port": 1, "name": "a", "nodePort": 3}, {"port": 2}]}),
            ),
            (
                json!({"env": [{"name": "a"}, {"name": "b"}]}),
                json!({"env": [{"name": "a", "$patch": "delete"}]}),
                json!({"env": [{"name": "b"}]}),
            ),
            (
                json!({"env": [{"name": "a"}]}),
                json!({"env": [{"$patch": "replace"}, {"name": "c"}]}),
                json!({"env": [{"name": "c"}]}),
            ),
            (
                json!({}),
                json!({"a": {"b": null, "c": 1}, "list": [{"x": null}]}),
                json!({"a": {"c": 1}, "list": [{}]}),
            ),
        ];
        for (object, patch, expected) in cases {
            let mut merged = object.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, expected, "{object} with {patch}");
        }
        let mut merged = pod;
        let patch = json!({"containers": [
            {"name": "a", "image": "y", "env": [{"name": "F", "value": "3"}], "ports": [{"containerPort": 81}],
             "volumeMounts": [{"mountPath": "/b", "name": "w"}]},
            {"name": "b", "image": "z"},
        ], "tolerations": [{"key": "u"}], "volumes": [{"name": "w", "emptyDir": {}}]});
        merge(&mut merged, &patch);
        assert_eq!(
            merged,
            json!({"containers": [
            {"name": "a", "image": "y", "args": ["1", "2"], "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "3"}],
             "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81}],
             "volumeMounts": [{"mountPath": "/a", "name": "v"}, {"mountPath": "/b", "name": "w"}]},
            {"name": "b", "image": "z"},
        ], "tolerations": [{"key": "u"}], "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]})
        );
    }
}
