//! Kinds that hold data only: ConfigMap, Secret (whose values are never printed), and those that are only reported.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::ByteString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Kind;
use crate::core::ObjectMeta;

/// A `ConfigMap`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    /// Its name.
    pub metadata: ObjectMeta,
    /// Texts.
    pub data: BTreeMap<String, String>,
    /// Bytes.
    #[schemars(with = "BTreeMap<String, String>")]
    pub binary_data: BTreeMap<String, ByteString>,
    /// Whether it may change; not used.
    pub immutable: Option<bool>,
}

/// A `Secret`; its values show neither in `Debug` nor in problems.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    /// Its name.
    pub metadata: ObjectMeta,
    /// `kubernetes.io/tls`, `Opaque`, ...
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// Values, base64 in the manifest.
    data: BTreeMap<String, SecretValue>,
    /// Values, as text in the manifest; they win over `data`.
    string_data: BTreeMap<String, SecretText>,
    /// Whether it may change; not used.
    pub immutable: Option<bool>,
}

impl Secret {
    /// A value, wherever it was written.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        let text = self.string_data.get(key).map(|text| text.0.as_bytes());
        text.or_else(|| self.data.get(key).map(|value| value.0.0.as_slice()))
    }

    /// The names of its values.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let more = |key: &&String| !self.data.contains_key(*key);
        let texts = self.string_data.keys().filter(more);
        self.data.keys().chain(texts).map(String::as_str)
    }
}

/// Bytes that aren't printed.
#[derive(Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(transparent)]
struct SecretValue(#[schemars(with = "String")] ByteString);

/// A text that isn't printed.
#[derive(Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(transparent)]
struct SecretText(String);

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.0.len())
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

/// An object of a kind that is read only so that it can be said what to use instead.
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    /// Which.
    pub kind: Kind,
    /// Its name.
    pub metadata: ObjectMeta,
    /// As written.
    pub spec: Value,
}

/// The shape of [`Reported`] in a manifest.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct ReportedShape {
    metadata: ObjectMeta,
    spec: Value,
}

impl ReportedShape {
    /// With its kind.
    pub(crate) fn of(&self, kind: Kind) -> Arc<Reported> {
        Arc::new(Reported {
            kind,
            metadata: self.metadata.clone(),
            spec: self.spec.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_secret_does_not_show() {
        let secret: Secret = serde_json::from_str(
            r#"{"metadata": {"name": "k"}, "data": {"a": "aHVudGVyMg=="}, "stringData": {"b": "swordfish"}}"#,
        )
        .unwrap();
        assert_eq!(secret.value("a"), Some(b"hunter2".as_slice()));
        assert_eq!(secret.value("b"), Some(b"swordfish".as_slice()));
        assert_eq!(secret.keys().collect::<Vec<_>>(), ["a", "b"]);
        let shown = format!("{secret:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("swordfish"),
            "{shown}"
        );
    }
}
