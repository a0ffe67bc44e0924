//! A directory and a set of namespaces that belong to one run, and their
//! removal, also after a run that was killed.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One run's files, namespaces and processes, all below one directory that
/// carries the owner's process id. Dropping it removes everything.
#[derive(Debug)]
pub struct Sandbox {
    dir: PathBuf,
    keep_files: bool,
}

impl Sandbox {
    /// Makes a sandbox below the temporary directory, and first removes what
    /// runs of this kind left behind whose process is gone.
    ///
    /// # Errors
    /// If the directory can't be made.
    pub fn create(tag: &str) -> Result<Self> {
        Self::create_below(&base_dir(), tag)
    }

    fn create_below(base: &Path, tag: &str) -> Result<Self> {
        fs::create_dir_all(base).with_context(|| format!("make {}", base.display()))?;
        // Shared by root and ordinary users, like the directory that it is in.
        // Fails for whoever didn't make it, and then it is so already.
        let _ = fs::set_permissions(base, fs::Permissions::from_mode(0o1777));
        remove_stale(base);
        let (pid, start) = (std::process::id(), start_time("self").unwrap_or(0));
        let serial = next_serial();
        let dir = base.join(format!("{pid}.{start}.{tag}{serial}"));
        for part in ["ns", "pids"] {
            fs::create_dir_all(dir.join(part))
                .with_context(|| format!("make {}", dir.display()))?;
        }
        Ok(Self {
            dir,
            keep_files: false,
        })
    }

    /// Keeps files (not namespaces or processes) when it is dropped, so that
    /// somebody can read the logs of what failed.
    pub fn keep_files(&mut self) {
        self.keep_files = true;
    }

    /// The run's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where namespaces are mounted.
    pub fn ns_dir(&self) -> PathBuf {
        self.dir.join("ns")
    }

    /// Remembers a child process, so that a later run can end it if this one
    /// is killed.
    pub(crate) fn remember(dir: &Path, pid: u32) {
        let start = start_time(&pid.to_string()).unwrap_or(0);
        // Losing this only matters if this very run is killed.
        let _ = fs::write(dir.join("pids").join(pid.to_string()), start.to_string());
    }

    pub(crate) fn forget(dir: &Path, pid: u32) {
        let _ = fs::remove_file(dir.join("pids").join(pid.to_string()));
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        end_processes(&self.dir);
        unmount_all(&self.dir);
        if !self.keep_files {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn base_dir() -> PathBuf {
    std::env::temp_dir().join("ambit-sandbox")
}

fn next_serial() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

/// Removes sandboxes whose owner is gone. The owner's start time guards
/// against a process id that was used again.
fn remove_stale(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('.');
        let (Some(pid), Some(start)) = (parts.next(), parts.next()) else {
            continue;
        };
        let alive = start_time(pid).is_some_and(|now| now.to_string() == start);
        if !alive {
            end_processes(&entry.path());
            unmount_all(&entry.path());
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn end_processes(dir: &Path) {
    for entry in fs::read_dir(dir.join("pids"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let recorded = fs::read_to_string(entry.path()).unwrap_or_default();
        let same = start_time(&name).is_some_and(|start| start.to_string() == recorded.trim());
        if let (true, Ok(pid)) = (same, name.parse::<i32>()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn unmount_all(dir: &Path) {
    for entry in fs::read_dir(dir.join("ns")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        ambit_netns::NamedNetNs::remove_stale(&dir.join("ns"), &name.to_string_lossy());
    }
}

/// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
fn start_time(pid: &str) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// Writes a file so that a reader sees the old or the new content, never half.
///
/// # Errors
/// What the file system says.
pub fn write_atomically(path: &Path, content: &str) -> io::Result<()> {
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.new"));
    fs::write(&temporary, content)?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_lives_is_not() {
        let base = tempfile::tempdir().unwrap();
        let stale = base.path().join("999999999.1.gone0");
        fs::create_dir_all(stale.join("pids")).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        Sandbox::remember(&stale, child.id());
        let mine = Sandbox::create_below(base.path(), "a").unwrap();
        let other = Sandbox::create_below(base.path(), "b").unwrap();
        assert!(!stale.exists());
        assert!(!child.wait().unwrap().success(), "the orphan was killed");
        assert!(mine.dir().exists() && other.dir().exists());
        let dir = mine.dir().to_owned();
        drop(mine);
        assert!(!dir.exists());
    }

    #[test]
    fn a_reused_process_id_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let stale = base.path().join("999999999.1.gone0");
        fs::create_dir_all(stale.join("pids")).unwrap();
        let me = std::process::id();
        fs::write(stale.join("pids").join(me.to_string()), "1").unwrap();
        let _made = Sandbox::create_below(base.path(), "a").unwrap();
        assert!(!stale.exists());
    }
}
