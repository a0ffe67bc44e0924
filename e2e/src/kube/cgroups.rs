//! The cgroup directories of a box, under version 1, version 2 and both at once.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Makes `name` in every hierarchy. `name` may have a parent: `box/node-1`.
///
/// # Errors
/// If a hierarchy refuses.
pub fn create(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut dir = hierarchy.clone();
        for part in name.split('/') {
            let parent = dir.clone();
            dir.push(part);
            match fs::create_dir(&dir) {
                Ok(()) => inherit_cpuset(&parent, &dir)?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("make {}", dir.display())),
            }
        }
    }
    Ok(())
}

/// In version 1 a new cpuset is empty, and nothing can be put into it.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), dir.join(file));
        // Version 2 inherits by itself, and its root has no such file.
        let (Ok(value), true) = (fs::read_to_string(&from), to.exists()) else {
            continue;
        };
        if !value.trim().is_empty() && dir_is_version_1(dir) {
            fs::write(&to, value.trim()).with_context(|| format!("write {}", to.display()))?;
        }
    }
    Ok(())
}

fn dir_is_version_1(dir: &Path) -> bool {
    !dir.join("cgroup.controllers").exists()
}

/// Removes `name` and what is below it from every hierarchy. Nothing there is
/// fine.
///
/// # Errors
/// If processes are still in one after 10 s.
pub fn remove(name: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    for hierarchy in hierarchies()? {
        let dir = hierarchy.join(name);
        while dir.exists() {
            if remove_tree(&dir).is_ok() {
                break;
            }
            if Instant::now() > deadline {
                bail!("{} can't be removed: it is still in use", dir.display());
            }
            #[allow(clippy::disallowed_methods, reason = "the kernel has no event for it")]
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Every directory of that name, in all hierarchies.
///
/// # Errors
/// If mounts can't be listed.
pub fn existing(name: &str) -> Result<Vec<PathBuf>> {
    let all = hierarchies()?.into_iter().map(|h| h.join(name));
    Ok(all.filter(|dir| dir.exists()).collect())
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// Where cgroup hierarchies are mounted.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    Ok(hierarchies_of(&mounts))
}

fn hierarchies_of(mounts: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(at), Some(kind)) = (fields.next(), fields.next()) else {
            continue;
        };
        let at = PathBuf::from(at);
        if matches!(kind, "cgroup" | "cgroup2") && !found.contains(&at) {
            found.push(at);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let both = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = hierarchies_of(both);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], Path::new("/sys/fs/cgroup/unified"));
        let second = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        assert_eq!(hierarchies_of(second), [Path::new("/sys/fs/cgroup")]);
    }
}
