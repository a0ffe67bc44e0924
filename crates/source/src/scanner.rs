//! One look at the directory after the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ambit_kube::Change;

use crate::files::{Stamp, list};
use crate::manifests::Manifests;

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

    /// Looks at everything and says what changed; blocks on the disk.
    ///
    /// The first look at a directory that is there ends with [`Change::Synced`].
    pub(crate) fn scan(&mut self) -> Vec<Change> {
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
            .cloned()
            .collect();
        for path in gone {
            self.stamps.remove(&path);
            self.manifests.remove_file(&path);
        }
        for (path, stamp) in &listing.files {
            if !self
                .stamps
                .get(path)
                .is_some_and(|before| stamp.is_same_as(before))
            {
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
