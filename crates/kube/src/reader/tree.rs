//! One document, parsed, with the line of every field.

use std::fmt;

use serde::de::{self, Deserialize, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::Spanned;

use super::path::{FieldPath, Step};
use crate::FieldLines;

/// A parsed node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// From 1, relative to the text that was parsed; 0 when unknown.
    line: usize,
    shape: Shape,
}

#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Leaf(Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    key: String,
    /// Of the key.
    line: usize,
    node: Node,
}

/// Why a text isn't YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    /// From 1, relative to the text; none when the parser doesn't say.
    pub(super) line: Option<usize>,
    /// In the parser's words, on one line.
    pub(super) why: String,
}

impl Node {
    /// Parses one YAML document.
    pub(super) fn parse(text: &str) -> Result<Self, Malformed> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_nodes: MAX_NODES, max_events: 2 * MAX_NODES },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
            with_snippet: false,
        };
        serde_saphyr::from_str_with_options::<Located>(text, options)
            .map(|Located(node)| node)
            .map_err(|error| Malformed {
                line: error
                    .location()
                    .map(|at| usize::try_from(at.line()).unwrap_or(0)),
                why: one_line(&error.to_string()),
            })
    }

    /// The node as a value; `null` entries of maps stay.
    pub(super) fn to_value(&self) -> Value {
        match &self.shape {
            Shape::Leaf(value) => value.clone(),
            Shape::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Shape::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.node.to_value()))
                    .collect(),
            ),
        }
    }

    /// The node's own line.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// The child under a key of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Shape::Map(entries) = &self.shape else {
            return None;
        };
        entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.node)
    }

    /// The items of a list.
    pub(super) fn items(&self) -> &[Self] {
        match &self.shape {
            Shape::List(items) => items,
            Shape::Leaf(_) | Shape::Map(_) => &[],
        }
    }

    /// The line of a field, or of its nearest parent that exists.
    pub(super) fn line_of(&self, path: &FieldPath) -> usize {
        let (mut node, mut line) = (self, self.line);
        for step in &path.0 {
            match (step, &node.shape) {
                (Step::Key(key), Shape::Map(entries)) => {
                    let Some(entry) = entries.iter().find(|entry| &entry.key == key) else {
                        break;
                    };
                    (node, line) = (&entry.node, entry.line);
                }
                (Step::Index(index), Shape::List(items)) => {
                    let Some(item) = items.get(*index) else { break };
                    (node, line) = (item, item.line);
                }
                _ => break,
            }
        }
        line
    }

    /// The lines of all fields whose top-level key is wanted, `offset` added.
    pub(super) fn field_lines(&self, offset: usize, wanted: impl Fn(&str) -> bool) -> FieldLines {
        let mut lines = Vec::new();
        if let Shape::Map(entries) = &self.shape {
            for entry in entries.iter().filter(|entry| wanted(&entry.key)) {
                collect_entry(entry, &entry.key, offset, &mut lines);
            }
        }
        FieldLines::new(lines)
    }
}

fn collect_entry(entry: &Entry, path: &str, offset: usize, lines: &mut Vec<(Box<str>, u32)>) {
    push_line(path, entry.line + offset, lines);
    collect_children(&entry.node, path, offset, lines);
}

fn collect_children(node: &Node, path: &str, offset: usize, lines: &mut Vec<(Box<str>, u32)>) {
    match &node.shape {
        Shape::Leaf(_) => {}
        Shape::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                push_line(&path, item.line + offset, lines);
                collect_children(item, &path, offset, lines);
            }
        }
        Shape::Map(entries) => {
            for entry in entries {
                collect_entry(entry, &format!("{path}.{}", entry.key), offset, lines);
            }
        }
    }
}

fn push_line(path: &str, line: usize, lines: &mut Vec<(Box<str>, u32)>) {
    if let Ok(line) = u32::try_from(line) {
        lines.push((path.into(), line));
    }
}

