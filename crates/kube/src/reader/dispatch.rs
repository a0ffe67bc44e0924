//! One document: its kind, the items of a list, and what is said when something is wrong.

use std::sync::Arc;

use serde_json::Value;

use super::kinds::{self, Meaning};
use super::malformed::{json_stream, read_malformed, unnamed};
use super::path::FieldPath;
use super::say::{is_let_be, shown};
use super::split::Document;
use super::tree::Node;
use super::typed;
use super::{Loaded, Unread, mesh, partial};
use crate::{Code, FieldLines, Kind, Located, Object, Origin, Problem, Severity, api};

/// Reads one document into `loaded`.
pub(super) fn read_document(file: &Arc<str>, document: &Document<'_>, loaded: &mut Loaded) {
    let origin = Origin {
        file: Arc::clone(file),
        document: document.index,
        line: document.content_line(),
    };
    let offset = document.first_line - 1;
    match Node::parse(document.text) {
        Ok(node) => {
            let value = node.to_value();
            Item {
                node: Some(&node),
                offset,
                origin,
                label: document.index.to_string(),
                layout: Layout::Plain,
            }
            .read(value, None, loaded);
        }
        Err(malformed) => {
            if let Some(values) = json_stream(document.text) {
                for value in values {
                    let label = document.index.to_string();
                    Item {
                        node: None,
                        offset,
                        origin: origin.clone(),
                        label,
                        layout: Layout::Plain,
                    }
                    .read(value, None, loaded);
                }
                return;
            }
            let line = malformed.line.map_or(origin.line, |line| line + offset);
            read_malformed(document, origin, line, &malformed.why, loaded);
        }
    }
}

/// Reads an object of an API server into `loaded`.
pub(super) fn read_value(kind: Kind, value: Value, loaded: &mut Loaded) {
    let origin = partial::key(kind, &value).map(|key| Origin::api(&key));
    let item = Item {
        node: None,
        offset: 0,
        origin: origin.unwrap_or_else(|| Origin {
            file: kind.as_str().into(),
            document: 0,
            line: 0,
        }),
        label: String::new(),
        layout: Layout::Plain,
    };
    match kind {
        Kind::ConfigMap => item.read_config_map(&value, loaded),
        Kind::MeshConfig => item.read_mesh_document(&value, loaded),
        _ => item.read_object(kind, value, loaded),
    }
}

/// One object of a document: the document itself, or an item of a list.
pub(super) struct Item<'d> {
    /// None when the lines aren't known.
    node: Option<&'d Node>,
    /// Lines before the text that the node was parsed from.
    offset: usize,
    /// Of the object.
    pub(super) origin: Origin,
    /// The document's number, and the item's.
    label: String,
    pub(super) layout: Layout,
}

/// How the fields of the object relate to those of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// One to one.
    Plain,
    /// A bare `MeshConfig`: the node has at its top what the object has below `spec`.
    BareMesh,
    /// The node is the text of a ConfigMap's `data.mesh`, and that is what the object has below `spec`.
    SettingsText,
}

