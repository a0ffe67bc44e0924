//! The directory of manifests that the programs watch, one file an object.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ambit_testkit::sandbox::write_atomically;
use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Kind, for example `Pod`.
    pub kind: String,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key of its parts.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn of(object: &Value) -> Result<Self> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        let kind = text("/kind").context("an object without a kind")?;
        let name = text("/metadata/name").context("an object without a name")?;
        Ok(Self::new(
            kind,
            text("/metadata/namespace").unwrap_or_default(),
            name,
        ))
    }
}

/// Objects, mirrored to files.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
    objects: BTreeMap<Key, Value>,
}

impl Manifests {
    /// An empty directory.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self {
            dir,
            objects: BTreeMap::new(),
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads every `.yaml` file of a scenario, in order, without writing it yet.
    ///
    /// # Errors
    /// If a file can't be read or parsed.
    pub fn read_scenario(dir: &Path) -> Result<Vec<Value>> {
        let mut files: Vec<_> = fs::read_dir(dir)
            .with_context(|| format!("read {}", dir.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
        files.sort();
        let mut objects = Vec::new();
        for file in files {
            let text = fs::read_to_string(&file)?;
            objects.extend(parse(&text).with_context(|| format!("parse {}", file.display()))?);
        }
        Ok(objects)
    }

    /// Creates or replaces an object.
    ///
    /// # Errors
    /// If it has no kind or name, or can't be written.
    pub fn put(&mut self, object: Value) -> Result<()> {
        let key = Key::of(&object)?;
        let text = serde_saphyr::to_string(&object).context("write an object as YAML")?;
        write_atomically(&self.file(&key), &text)?;
        self.objects.insert(key, object);
        Ok(())
    }

    /// Removes an object; one that isn't there is fine.
    ///
    /// # Errors
    /// If its file can't be removed.
    pub fn delete(&mut self, key: &Key) -> Result<()> {
        if self.objects.remove(key).is_some() {
            fs::remove_file(self.file(key))?;
        }
        Ok(())
    }

    /// An object.
    ///
    /// # Errors
    /// If it isn't there.
    pub fn get(&self, key: &Key) -> Result<&Value> {
        self.objects.get(key).with_context(|| format!("no {key:?}"))
    }

    /// Changes an object in place.
    ///
    /// # Errors
    /// If it isn't there or can't be written.
    pub fn edit(&mut self, key: &Key, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut object = self.get(key)?.clone();
        change(&mut object);
        self.put(object)
    }

    /// Objects of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a Key, &'a Value)> {
        self.objects.iter().filter(move |(key, _)| key.kind == kind)
    }

    /// The file of an object.
    pub fn file(&self, key: &Key) -> PathBuf {
        let Key {
            kind,
            namespace,
            name,
        } = key;
        self.dir.join(format!(
            "{}.{namespace}.{name}.yaml",
            kind.to_ascii_lowercase()
        ))
    }
}

/// Parses a multi-document YAML text.
///
/// # Errors
/// If it isn't YAML.
pub fn parse(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(documents.into_iter().filter(|d| !d.is_null()).collect())
}

/// Sets or removes a label or annotation.
pub fn set_meta(object: &mut Value, field: &str, key: &str, value: Option<&str>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let map = metadata.entry(field).or_insert_with(|| json!({}));
    if let Some(map) = map.as_object_mut() {
        match value {
            Some(value) => map.insert(key.to_owned(), json!(value)),
            None => map.remove(key),
        };
    }
}
