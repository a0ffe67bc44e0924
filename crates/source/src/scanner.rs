//! One look at the directory after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ambit_kube::Change;

use crate::files::{Place, Stamp, list, place};
use crate::manifests::Manifests;
use crate::notes::Look;

/// What was last seen of a directory.
#[derive(Debug)]
pub(crate) struct Scanner {
    root: PathBuf,
    stamps: BTreeMap<PathBuf, Stamp>,
    manifests: Manifests,
    synced: bool,
}

impl Scanner {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            stamps: BTreeMap::new(),
            manifests: Manifests::default(),
            synced: false,
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Looks and says what changed; blocks on the disk.
    pub(crate) fn look(&mut self, look: &Look) -> Vec<Change> {
        match look {
            Look::At(paths) if self.synced && self.look_at(paths) => self.manifests.changes(),
            Look::At(_) => self.scan(&BTreeSet::new()),
            Look::Everything { but } => self.scan(but),
        }
    }

    /// Looks at some files. False if that isn't enough.
    fn look_at(&mut self, paths: &BTreeSet<PathBuf>) -> bool {
        for path in paths {
            match place(&self.root, path, self.stamps.len()) {
                Place::File(stamp) => {
                    self.manifests.add_file(path);
                    self.stamps.insert(path.clone(), stamp);
                }
                Place::Nothing => {
                    self.stamps.remove(path);
                    self.manifests.remove_file(path);
                }
                Place::NotOurs => {}
                Place::Unclear => return false,
            }
        }
        true
    }

    /// Looks at everything but some files, of which what is known stays.
    ///
    /// The first look at a directory that is there ends with [`Change::Synced`].
    fn scan(&mut self, but: &BTreeSet<PathBuf>) -> Vec<Change> {
        let listing = list(&self.root);
        let is_out_of_sight = |path: &Path| {
            listing
                .faults
                .iter()
                .any(|(fault, _)| path.starts_with(fault))
        };
        let gone: Vec<PathBuf> = self
            .manifests
            .paths()
            .filter(|path| !listing.files.contains_key(*path) && !is_out_of_sight(path))
            .map(Path::to_owned)
            .collect();
        for path in gone {
            self.stamps.remove(&path);
            self.manifests.remove_file(&path);
        }
        // At the start nothing is known: what is half written is better than nothing.
        let is_left_out = |path: &Path| self.synced && but.contains(path);
        for (path, stamp) in &listing.files {
            let before = self.stamps.get(path);
            let same = before.is_some_and(|before| stamp.is_same_as(before));
            if !same && !is_left_out(path) {
                self.manifests.add_file(path);
                self.stamps.insert(path.clone(), *stamp);
            }
        }
        let faults = listing.faults.iter();
        self.manifests
            .set_faults(faults.map(|(path, error)| (path.as_path(), error.to_string())));
        let mut changes = self.manifests.changes();
        if !self.synced && !listing.missing {
            self.synced = true;
            changes.push(Change::Synced);
        }
        changes
    }
}
