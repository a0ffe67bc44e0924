//! Node metadata: JSON values as the protobuf `Struct` of the first request.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

/// Builds `Node.metadata`.
#[derive(Debug, Clone, Default)]
pub struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a string; replaces what was there.
    #[must_use]
    pub fn string(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let kind = Kind::StringValue(value.into());
        self.0.insert(name.into(), Value { kind: Some(kind) });
        self
    }

    /// Sets any JSON value; replaces what was there.
    #[must_use]
    pub fn json(mut self, name: impl Into<String>, value: serde_json::Value) -> Self {
        self.0.insert(name.into(), from_json(value));
        self
    }

    /// The message.
    pub fn into_struct(self) -> Struct {
        Struct { fields: self.0 }
    }
}

/// A string field of a metadata struct.
pub(crate) fn string_field<'a>(metadata: Option<&'a Struct>, name: &str) -> Option<&'a str> {
    match metadata?.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

fn from_json(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(b) => Kind::BoolValue(b),
        Json::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        Json::String(s) => Kind::StringValue(s),
        Json::Array(items) => Kind::ListValue(ListValue {
            values: items.into_iter().map(from_json).collect(),
        }),
        Json::Object(fields) => Kind::StructValue(Struct {
            fields: fields.into_iter().map(|(k, v)| (k, from_json(v))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_shape_and_the_later_value_wins() {
        let built = Metadata::new()
            .string("A", "1")
            .json("A", serde_json::json!({"b": [true, null, 2, "x"]}))
            .string("NAME", "zt")
            .into_struct();
        assert_eq!(string_field(Some(&built), "NAME"), Some("zt"));
        assert_eq!(string_field(Some(&built), "A"), None);
        let Some(Kind::StructValue(inner)) = &built.fields["A"].kind else {
            panic!("{built:?}");
        };
        let Some(Kind::ListValue(list)) = &inner.fields["b"].kind else {
            panic!("{inner:?}");
        };
        assert_eq!(
            list.values
                .iter()
                .map(|v| v.kind.clone().unwrap())
                .collect::<Vec<_>>(),
            [
                Kind::BoolValue(true),
                Kind::NullValue(0),
                Kind::NumberValue(2.0),
                Kind::StringValue("x".into())
            ]
        );
    }
}
