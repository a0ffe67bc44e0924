//! What can be known of a document that doesn't even parse.

use serde_json::Value;

use super::kinds::{self, Meaning};
use super::tree::Node;
use crate::Kind;

/// One object that shows in a text that isn't well-formed.
#[derive(Debug, PartialEq)]
pub(super) struct Glimpse {
    /// Of a kind that we read.
    pub(super) kind: Kind,
    /// What could be read: `metadata` and, for policies, `spec` with the selector, targets and action.
    pub(super) value: Value,
    /// The line of its `kind`, from 1, relative to the text.
    pub(super) line: usize,
}

/// The objects of our kinds that show in a text that isn't well-formed.
///
/// Goes by lines and indentation alone, and parses only the small blocks that say what the object is.
pub(super) fn glimpses(text: &str) -> Vec<Glimpse> {
    let lines: Vec<Line<'_>> = text.lines().map(Line::of).collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if line.key != Some("kind") {
            continue;
        }
        let object = object_around(&lines, at);
        let api_version = field(object, line.indent, "apiVersion").map_or("", |line| line.word);
        let (Meaning::Ours(kind) | Meaning::WrongVersion(kind) | Meaning::Misspelt(kind)) =
            kinds::meaning(api_version, line.word)
        else {
            continue;
        };
        let mut value = serde_json::Map::new();
        if let Some(metadata) = block(object, line.indent, "metadata") {
            value.insert("metadata".into(), metadata);
        }
        if kind.is_policy() && field(object, line.indent, "spec").is_some() {
            value.insert("spec".into(), spec_glimpse(object, line.indent));
        }
        found.push(Glimpse {
            kind,
            value: Value::Object(value),
            line: at + 1,
        });
    }
    found
}

/// The parts of a spec that say what a policy is about; an unreadable part is `null`, so that nobody takes it
/// for absent.
fn spec_glimpse(object: &[Line<'_>], indent: usize) -> Value {
    let body = body_of(object, indent, "spec");
    let Some(inner) = body
        .iter()
        .find(|line| line.key.is_some())
        .map(|line| line.indent)
    else {
        return Value::Null;
    };
    let parts = ["selector", "targetRef", "targetRefs", "action"]
        .into_iter()
        .filter_map(|part| {
            field(body, inner, part)?;
            Some((
                part.to_owned(),
                block(body, inner, part).unwrap_or(Value::Null),
            ))
        });
    Value::Object(parts.collect())
}

/// A line, by its looks.
#[derive(Debug, Clone, Copy)]
struct Line<'t> {
    raw: &'t str,
    /// Of the key, past any `- `.
    indent: usize,
    /// Whether a `- ` precedes the key.
    item: bool,
    key: Option<&'t str>,
    /// What follows the key, without quotes and commas.
    word: &'t str,
}

impl<'t> Line<'t> {
    fn of(raw: &'t str) -> Self {
        let mut rest = raw.trim_start_matches(' ');
        let item = rest.starts_with("- ");
        if item {
            rest = rest.get(2..).unwrap_or("").trim_start_matches(' ');
        }
        let indent = raw.len() - rest.len();
        let (key, word) = match rest.split_once(':') {
            Some((key, word))
                if !rest.starts_with('#') && (word.is_empty() || word.starts_with(' ')) =>
            {
                (Some(bare(key)), bare(word))
            }
            _ => (None, ""),
        };
        Self {
            raw,
            indent,
            item,
            key,
            word,
        }
    }

    fn is_blank(&self) -> bool {
        let text = self.raw.trim();
        text.is_empty() || text.starts_with('#')
    }
}

/// Without quotes, a trailing comma and a trailing comment.
fn bare(text: &str) -> &str {
    let text = text.split(" #").next().unwrap_or(text);
    text.trim().trim_end_matches(',').trim_matches(['"', '\''])
}

/// The lines of the map that a line belongs to.
fn object_around<'l, 't>(lines: &'l [Line<'t>], at: usize) -> &'l [Line<'t>] {
    let indent = lines.get(at).map_or(0, |line| line.indent);
    let mut start = at;
    while start > 0
        && !lines
            .get(start)
            .is_some_and(|line| line.item && line.indent == indent)
    {
        let inside = lines
            .get(start - 1)
            .is_some_and(|line| line.is_blank() || line.indent >= indent);
        if !inside {
            break;
        }
        start -= 1;
    }
    let rest = lines.get(at + 1..).unwrap_or_default();
    let length = rest
        .iter()
        .take_while(|line| {
            line.is_blank() || line.indent > indent || line.indent == indent && !line.item
        })
        .count();
    lines.get(start..=at + length).unwrap_or_default()
}

