//! Which objects a set of manifest files puts in force, and what changed since it was last asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ambit_kube::{Change, Code, Loaded, ObjectKey, Origin, Problem, Severity, read_manifest};

use crate::files::{ReadFault, name_of, path_problem, read};
use crate::held::Held;

/// A set of manifest files: texts in, changes out. Pure but for [`Manifests::add_file`].
///
/// The first document of an object in the order of paths, then of documents, is in force; every other one is a
/// problem that names both places. What a change costs is up to the file that changed and to those that write the
/// same objects, not to how many files there are.
#[derive(Debug, Default)]
pub struct Manifests {
    files: BTreeMap<Arc<Path>, File>,
    /// Where each object is written: the file, and which of its objects it is.
    places: BTreeMap<ObjectKey, BTreeSet<(Arc<Path>, usize)>>,
    /// About directories, by path.
    faults: BTreeMap<PathBuf, Problem>,
    in_force: BTreeMap<ObjectKey, Arc<Held>>,
    /// About files: of those that have any.
    problems: BTreeMap<Arc<Path>, Vec<Problem>>,
    /// As last told.
    told: Option<Vec<Problem>>,
    touched: Touched,
}

/// What may be different since it was last told.
#[derive(Debug, Default)]
struct Touched {
    files: BTreeSet<Arc<Path>>,
    objects: BTreeSet<ObjectKey>,
    faults: bool,
}

#[derive(Debug, Default)]
struct File {
    text: u64,
    /// Of the file as it is, then the last good forms of what can't be read in it.
    objects: Vec<Arc<Held>>,
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
        let before = self.take(path).unwrap_or_default();
        self.put(path, merge(before, loaded, digest));
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
        let mut file = self.take(path).unwrap_or_default();
        let origin = problem.origin.clone();
        file.text = 0;
        file.problems = vec![problem];
        file.problems.extend(kept_many(&file.objects, origin));
        self.put(path, file);
    }

    /// The file is gone, and what it held.
    pub fn remove_file(&mut self, path: &Path) {
        self.take(path);
    }

    /// Takes a file out, and its objects from their places.
    fn take(&mut self, path: &Path) -> Option<File> {
        let (path, file) = self.files.remove_entry(path)?;
        for (index, held) in file.objects.iter().enumerate() {
            let key = &held.key;
            if let Some(places) = self.places.get_mut(key) {
                places.remove(&(Arc::clone(&path), index));
                if places.is_empty() {
                    self.places.remove(key);
                }
            }
            self.touched.objects.insert(key.clone());
        }
        self.touched.files.insert(path);
        Some(file)
    }

    /// Puts in a file that isn't there.
    fn put(&mut self, path: &Path, file: File) {
        let path: Arc<Path> = path.into();
        for (index, held) in file.objects.iter().enumerate() {
            let places = self.places.entry(held.key.clone()).or_default();
            places.insert((Arc::clone(&path), index));
            self.touched.objects.insert(held.key.clone());
        }
        self.touched.files.insert(Arc::clone(&path));
        self.files.insert(path, file);
    }

    /// The files that are known.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(|path| &**path)
    }

    /// Sets what is wrong with directories, instead of what was said before.
    pub(crate) fn set_faults<'f>(&mut self, faults: impl IntoIterator<Item = (&'f Path, String)>) {
        let now: BTreeMap<_, _> = faults
            .into_iter()
            .map(|(path, message)| {
                let remedy = "make it readable; what was read from it before stays in force";
                (
                    path.to_owned(),
                    path_problem(path, Code::UNREADABLE_FILE, message, remedy),
                )
            })
            .collect();
        self.touched.faults |= now != self.faults;
        self.faults = now;
    }

    /// What changed since this was last called, in an order that doesn't depend on the files' order of arrival:
    /// what is new or different by kind and name, what is gone, then the problems if they are different.
    pub fn changes(&mut self) -> Vec<Change> {
        let Touched {
            mut files,
            objects,
            faults,
        } = std::mem::take(&mut self.touched);
        let (mut changes, mut gone) = (Vec::new(), Vec::new());
        for key in objects {
            // Whoever writes the same object is told that it isn't the first one, or no longer.
            let places = self.places.get(&key).into_iter().flatten();
            files.extend(places.map(|(path, _)| Arc::clone(path)));
            match self.first(&key).cloned() {
                Some(held) if self.in_force.get(&key) != Some(&held) => {
                    changes.push(Change::Apply(held.located()));
                    self.in_force.insert(key, held);
                }
                None if self.in_force.remove(&key).is_some() => gone.push(Change::Delete(key)),
                Some(_) | None => {}
            }
        }
        changes.append(&mut gone);
        let mut problems = faults || self.told.is_none();
        for path in files {
            let now = self.problems_of(&path);
            problems |= self.problems.get(&path) != now.as_ref();
            match now {
                Some(now) => self.problems.insert(path, now),
                None => self.problems.remove(&path),
            };
        }
        if problems {
            changes.extend(self.tell());
        }
        changes
    }

    /// The problems, if they aren't those that were told.
    fn tell(&mut self) -> Option<Change> {
        let faults = self.faults.values();
        let all: Vec<_> = faults
            .chain(self.problems.values().flatten())
            .cloned()
            .collect();
        if self.told.as_ref() == Some(&all) {
            return None;
        }
        self.told = Some(all.clone());
        Some(Change::Problems(all))
    }

    /// The document of an object that is in force.
    fn first(&self, key: &ObjectKey) -> Option<&Arc<Held>> {
        let (path, index) = self.places.get(key)?.first()?;
        self.files.get(path)?.objects.get(*index)
    }

    /// Everything that is wrong with a file; none where nothing is.
    fn problems_of(&self, path: &Arc<Path>) -> Option<Vec<Problem>> {
        let file = self.files.get(path)?;
        let mut problems = file.problems.clone();
        for (index, held) in file.objects.iter().enumerate() {
            let first = self.places.get(&held.key).and_then(BTreeSet::first);
            if first.is_some_and(|(first, at)| (first, *at) != (path, index))
                && let Some(first) = self.first(&held.key)
            {
                problems.push(duplicate(first, held));
            }
        }
        (!problems.is_empty()).then_some(problems)
    }
}