impl Item<'_> {
    /// Reads an object or a list of them. `inherit` is what items of a typed list may leave out.
    fn read(&self, value: Value, inherit: Option<(&str, &str)>, loaded: &mut Loaded) {
        if !value.is_object() {
            return self.not_an_object(
                &value,
                ["it isn't a map", "write apiVersion, kind and metadata"],
                loaded,
            );
        }
        let written = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let api_version = written("apiVersion").or_else(|| inherit.map(|(api, _)| api.to_owned()));
        let Some(kind) = written("kind").or_else(|| inherit.map(|(_, kind)| kind.to_owned()))
        else {
            return self.not_an_object(
                &value,
                ["it has no kind", "write apiVersion and kind"],
                loaded,
            );
        };
        let api_version = api_version.unwrap_or_default();
        if let Some(of) = kind.strip_suffix("List")
            && let Some(items) = list_items(&value, of)
        {
            return self.read_list((api_version.as_str(), of), items, loaded);
        }
        let served = api::is_served(&value);
        match kinds::meaning(&api_version, &kind) {
            Meaning::Ours(Kind::MeshConfig) => self.read_mesh_document(&value, loaded),
            Meaning::Ours(kind) if served => self.read_served(kind, value, loaded),
            Meaning::Ours(kind) => self.read_object(kind, value, loaded),
            // It exists, then, and its author is a controller more often than not.
            Meaning::NotRead | Meaning::Unknown(_)
                if served && kinds::instead(group_of(&api_version), &kind).is_none() => {}
            Meaning::ConfigMap => self.read_config_map(&value, loaded),
            Meaning::WrongVersion(ours) => {
                let group = ours.group();
                let slash = if group.is_empty() { "" } else { "/" };
                let version = ours.versions().first().copied().unwrap_or("v1");
                let mut problem = self.problem(
                    Code::WRONG_API_VERSION,
                    Severity::Error,
                    &FieldPath::of(&["apiVersion"]),
                );
                problem.message = format!("{ours} doesn't have this apiVersion");
                problem.value = Some(shown(&api_version.into()));
                problem.remedy = Some(format!("write apiVersion: {group}{slash}{version}"));
                self.refuse(ours, &value, vec![problem], loaded);
            }
            Meaning::Misspelt(ours) => {
                let mut problem = self.problem(
                    Code::UNKNOWN_KIND,
                    Severity::Error,
                    &FieldPath::of(&["kind"]),
                );
                problem.message = "nothing is called that".into();
                problem.value = Some(shown(&kind.into()));
                problem.remedy = Some(format!("did you mean {ours}?"));
                self.refuse(ours, &value, vec![problem], loaded);
            }
            Meaning::NotRead => loaded
                .problems
                .push(self.not_read((&api_version, &kind), &value)),
            Meaning::Unknown(near) => {
                loaded
                    .problems
                    .push(self.unknown_kind((&api_version, &kind), &value, near))
            }
        }
    }

    /// A kind that exists and isn't read.
    fn not_read(&self, (api_version, kind): (&str, &str), value: &Value) -> Problem {
        let instead = kinds::instead(group_of(api_version), kind);
        let at = FieldPath::of(&["kind"]);
        let said = self.problem(Code::KIND_NOT_READ, Severity::Info, &at);
        let name = name_of(value);
        let name = if name.is_empty() {
            name
        } else {
            format!(" {name}")
        };
        Problem {
            message: format!("{kind} ({api_version}){name} isn't read by Ambit"),
            field: instead.map(|(field, _)| field.to_owned()),
            remedy: instead.map(|(_, remedy)| remedy.to_owned()),
            ..said
        }
    }

    /// A kind that nobody has.
    fn unknown_kind(
        &self,
        (api_version, kind): (&str, &str),
        value: &Value,
        near: Option<&str>,
    ) -> Problem {
        let name = match name_of(value) {
            name if name.is_empty() => "the document".to_owned(),
            name => name,
        };
        Problem {
            message: format!("{name} can't be read: no kind of {api_version} is called that"),
            value: Some(shown(&kind.into())),
            remedy: Some(near.map_or_else(
                || "check the spelling of kind and apiVersion; the document has no effect".into(),
                |near| format!("did you mean {near}? The document has no effect"),
            )),
            ..self.problem(
                Code::UNKNOWN_KIND,
                Severity::Warning,
                &FieldPath::of(&["kind"]),
            )
        }
    }

    fn read_list(&self, inherit: (&str, &str), items: &[Value], loaded: &mut Loaded) {
        let (_, of) = inherit;
        let inherit = (!of.is_empty()).then_some(inherit);
        let node = self.node.and_then(|node| node.get("items"));
        for (index, item) in items.iter().enumerate() {
            let node = node.and_then(|node| node.items().get(index));
            let line = node.map_or(self.origin.line, |node| node.line() + self.offset);
            let label = format!("{}-{index}", self.label);
            Item {
                node,
                offset: self.offset,
                origin: self.origin.at_line(line),
                label,
                layout: Layout::Plain,
            }
            .read(item.clone(), inherit, loaded);
        }
    }

    fn read_mesh_document(&self, value: &Value, loaded: &mut Loaded) {
        let item = Item {
            origin: self.origin.clone(),
            label: self.label.clone(),
            layout: Layout::BareMesh,
            ..*self
        };
        item.read_object(Kind::MeshConfig, mesh::from_bare(value), loaded);
    }

    /// A ConfigMap: the mesh's settings, or texts that other objects refer to.
    fn read_config_map(&self, value: &Value, loaded: &mut Loaded) {
        let at = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
        let is_settings = at("/metadata/name").is_some_and(mesh::is_settings);
        let text = at("/data/mesh");
        let (true, Some(text)) = (is_settings, text) else {
            return self.read_object(Kind::ConfigMap, value.clone(), loaded);
        };
        let mesh_path = FieldPath::of(&["data", "mesh"]);
        let key_line = self.line_of(&mesh_path);
        let key = partial::key(Kind::MeshConfig, value);
        match Node::parse(text) {
            Ok(node) => {
                let spec = node.to_value();
                let spec = if spec.is_null() {
                    Value::Object(serde_json::Map::new())
                } else {
                    spec
                };
                let whole =
                    mesh::with_spec(value.get("metadata").cloned().unwrap_or_default(), spec);
                let item = Item {
                    node: Some(&node),
                    offset: key_line,
                    origin: self.origin.clone(),
                    label: self.label.clone(),
                    layout: Layout::SettingsText,
                };
                item.read_object(Kind::MeshConfig, whole, loaded);
            }
            Err(malformed) => {
                loaded.problems.push(Problem {
                    key: key.clone(),
                    origin: self.origin.at_line(key_line + malformed.line.unwrap_or(0)),
                    message: format!(
                        "the text of the settings isn't well-formed: {}",
                        malformed.why
                    ),
                    remedy: Some("correct the syntax".into()),
                    ..self.problem(Code::BROKEN_YAML, Severity::Error, &mesh_path)
                });
                loaded.unread.push(Unread {
                    key,
                    origin: self.origin.clone(),
                });
            }
        }
    }

    /// An object of one of our kinds.
    fn read_object(&self, kind: Kind, mut value: Value, loaded: &mut Loaded) {
        let mut problems = Vec::new();
        if kind.is_policy() {
            if let Some(map) = value.as_object_mut() {
                // What controllers say about a policy doesn't decide whether it can be read.
                map.remove("status");
                map.entry("spec")
                    .or_insert_with(|| Value::Object(serde_json::Map::new()));
            }
            problems.extend(
                typed::empties(&value)
                    .iter()
                    .map(|at| self.empty(&value, at)),
            );
        } else {
            typed::strip_nulls(&mut value);
        }
        problems.extend(self.older_names(kind, &mut value));
        self.check_names(kind, &value, &mut problems);
        let made = typed::object(kind, &value);
        let unknown = made.unknown.iter().filter(|at| !is_let_be(at));
        problems.extend(unknown.map(|at| self.unknown_field(kind, &value, at)));
        problems.extend(
            made.misfit
                .iter()
                .map(|misfit| self.misfit(kind, &value, misfit)),
        );
        if kind == Kind::Secret {
            problems.iter_mut().for_each(redact);
        }
        let refused = made.object.is_none()
            || problems
                .iter()
                .any(|problem| problem.severity == Severity::Error);
        match made.object {
            Some(object) if !refused => {
                let key = object.key();
                loaded
                    .problems
                    .extend(problems.into_iter().map(|problem| Problem {
                        key: Some(key.clone()),
                        ..problem
                    }));
                let lines = self.field_lines(kind);
                loaded.objects.push(Located {
                    object,
                    origin: self.origin.clone(),
                    lines,
                });
            }
            _ => self.refuse(kind, &value, problems, loaded),
        }
    }

    /// An object that was read out of an API server, which has judged its form: judged as [`crate::read_object`] does.
    fn read_served(&self, kind: Kind, mut value: Value, loaded: &mut Loaded) {
        let before = loaded.problems.len();
        if api::is_slim(kind) {
            self.read_object(kind, value, loaded);
            // A server may be newer than we are.
            let said = loaded.problems.split_off(before);
            let told = said
                .into_iter()
                .filter(|one| one.code != Code::UNKNOWN_FIELD);
            loaded.problems.extend(told);
        } else {
            api::strip(kind, &mut value);
            self.read_object(kind, value, loaded);
        }
    }

    /// Nothing of the object can be put in force, except that a policy closes.
    fn refuse(&self, kind: Kind, value: &Value, problems: Vec<Problem>, loaded: &mut Loaded) {
        let why = problems
            .iter()
            .find(|problem| problem.severity == Severity::Error)
            .map_or_else(String::new, ToString::to_string);
        let key = if kind.is_policy() {
            let broken = partial::policy(kind, value, &unnamed(&self.origin, &self.label), why);
            if broken.is_unnamed() {
                loaded.unread.push(Unread {
                    key: None,
                    origin: self.origin.clone(),
                });
            }
            let key = broken.key.clone();
            let lines = self.field_lines(kind);
            let object = Object::Broken(Arc::new(broken));
            loaded.objects.push(Located {
                object,
                origin: self.origin.clone(),
                lines,
            });
            Some(key)
        } else {
            let key = partial::key(kind, value);
            loaded.unread.push(Unread {
                key: key.clone(),
                origin: self.origin.clone(),
            });
            key
        };
        loaded
            .problems
            .extend(problems.into_iter().map(|problem| Problem {
                key: key.clone(),
                ..problem
            }));
    }

    fn not_an_object(&self, value: &Value, [why, remedy]: [&str; 2], loaded: &mut Loaded) {
        loaded.problems.push(Problem {
            message: format!("not an object: {why}"),
            value: Some(shown(value)),
            field: None,
            remedy: Some(remedy.into()),
            ..self.problem(Code::NOT_AN_OBJECT, Severity::Error, &FieldPath::default())
        });
        loaded.unread.push(Unread {
            key: None,
            origin: self.origin.clone(),
        });
    }

    /// The object's path as one of the node.
    pub(super) fn in_node(&self, at: &FieldPath) -> Option<FieldPath> {
        match (self.layout, at.first_key()) {
            (Layout::Plain, _) => Some(at.clone()),
            (_, Some("spec")) => Some(FieldPath(at.0.iter().skip(1).cloned().collect())),
            (Layout::BareMesh, _) => Some(at.clone()),
            (Layout::SettingsText, _) => None,
        }
    }

    /// The file's line of a field of the object.
    pub(super) fn line_of(&self, at: &FieldPath) -> usize {
        match (self.node, self.in_node(at)) {
            (Some(node), Some(at)) if !at.0.is_empty() => {
                (node.line_of(&at) + self.offset).max(self.origin.line)
            }
            _ => self.origin.line,
        }
    }

    fn field_lines(&self, kind: Kind) -> FieldLines {
        let wanted: fn(&str) -> bool = match kind {
            Kind::EndpointSlice
            | Kind::Node
            | Kind::ServiceAccount
            | Kind::MeshConfig
            | Kind::ConfigMap
            | Kind::Secret => return FieldLines::default(),
            Kind::Pod | Kind::Namespace => |key| key == "metadata",
            _ => |key| key != "status",
        };
        self.node
            .map(|node| node.field_lines(self.offset, wanted))
            .unwrap_or_default()
    }
}

/// Takes what a Secret holds out of a problem with it.
fn redact(problem: &mut Problem) {
    problem.value = None;
    if problem.code == Code::WRONG_TYPE {
        problem.message = "the value is of the wrong type, or isn't base64".into();
    }
}

/// The items of a list of some kind, or of anything when `of` is empty.
fn list_items<'v>(value: &'v Value, of: &str) -> Option<&'v [Value]> {
    match value.get("items") {
        Some(Value::Array(items)) => Some(items),
        // An empty list, as some tools write it.
        None | Some(Value::Null) if of.is_empty() => Some(&[]),
        _ => None,
    }
}

/// Of `group/version`; empty for the core group.
fn group_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

fn name_of(value: &Value) -> String {
    let of = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    match (of("/metadata/name"), of("/metadata/namespace")) {
        (Some(name), Some(namespace)) => format!("{name}.{namespace}"),
        (Some(name), None) => name.to_owned(),
        _ => String::new(),
    }
}
