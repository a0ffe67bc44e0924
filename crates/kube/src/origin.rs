//! Where an object, or one of its fields, was written.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::ObjectKey;

/// A place in a manifest file, or an object of an API server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Origin {
    /// The file as the reader was told, for example a path or `-`; of an object of an API server `Kind/namespace/name`.
    pub file: Arc<str>,
    /// Which document of the file, from 1; 0 for the file as a whole.
    pub document: usize,
    /// Which line of the file, from 1; 0 for the file as a whole.
    pub line: usize,
}

impl Origin {
    /// An object of an API server: its kind, namespace and name, without lines.
    pub fn api(key: &ObjectKey) -> Self {
        let ObjectKey {
            kind,
            namespace,
            name,
        } = key;
        let file = if namespace.is_empty() {
            format!("{kind}/{name}")
        } else {
            format!("{kind}/{namespace}/{name}")
        };
        Self {
            file: file.into(),
            document: 0,
            line: 0,
        }
    }

    /// The same document at another line.
    pub fn at_line(&self, line: usize) -> Self {
        Self {
            line,
            ..self.clone()
        }
    }
}

/// `file:line`, or `file` when it is about the file as a whole.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// The lines of an object's fields, so that a diagnostic can point at one.
///
/// Kept for the kinds whose fields the compiler complains about; empty for the many and large ones (pods, nodes,
/// endpoint slices). Cloning is cheap. There may be thousands of objects with a hundred fields each: a path is kept as
/// its hash, so in one object of millions a line may be that of another field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldLines(Arc<[(u32, u32)]>);

impl FieldLines {
    /// Takes `(path, line)` pairs in any order; paths are written `spec.rules[0].from[1].source`. Of several lines of
    /// one path the first counts.
    pub fn new(lines: impl IntoIterator<Item = (Box<str>, u32)>) -> Self {
        let hashed = lines.into_iter().map(|(path, line)| (hash(&path), line));
        let mut hashed: Vec<_> = hashed.collect();
        hashed.sort_unstable();
        hashed.dedup_by_key(|(hash, _)| *hash);
        Self(hashed.into())
    }

    /// The line of `path`, or of its nearest parent that is known.
    pub fn line_of(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            let known = self.0.binary_search_by_key(&hash(path), |(hash, _)| *hash);
            if let Ok(at) = known {
                return self.0.get(at).map(|(_, line)| *line as usize);
            }
            path = parent(path)?;
        }
    }
}

/// The same in every process, and of no value to anybody who would choose paths for it.
fn hash(path: &str) -> u32 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(path.as_bytes());
    (hasher.finish() >> 32) as u32
}

/// `spec.rules[0].from` → `spec.rules[0]` → `spec.rules` → `spec` → none.
fn parent(path: &str) -> Option<&str> {
    path.rfind(['.', '[']).and_then(|cut| path.get(..cut))
}

/// A value together with the place where it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Located<T> {
    /// The value.
    pub object: T,
    /// Where it begins.
    pub origin: Origin,
    /// Where its fields are.
    pub lines: FieldLines,
}

impl<T> Located<T> {
    /// A value whose fields' lines aren't known.
    pub fn new(object: T, origin: Origin) -> Self {
        Self {
            object,
            origin,
            lines: FieldLines::default(),
        }
    }

    /// The place of a field, or of the nearest parent that is known, or of the object.
    pub fn origin_of(&self, path: &str) -> Origin {
        self.lines
            .line_of(path)
            .map_or_else(|| self.origin.clone(), |line| self.origin.at_line(line))
    }
}