/// The file's new contents, with the last good forms of what can't be read in it any more.
fn merge(before: File, loaded: Loaded, text: u64) -> File {
    let Loaded {
        objects,
        mut problems,
        unread,
    } = loaded;
    let objects = objects
        .into_iter()
        .map(|located| Arc::new(Held::new(located)));
    let mut objects: Vec<_> = objects.collect();
    let mut known: BTreeSet<ObjectKey> = objects.iter().map(|held| held.key.clone()).collect();
    let mut kept: Vec<Arc<Held>> = Vec::new();
    let anonymous = unread.iter().find(|unread| unread.key.is_none());
    for held in before.objects {
        let key = &held.key;
        let named = unread
            .iter()
            .find(|unread| unread.key.as_ref() == Some(key));
        if (named.is_none() && anonymous.is_none())
            || held.is_unnamed()
            || !known.insert(key.clone())
        {
            continue;
        }
        if let Some(named) = named {
            problems.push(kept_one(key.clone(), named.origin.clone()));
        }
        kept.push(held);
    }
    if let Some(anonymous) = anonymous {
        let named = |key: &ObjectKey| unread.iter().any(|unread| unread.key.as_ref() == Some(key));
        let guessed: Vec<_> = kept.iter().filter(|k| !named(&k.key)).cloned().collect();
        problems.extend(kept_many(&guessed, anonymous.origin.clone()));
    }
    // A policy that lost its name is most likely the one that stays in its last good form.
    objects.retain(|held| {
        let same = |k: &Arc<Held>| k.key.kind == held.key.kind;
        !(held.is_unnamed() && kept.iter().any(same))
    });
    objects.extend(kept);
    File {
        text,
        objects,
        problems,
    }
}

fn kept_one(key: ObjectKey, origin: Origin) -> Problem {
    Problem {
        message: format!("{key} stays in force in its last good form"),
        key: Some(key),
        ..kept_problem(origin)
    }
}

fn kept_many(objects: &[Arc<Held>], origin: Origin) -> Option<Problem> {
    let first = &objects.first()?.key;
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

fn duplicate(first: &Held, second: &Held) -> Problem {
    let (key, same) = (&second.key, first.says_what(second));
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
        key: Some(key.clone()),
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