fn field<'l, 't>(object: &'l [Line<'t>], indent: usize, key: &str) -> Option<&'l Line<'t>> {
    object
        .iter()
        .find(|line| line.indent == indent && line.key == Some(key))
}

/// The lines below a key, without the key's own.
fn body_of<'l, 't>(object: &'l [Line<'t>], indent: usize, key: &str) -> &'l [Line<'t>] {
    let is_it = |line: &Line<'_>| line.indent == indent && line.key == Some(key);
    let Some(at) = object.iter().position(is_it) else {
        return &[];
    };
    let rest = object.get(at + 1..).unwrap_or_default();
    // A list may stand at its key's own indentation, and JSON's closing bracket does.
    let inside = |line: &Line<'_>| {
        line.is_blank()
            || line.indent > indent
            || line.item && line.indent == indent + 2
            || line.indent == indent && line.raw.trim_start().starts_with(['}', ']'])
    };
    let length = rest.iter().take_while(|line| inside(line)).count();
    rest.get(..length).unwrap_or_default()
}

/// The value of a key, when its lines are well-formed by themselves.
fn block(object: &[Line<'_>], indent: usize, key: &str) -> Option<Value> {
    let head = field(object, indent, key)?;
    let mut text = format!(
        "{}\n",
        head.raw.get(indent..)?.trim_end().trim_end_matches(',')
    );
    for line in body_of(object, indent, key) {
        text.push_str(line.raw.get(indent..).unwrap_or(""));
        text.push('\n');
    }
    let json_closes = text.trim_end().ends_with(',');
    let text = if json_closes {
        text.trim_end().trim_end_matches(',')
    } else {
        &text
    };
    Node::parse(text).ok()?.to_value().get(key).cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::partial::{key, policy};
    use super::{Kind, glimpses};
    use crate::{Action, Reach};

    #[test]
    fn a_policy_shows_through_broken_text() {
        let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: gate # x\n  \
                    namespace: shop\nspec:\n  action: DENY\n  rules:\n  - from: [\n  selector:\n    matchLabels:\n      \
                    app: cart\n";
        let found = glimpses(text);
        assert_eq!(found.len(), 1);
        let broken = policy(found[0].kind, &found[0].value, "unnamed", "why".into());
        assert_eq!(broken.key.to_string(), "AuthorizationPolicy gate.shop");
        assert_eq!(broken.action, Some(Action::Deny));
        assert_eq!(
            broken.reach,
            Reach::Selector([("app".into(), "cart".into())].into())
        );
    }

    #[test]
    fn what_cannot_be_read_is_unknown_not_absent() {
        let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: gate}\nspec:\n  \
                    action: [\n  selector:\n    matchLabels: {app: \"cart}\n";
        let broken = policy(
            Kind::AuthorizationPolicy,
            &glimpses(text)[0].value,
            "unnamed",
            String::new(),
        );
        assert_eq!((broken.action, broken.reach), (None, Reach::Unknown));
        let no_spec = policy(
            Kind::AuthorizationPolicy,
            &json!({"spec": 3}),
            "unnamed",
            String::new(),
        );
        assert_eq!(no_spec.reach, Reach::Unknown);
        assert_eq!(
            no_spec.key.to_string(),
            "AuthorizationPolicy unnamed.default"
        );
    }

    #[test]
    fn items_of_a_broken_list_show_apart() {
        let text = "kind: List\napiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata:\n    name: a\n\
                    - kind: PeerAuthentication\n  apiVersion: security.istio.io/v1\n  metadata:\n    name: b\n    \
                    namespace: other\n  spec: {mtls: {mode: \"STRICT}}\n";
        let keys: Vec<String> = glimpses(text)
            .iter()
            .map(|seen| key(seen.kind, &seen.value).unwrap().to_string())
            .collect();
        assert_eq!(keys, ["Service a.default", "PeerAuthentication b.other"]);
    }

    #[test]
    fn pretty_json_shows_too() {
        let text = "{\n  \"apiVersion\": \"v1\",\n  \"kind\": \"Service\",\n  \"metadata\": {\n    \"name\": \"a\",\n    \
                    \"namespace\": \"n\"\n  },\n  \"spec\": {{\n}\n";
        let found = glimpses(text);
        assert_eq!(
            key(found[0].kind, &found[0].value).unwrap().to_string(),
            "Service a.n"
        );
    }
}
