//! A node's CNI configuration: which file is in force, and how one entry comes
//! into it and goes out again without touching a byte of the others.
//!
//! Runtimes take the first file, by name, that can be used. A list is joined
//! in place. A file with a single plugin can't be: a copy is put before it,
//! as a list, and the file itself stays as it is.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::files::{self, FileError};
use super::scan;

/// A text that isn't a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConflistError {
    #[error("not JSON as expected")]
    Json(#[from] serde_json::Error),
    #[error("no list of plugins")]
    NoList,
    #[error("no plugin is in it")]
    Empty,
}

/// A file that a runtime could choose.
#[derive(Debug)]
pub(super) struct Network {
    path: PathBuf,
    text: String,
    is_list: bool,
}

impl Network {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where the list goes that takes this one's place; none if it is a list.
    ///
    /// It must come first by name: `10-net.ambit.conflist` before `10-net.conf`.
    pub(super) fn copy_path(&self) -> Option<PathBuf> {
        (!self.is_list).then(|| self.path.with_extension(COPY))
    }
}

/// The files that could be in force, the one that is first.
pub(super) fn networks(dir: &Path, name: Option<&str>) -> Result<Vec<Network>, FileError> {
    let mut networks = Vec::new();
    for path in configurations(dir)? {
        if is_copy(&path) || name.is_some_and(|name| path.file_name() != Some(name.as_ref())) {
            continue;
        }
        // What can't be read or used, a runtime passes over.
        let Some(text) = files::read(&path)
            .ok()
            .and_then(|b| String::from_utf8(b).ok())
        else {
            continue;
        };
        let is_list = has_extension(&path, "conflist");
        let usable = if is_list {
            plugins(&text).is_ok_and(|plugins| !plugins.is_empty())
        } else {
            single(&text).is_some()
        };
        if usable {
            networks.push(Network {
                path,
                text,
                is_list,
            });
        }
    }
    Ok(networks)
}

/// The lists that we put before files with a single plugin.
pub(super) fn copies(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut paths = configurations(dir)?;
    paths.retain(|path| is_copy(path));
    Ok(paths)
}

/// The lists that others wrote.
pub(super) fn lists(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut paths = configurations(dir)?;
    paths.retain(|path| has_extension(path, "conflist") && !is_copy(path));
    Ok(paths)
}

fn configurations(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |cause| files::io_error("list", dir, cause);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if ["conf", "conflist", "json"]
            .iter()
            .any(|e| has_extension(&path, e))
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension()
        .is_some_and(|extension| extension == wanted)
}

fn is_copy(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.ends_with(".ambit.conflist"))
}

