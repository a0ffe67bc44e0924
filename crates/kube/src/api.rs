//! From one object as an API server gives it to the same judgement that a manifest gets.
//!
//! Kinds of which there are many are read into the few fields that matter, everything else is passed over without being
//! built; the API server has judged their form already. The other kinds are judged like a manifest's documents. Either
//! way nothing stays that says who wrote a field, or that changes with every write.

mod slim;

use serde_json::Value;

use crate::reader::{Loaded, read_value, yaml};
use crate::{Kind, Origin};

/// An object's text isn't what an API server gives.
#[derive(Debug, thiserror::Error)]
#[error("not an object of {kind}: {cause}")]
pub struct NotAnObject {
    /// What it should have been.
    pub kind: Kind,
    /// Why it isn't.
    #[source]
    pub cause: serde_json::Error,
}

/// Reads one object of a kind from its JSON: what [`read_manifest`](crate::read_manifest) would give for it, with
/// [`Origin::api`] for a place.
///
/// Of pods, nodes, namespaces, services and endpoint slices only the fields of `control-plane-contract` 10 are there,
/// and fields that we don't know aren't problems. Statuses are left out where the compiler has no use for them.
///
/// # Errors
/// The text isn't JSON, or isn't of that kind at all.
pub fn read_object(kind: Kind, text: &[u8]) -> Result<Loaded, NotAnObject> {
    let refused = |cause| NotAnObject { kind, cause };
    if let Some(object) = slim::object(kind, text).map_err(refused)? {
        let origin = Origin::api(&object.key());
        return Ok(Loaded {
            objects: vec![crate::Located::new(object, origin)],
            ..Loaded::default()
        });
    }
    let mut value: Value = serde_json::from_slice(text).map_err(refused)?;
    strip(kind, &mut value);
    Ok(read_value(kind, value))
}

/// Reads the mesh's settings from the ConfigMaps that hold them: `own`, over `shared` where both say something
/// (`control-plane-contract` 8.5). Maps are merged; anything else that `own` says replaces what `shared` says.
///
/// # Errors
/// A text isn't JSON.
pub fn read_settings(own: Option<&[u8]>, shared: Option<&[u8]>) -> Result<Loaded, NotAnObject> {
    let parse = |text: &[u8]| {
        let refused = |cause| NotAnObject {
            kind: Kind::MeshConfig,
            cause,
        };
        serde_json::from_slice::<Value>(text).map_err(refused)
    };
    let (own, mut shared) = (own.map(parse).transpose()?, shared.map(parse).transpose()?);
    // By its name it is told from maps that hold something else.
    if let Some(name) = shared
        .as_mut()
        .and_then(|map| map.pointer_mut("/metadata/name"))
    {
        *name = "istio".into();
    }
    let mut whole = match (own, shared) {
        (None, None) => return Ok(Loaded::default()),
        (Some(one), None) | (None, Some(one)) => one,
        (Some(mut own), Some(mut shared)) => {
            let text = |map: &Value| map.pointer("/data/mesh")?.as_str().map(str::to_owned);
            match (text(&own), text(&shared)) {
                (Some(over), Some(base)) => match (yaml(&over), yaml(&base)) {
                    (Some(over), Some(base)) => {
                        let merged = merge(base, over).to_string();
                        if let Some(mesh) = own.pointer_mut("/data/mesh") {
                            *mesh = merged.into();
                        }
                    }
                    // Reading it says what is wrong with it.
                    (Some(_), None) => std::mem::swap(&mut own, &mut shared),
                    (None, _) => {}
                },
                (None, Some(_)) => std::mem::swap(&mut own, &mut shared),
                (_, None) => {}
            }
            own
        }
    };
    strip(Kind::ConfigMap, &mut whole);
    Ok(read_value(Kind::ConfigMap, whole))
}

/// What `over` says, and what only `base` says.
fn merge(base: Value, over: Value) -> Value {
    match (base, over) {
        (Value::Object(mut base), Value::Object(over)) => {
            for (key, value) in over {
                let under = base.remove(&key).unwrap_or(Value::Null);
                base.insert(key, merge(under, value));
            }
            Value::Object(base)
        }
        (base, Value::Null) => base,
        (_, over) => over,
    }
}

/// Whether somebody read the object out of an API server: it has what only that gives.
pub(crate) fn is_served(object: &Value) -> bool {
    let given = ["uid", "resourceVersion", "creationTimestamp"];
    given.iter().all(|field| {
        let value = object.get("metadata").and_then(|meta| meta.get(field));
        value
            .and_then(Value::as_str)
            .is_some_and(|text| !text.is_empty())
    })
}

/// Whether objects of the kind are read into the few fields that matter.
pub(crate) fn is_slim(kind: Kind) -> bool {
    use Kind::{EndpointSlice, Namespace, Node, Pod, Service};
    matches!(kind, Pod | EndpointSlice | Service | Node | Namespace)
}

/// Takes out what isn't read and changes often.
pub(crate) fn strip(kind: Kind, value: &mut Value) {
    let Some(object) = value.as_object_mut() else {
        return;
    };
    // The addresses of these are read; no other status is.
    match (
        kind,
        object.get_mut("status").and_then(Value::as_object_mut),
    ) {
        (Kind::Gateway | Kind::ServiceEntry, Some(status)) => {
            status.retain(|field, _| field == "addresses");
        }
        _ => {
            object.remove("status");
        }
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["managedFields", "resourceVersion", "selfLink"] {
            metadata.remove(field);
        }
        let annotations = metadata.get_mut("annotations");
        if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
    }
}

/// A copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[cfg(test)]
mod tests;
