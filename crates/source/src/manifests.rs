//! Which objects a set of manifest files puts in force, and what changed since it was last asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ambit_kube::{
    Change, Code, Loaded, Located, Object, ObjectKey, Origin, Problem, Severity, read_manifest,
};

use crate::files::{ReadFault, name_of, path_problem, read};

/// A set of manifest files: texts in, changes out. Pure but for [`Manifests::add_file`].
///
/// The first document of an object in the order of paths, then of documents, is in force; every other one is a
/// problem that names both places.
#[derive(Debug, Default)]
pub struct Manifests {
    files: BTreeMap<PathBuf, File>,
    /// About directories, by path.
    faults: BTreeMap<PathBuf, Problem>,
    in_force: BTreeMap<ObjectKey, Located<Object>>,
    /// As last told.
    told: Option<Vec<Problem>>,
}

#[derive(Debug, Default)]
struct File {
    text: u64,
    /// Of the file as it is, then the last good forms of what can't be read in it.
    objects: Vec<Located<Object>>,
    problems: Vec<Problem>,
}

impl Manifests {
    /// The file now has this text.
    pub fn add_text(&mut self, path: &Path, text: &str) {
        let digest = digest(text);
        if self.files.get(path).is_some_and(|file| file.text == digest) {
            return;
        }
        let loaded = read_manifest(&name_of(path), text);
        let before = self.files.remove(path).unwrap_or_default();
        self.files
            .insert(path.to_owned(), merge(before, loaded, digest));
    }

    /// Reads the file and adds its text. A file that can't be read keeps what was good in it.
    pub fn add_file(&mut self, path: &Path) {
        match read(path) {
            Ok(text) => self.add_text(path, &text),
            Err(ReadFault::Gone) => self.remove_file(path),
            Err(fault) => self.add_unreadable(path, fault.problem(path)),
        }
    }

    /// The file is there and can't be read.
    fn add_unreadable(&mut self, path: &Path, problem: Problem) {
        let file = self.files.entry(path.to_owned()).or_default();
        let origin = problem.origin.clone();
        file.text = 0;
        file.problems = vec![problem];
        file.problems.extend(kept_many(&file.objects, origin));
    }

    /// The file is gone, and what it held.
    pub fn remove_file(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// The files that are known.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    /// Sets what is wrong with directories, instead of what was said before.
    pub(crate) fn set_faults<'f>(&mut self, faults: impl IntoIterator<Item = (&'f Path, String)>) {
        self.faults = faults
            .into_iter()
            .map(|(path, message)| {
                let remedy = "make it readable; what was read from it before stays in force";
                (
                    path.to_owned(),
                    path_problem(path, Code::UNREADABLE_FILE, message, remedy),
                )
            })
            .collect();
    }

    /// What changed since this was last called, in an order that doesn't depend on the files' order of arrival:
    /// what is new or different by kind and name, what is gone, then the problems if they are different.
    pub fn changes(&mut self) -> Vec<Change> {
        let (in_force, problems) = self.resolve();
        let mut changes: Vec<Change> = in_force
            .iter()
            .filter(|(key, located)| self.in_force.get(key) != Some(located))
            .map(|(_, located)| Change::Apply(located.clone()))
            .collect();
        let gone = self
            .in_force
            .keys()
            .filter(|key| !in_force.contains_key(key));
        changes.extend(gone.cloned().map(Change::Delete));
        if self.told.as_ref() != Some(&problems) {
            changes.push(Change::Problems(problems.clone()));
            self.told = Some(problems);
        }
        self.in_force = in_force;
        changes
    }

    /// What is in force, and everything that is wrong.
    fn resolve(&self) -> (BTreeMap<ObjectKey, Located<Object>>, Vec<Problem>) {
        let mut in_force: BTreeMap<ObjectKey, Located<Object>> = BTreeMap::new();
        let mut problems: Vec<Problem> = self.faults.values().cloned().collect();
        for file in self.files.values() {
            problems.extend(file.problems.iter().cloned());
            for located in &file.objects {
                let key = located.object.key();
                match in_force.get(&key) {
                    Some(first) => problems.push(duplicate(key, first, located)),
                    None => {
                        in_force.insert(key, located.clone());
                    }
                }
            }
        }
        (in_force, problems)
    }
}

/// The file's new contents, with the last good forms of what can't be read in it any more.
fn merge(before: File, loaded: Loaded, text: u64) -> File {
    let Loaded {
        mut objects,
        mut problems,
        unread,
    } = loaded;
    let mut known: BTreeSet<ObjectKey> =
        objects.iter().map(|located| located.object.key()).collect();
    let mut kept: Vec<Located<Object>> = Vec::new();
    let anonymous = unread.iter().find(|unread| unread.key.is_none());
    for located in before.objects {
        let key = located.object.key();
        let named = unread
            .iter()
            .find(|unread| unread.key.as_ref() == Some(&key));
        if (named.is_none() && anonymous.is_none())
            || is_unnamed(&located.object)
            || !known.insert(key.clone())
        {
            continue;
        }
        if let Some(named) = named {
            problems.push(kept_one(key, named.origin.clone()));
        }
        kept.push(located);
    }
    if let Some(anonymous) = anonymous {
        let named = |key: &ObjectKey| unread.iter().any(|unread| unread.key.as_ref() == Some(key));
        let guessed: Vec<_> = kept
            .iter()
            .filter(|k| !named(&k.object.key()))
            .cloned()
            .collect();
        problems.extend(kept_many(&guessed, anonymous.origin.clone()));
    }
    // A policy that lost its name is most likely the one that stays in its last good form.
    objects.retain(|located| {
        let same = |k: &Located<Object>| k.object.kind() == located.object.kind();
        !(is_unnamed(&located.object) && kept.iter().any(same))
    });
    objects.extend(kept);
    File {
        text,
        objects,
        problems,
    }
}

fn is_unnamed(object: &Object) -> bool {
    matches!(object, Object::Broken(broken) if broken.is_unnamed())
}

fn kept_one(key: ObjectKey, origin: Origin) -> Problem {
    Problem {
        message: format!("{key} stays in force in its last good form"),
        key: Some(key),
        ..kept_problem(origin)
    }
}

fn kept_many(objects: &[Located<Object>], origin: Origin) -> Option<Problem> {
    let first = objects.first()?.object.key();
    let others = match objects.len() - 1 {
        0 => String::new(),
        1 => " and one more object of this file".to_owned(),
        n => format!(" and {n} more objects of this file"),
    };
    Some(Problem {
        message: format!("{first}{others} stay in force in their last good form"),
        ..kept_problem(origin)
    })
}

fn kept_problem(origin: Origin) -> Problem {
    Problem {
        code: Code::LAST_GOOD_KEPT,
        severity: Severity::Warning,
        key: None,
        origin,
        field: None,
        value: None,
        message: String::new(),
        remedy: Some("correct the document, or remove it to remove the object".into()),
    }
}

fn duplicate(key: ObjectKey, first: &Located<Object>, second: &Located<Object>) -> Problem {
    let same = first.object == second.object;
    let severity = if same {
        Severity::Warning
    } else {
        Severity::Error
    };
    Problem {
        code: Code::DUPLICATE_OBJECT,
        severity,
        message: format!(
            "{key} is written twice: the one at {} is in force, this one at {} isn't{}",
            first.origin,
            second.origin,
            if same { " (they are the same)" } else { "" }
        ),
        key: Some(key),
        origin: second.origin.clone(),
        field: None,
        value: None,
        remedy: Some("remove one of the two".into()),
    }
}

/// Tells texts apart; never 0, which means that there is no text.
fn digest(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests;