/// The list with the entry at its end, or `None` if it has it already. An
/// entry of the same type that says something else is replaced.
pub(super) fn with_entry(
    text: &str,
    plugin: &str,
    entry: &str,
) -> Result<Option<String>, ConflistError> {
    let plugins = plugins(text)?;
    let last = plugins.last().ok_or(ConflistError::Empty)?;
    let ours: Vec<_> = plugins.iter().filter(|p| p.r#type == plugin).collect();
    match ours.as_slice() {
        [] => Ok(Some(splice(
            text,
            last.end,
            last.end,
            &format!(",\n    {entry}"),
        ))),
        [own] => {
            if text.get(own.start..own.end) == Some(entry) {
                return Ok(None);
            }
            Ok(Some(splice(text, own.start, own.end, entry)))
        }
        // There twice.
        _ => {
            let without = without_entry(text, plugin)?.ok_or(ConflistError::Empty)?;
            with_entry(&without, plugin, entry)
        }
    }
}

/// The list without the entries of that type, or `None` if it has none.
pub(super) fn without_entry(text: &str, plugin: &str) -> Result<Option<String>, ConflistError> {
    let mut current = text.to_owned();
    let mut changed = false;
    loop {
        let plugins = plugins(&current)?;
        let Some(at) = plugins.iter().position(|p| p.r#type == plugin) else {
            return Ok(changed.then_some(current));
        };
        let before = at.checked_sub(1).and_then(|at| plugins.get(at));
        let cut = match (before, plugins.get(at), plugins.get(at + 1)) {
            (Some(before), Some(own), _) => (before.end, own.end),
            (None, Some(own), Some(after)) => (own.start, after.start),
            (None, Some(own), None) => (own.start, own.end),
            (_, None, _) => return Ok(changed.then_some(current)),
        };
        current = splice(&current, cut.0, cut.1, "");
        changed = true;
    }
}

/// A list of one plugin's configuration, as it is, and our entry.
pub(super) fn chained(text: &str, entry: &str) -> Result<String, ConflistError> {
    let single = single(text).ok_or(ConflistError::Empty)?;
    let mut list = String::from("{\n");
    for key in ["cniVersion", "name"] {
        if let Some(value) = single.get(key) {
            list.push_str(&format!("  \"{key}\": {value},\n"));
        }
    }
    list.push_str(&format!(
        "  \"plugins\": [\n    {},\n    {entry}\n  ]\n}}\n",
        text.trim()
    ));
    Ok(list)
}

/// The configuration of a single plugin, if it can be used.
fn single(text: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(text).ok()?;
    let named = value
        .get("type")?
        .as_str()
        .is_some_and(|name| !name.is_empty());
    named.then_some(value)
}

/// Where a plugin's configuration stands in the text.
struct Plugin {
    r#type: String,
    start: usize,
    end: usize,
}

fn plugins(text: &str) -> Result<Vec<Plugin>, ConflistError> {
    let value: Value = serde_json::from_str(text)?;
    let plugins = value.get("plugins").and_then(Value::as_array);
    let plugins = plugins.ok_or(ConflistError::NoList)?;
    let spans = scan::elements(text, "plugins");
    if spans.len() != plugins.len() {
        return Err(ConflistError::NoList);
    }
    let place = |(plugin, (start, end)): (&Value, (usize, usize))| {
        let r#type = plugin
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let r#type = r#type.to_owned();
        if !plugin.is_object() {
            return Err(ConflistError::NoList);
        }
        Ok(Plugin { r#type, start, end })
    };
    plugins.iter().zip(spans).map(place).collect()
}

fn splice(text: &str, start: usize, end: usize, with: &str) -> String {
    let before = text.get(..start).unwrap_or_default();
    let after = text.get(end..).unwrap_or_default();
    [before, with, after].concat()
}

/// Takes the place of the extension of a file with a single plugin.
const COPY: &str = "ambit.conflist";

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"{"type":"ambit-cni","socket":"/s"}"#;
    const LIST: &str = "{\n\t\"name\": \"kindnet\", \"cniVersion\":\"0.3.1\",\n  \"plugins\": [\n\
        { \"type\": \"ptp\", \"ipam\": {\"plugins\": [1, 2 ]}, \"x\": 1.50e3 } ,\n\n\
        {\"type\":\"portmap\",\"name\": \"\\u007d]\"}\n\t]  ,\"after\":null}\n\n";

    #[test]
    fn an_entry_comes_last_and_goes_without_a_trace() {
        let joined = with_entry(LIST, "ambit-cni", ENTRY).unwrap().unwrap();
        let at = LIST.find("\n\t]  ,").unwrap();
        let expected = format!("{},\n    {ENTRY}{}", &LIST[..at], &LIST[at..]);
        assert_eq!(joined, expected);
        assert_eq!(with_entry(&joined, "ambit-cni", ENTRY).unwrap(), None);
        let without = without_entry(&joined, "ambit-cni").unwrap();
        assert_eq!(without.as_deref(), Some(LIST));
        assert_eq!(without_entry(LIST, "ambit-cni").unwrap(), None);
    }

    #[test]
    fn an_old_entry_is_replaced_and_a_second_one_goes() {
        let old = with_entry(LIST, "ambit-cni", r#"{"type":"ambit-cni"}"#)
            .unwrap()
            .unwrap();
        let new = with_entry(&old, "ambit-cni", ENTRY).unwrap().unwrap();
        assert_eq!(new, with_entry(LIST, "ambit-cni", ENTRY).unwrap().unwrap());
        // Somebody joined after us, and that's fine; then wrote us twice.
        let after = new.replace(ENTRY, &format!("{ENTRY} , {{\"type\": \"bandwidth\"}}"));
        assert_eq!(with_entry(&after, "ambit-cni", ENTRY).unwrap(), None);
        let after = new.replace(
            ENTRY,
            &format!("{ENTRY} , {{\"type\": \"bandwidth\"}},{ENTRY}"),
        );
        let moved = with_entry(&after, "ambit-cni", ENTRY).unwrap().unwrap();
        let types: Vec<_> = plugins(&moved)
            .unwrap()
            .into_iter()
            .map(|p| p.r#type)
            .collect();
        assert_eq!(types, ["ptp", "portmap", "bandwidth", "ambit-cni"]);
    }

    #[test]
    fn an_entry_that_is_first_goes_too() {
        let first = r#"{"plugins": [{"type":"ambit-cni"}, {"type":"ptp"}]}"#;
        let left = without_entry(first, "ambit-cni").unwrap();
        assert_eq!(left.as_deref(), Some(r#"{"plugins": [{"type":"ptp"}]}"#));
        let alone = r#"{"plugins": [ {"type":"ambit-cni"} ]}"#;
        let left = without_entry(alone, "ambit-cni").unwrap();
        assert_eq!(left.as_deref(), Some(r#"{"plugins": [  ]}"#));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "{}", "[]", r#"{"plugins": 1}"#, r#"{"plugins": [1]}"#] {
            assert!(with_entry(text, "ambit-cni", ENTRY).is_err(), "{text}");
        }
        let empty = with_entry(r#"{"plugins": []}"#, "ambit-cni", ENTRY);
        assert!(matches!(empty, Err(ConflistError::Empty)));
    }

    #[test]
    fn a_single_plugin_becomes_a_list_around_its_own_text() {
        let single = "{\"cniVersion\": \"0.4.0\",  \"type\":\"ptp\", \"name\": \"pods\"}\n";
        let list = chained(single, ENTRY).unwrap();
        assert!(list.contains(single.trim()));
        let read: Value = serde_json::from_str(&list).unwrap();
        assert_eq!(read["cniVersion"], "0.4.0");
        assert_eq!(read["name"], "pods");
        assert_eq!(read["plugins"][1]["type"], "ambit-cni");
        assert!(chained("{\"name\": \"x\"}", ENTRY).is_err());
    }
}
