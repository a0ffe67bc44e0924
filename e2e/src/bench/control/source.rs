//! Where objects are committed, and how istiod-lite is told of it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use crate::manifests::Manifests;

/// A source of objects.
pub(super) trait Source {
    /// The arguments by which istiod-lite reads it.
    fn configure(&self, command: &mut Command);

    /// Creates or replaces an object; it is committed on return.
    async fn put(&mut self, object: &Value) -> Result<()>;
}

/// A directory of manifests, a file each.
pub(super) struct Directory(Manifests);

impl Directory {
    /// An empty one.
    pub(super) fn create(dir: PathBuf) -> Result<Self> {
        Ok(Self(Manifests::new(dir)?))
    }
}

impl Source for Directory {
    fn configure(&self, command: &mut Command) {
        command.arg("--from").arg(self.0.dir());
    }

    async fn put(&mut self, object: &Value) -> Result<()> {
        self.0.put(object.clone())
    }
}
