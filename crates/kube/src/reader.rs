//! From the text of a manifest file to objects and problems.
//!
//! `split` cuts the text into documents, so that a broken one takes nothing with it; `tree` parses one and keeps
//! the lines; `dispatch` finds the kind and unrolls lists; `typed` makes the object and finds unknown fields and
//! wrong types; `say` has the words. `partial` and `glimpse` say what is known of a policy that can't be read.

mod dispatch;
mod glimpse;
mod kinds;
mod malformed;
mod mesh;
mod names;
mod newer;
mod partial;
mod path;
mod say;
mod schema;
mod split;
mod suggest;
mod tree;
mod typed;

#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::{Kind, Located, Object, ObjectKey, Origin, Problem};

/// What one file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// The objects, in the order of the file.
    pub objects: Vec<Located<Object>>,
    /// What is wrong or doubtful, in the order of the file.
    pub problems: Vec<Problem>,
    /// Documents (or items of lists) of which nothing could be put in force. Broken policies are among the objects
    /// instead, and here as well only when their names can't be read.
    pub unread: Vec<Unread>,
}

/// A document of which nothing could be put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Whose document it is; none when even that can't be read, so that it may be any object's.
    pub key: Option<ObjectKey>,
    /// Where it is.
    pub origin: Origin,
}

/// Reads a text in an object that is YAML by itself, within the bounds of a manifest.
///
/// # Errors
/// It isn't YAML, or too much of it; in the parser's words, on one line.
pub fn read_yaml(text: &str) -> Result<Value, String> {
    let node = tree::Node::parse(text).map_err(|malformed| malformed.why)?;
    Ok(node.to_value())
}

/// Reads every document of a manifest: YAML or JSON, `List`s unrolled, in the order of the file.
///
/// Never fails: what can't be read is in [`Loaded::problems`], and the rest of the file is read all the same.
/// `file` is only repeated in origins.
pub fn read_manifest(file: &str, text: &str) -> Loaded {
    let mut loaded = Loaded::default();
    let file = file.into();
    for document in split::documents(text) {
        dispatch::read_document(&file, &document, &mut loaded);
    }
    loaded
}

/// Judges a value that is an object of a kind.
pub(crate) fn read_value(kind: Kind, value: Value) -> Loaded {
    let mut loaded = Loaded::default();
    dispatch::read_value(kind, value, &mut loaded);
    loaded
}

/// One YAML document as a value; none if it isn't well-formed.
pub(crate) fn yaml(text: &str) -> Option<Value> {
    tree::Node::parse(text).ok().map(|node| node.to_value())
}