/// The first line of a parser's message, without the place at its end: that one counts from the document's start; and
/// without what it advises its callers to set.
fn one_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default().trim();
    if let Some((why, _)) = line.split_once(", set DuplicateKeyPolicy") {
        return why.to_owned();
    }
    match line.rsplit_once(" at line ") {
        Some((why, place)) if place.starts_with(|c: char| c.is_ascii_digit()) => why.to_owned(),
        _ => line.to_owned(),
    }
}

/// A node through serde, with its location.
struct Located(Node);

impl<'de> Deserialize<'de> for Located {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Bare>::deserialize(deserializer)?;
        let line = usize::try_from(spanned.referenced.line()).unwrap_or(0);
        Ok(Self(Node {
            line,
            shape: spanned.value.0,
        }))
    }
}

/// A node through serde, without its location.
struct Bare(Shape);

impl<'de> Deserialize<'de> for Bare {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor).map(Self)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Leaf(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Leaf(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Shape, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("not a finite number"))?;
        Ok(Shape::Leaf(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Shape, E> {
        Ok(Shape::Leaf(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Shape, E> {
        Ok(Shape::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Leaf(Value::Null))
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut items = Vec::new();
        while let Some(Located(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Shape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let Located(node) = map.next_value()?;
            let line = usize::try_from(key.referenced.line()).unwrap_or(0);
            entries.push(Entry {
                key: key.value,
                line,
                node,
            });
        }
        Ok(Shape::Map(entries))
    }
}

/// Enough for a list of ten thousand pods.
const MAX_NODES: usize = 2 * 1024 * 1024;
/// What aliases may add: manifests repeat a few labels, not more.
const MAX_REPLAYED: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::{FieldPath, Node};

    #[test]
    fn keys_and_values_know_their_lines() {
        let text =
            "---\n# first\nspec:\n  ports:\n  - 80\n  - name: web\n    8080: {mode: STRICT}\n";
        let node = Node::parse(text).unwrap();
        let ports = FieldPath::of(&["spec", "ports"]);
        assert_eq!(node.line_of(&FieldPath::of(&["spec"])), 3);
        assert_eq!(node.line_of(&ports), 4);
        assert_eq!(node.line_of(&ports.index(0)), 5);
        assert_eq!(node.line_of(&ports.index(1).key("name")), 6);
        assert_eq!(node.line_of(&ports.index(1).key("8080").key("mode")), 7);
        assert_eq!(node.line_of(&ports.index(1).key("none")), 6);
        assert_eq!(
            node.to_value(),
            serde_json::json!({"spec": {"ports": [80, {"name": "web", "8080": {"mode": "STRICT"}}]}})
        );
    }

    #[test]
    fn aliases_and_merges_are_followed() {
        let text = "a: &x {k: v}\nb: *x\nc:\n  <<: *x\n  l: w\n";
        let node = Node::parse(text).unwrap();
        assert_eq!(
            node.to_value(),
            serde_json::json!({"a": {"k": "v"}, "b": {"k": "v"}, "c": {"k": "v", "l": "w"}})
        );
    }

    #[test]
    fn broken_text_says_where() {
        for (text, line) in [
            ("a: [1,\nb: 2\n", 1),
            ("a: 1\na: 2\n", 2),
            ("a: \"x\n", 1),
            ("a:\n\t- b\n", 2),
        ] {
            let malformed = Node::parse(text).unwrap_err();
            assert!(
                malformed
                    .line
                    .is_some_and(|found| found.abs_diff(line) <= 1),
                "{text:?}: {malformed:?}"
            );
            assert!(!malformed.why.is_empty());
            assert!(!malformed.why.contains("Policy"), "{malformed:?}");
        }
    }

    #[test]
    fn aliases_cannot_multiply_without_end() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..9 {
            let below = n - 1;
            text += &format!(
                "a{n}: &a{n} [{}]\n",
                vec![format!("*a{below}"); 10].join(", ")
            );
        }
        assert!(Node::parse(&text).is_err());
    }

    #[test]
    fn deep_nesting_is_refused_not_followed() {
        let text = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
        assert!(Node::parse(&text).is_err());
    }
}
