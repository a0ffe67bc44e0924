//! What a run of the box leaves on the machine, written down while it is made,
//! and its removal: by the run itself, or by the next one if it was killed.
//!
//! Only three things outlive the first process of a box: its directory, its
//! cgroups, and the record. Processes, mounts, links and routes are in
//! namespaces that end with that process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ambit_testkit::sandbox::write_atomically;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{cgroups, paths};

/// A process by its id and the time it was started, in clock ticks since boot:
/// ids are used again, pairs aren't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`.
    pub started: u64,
}

impl ProcessId {
    /// The process that has this id now.
    pub fn of(pid: u32) -> Option<Self> {
        let (_, started) = stat(pid)?;
        Some(Self { pid, started })
    }

    /// True while it runs. One that nobody waited for has ended.
    pub fn runs(&self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| started == self.started && state != 'Z')
    }

    /// SIGKILL, if it is still the same process; then waits until it ended.
    ///
    /// # Errors
    /// If it still runs after 20 s.
    pub fn end(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.runs() {
            let _ = kill(Pid::from_raw(i32::try_from(self.pid)?), Signal::SIGKILL);
            if Instant::now() > deadline {
                bail!("process {} does not end", self.pid);
            }
            #[allow(clippy::disallowed_methods, reason = "not our child: no event for it")]
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// State and start time of a process.
fn stat(pid: u32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    /// Whoever made it; none once it was left to run by itself.
    owner: Option<ProcessId>,
    /// First process of the box: everything else in it ends with it.
    init: Option<ProcessId>,
}

/// One run: its directory, and the record of what it made.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    record: Record,
}

impl Run {
    /// Makes the directory of a new run, and first removes what killed runs
    /// left behind.
    ///
    /// # Errors
    /// If a run of that name is there (see [`Run::down`]), or files can't be made.
    pub fn create(name: &str) -> Result<Self> {
        Self::create_below(&runs()?, name)
    }

    /// [`create`](Self::create) with a name that no other run has.
    ///
    /// # Errors
    /// If files can't be made.
    pub fn create_numbered(tag: &str) -> Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        Self::create(&format!("{tag}-{}-{serial}", std::process::id()))
    }

    fn create_below(base: &Path, name: &str) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a real cluster needs root: kubelet, containerd and cgroups do"
        );
        fs::create_dir_all(base).with_context(|| format!("make {}", base.display()))?;
        sweep(base)?;
        let run = Self {
            dir: base.join(name),
            record: Record {
                owner: ProcessId::of(std::process::id()),
                init: None,
            },
        };
        fs::create_dir(&run.dir).with_context(|| {
            format!(
                "make {}: is that box up? `make cluster-down` removes it",
                run.dir.display()
            )
        })?;
        run.write()?;
        Ok(run)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its cgroup in every hierarchy; nodes are below it.
    pub fn cgroup(&self) -> String {
        cgroup_of(&self.dir)
    }

    /// Records the first process of the box.
    ///
    /// # Errors
    /// If the record can't be written.
    pub fn set_init(&mut self, pid: u32) -> Result<()> {
        self.record.init = Some(ProcessId::of(pid).context("the box ended at once")?);
        self.write()
    }

    /// Leaves the box to itself: it stays when this process ends.
    ///
    /// # Errors
    /// If the record can't be written.
    pub fn disown(&mut self) -> Result<()> {
        self.record.owner = None;
        self.write()
    }

    /// Ends everything of the box and removes its traces.
    ///
    /// # Errors
    /// If something doesn't end.
    pub fn remove(&self) -> Result<()> {
        remove(&self.dir, &self.record)
    }

    /// Removes the box of that name, and ends who still brings it up; and
    /// removes those of killed runs. Says whether there was one.
    ///
    /// # Errors
    /// If something doesn't end.
    pub fn down(name: &str) -> Result<bool> {
        let base = runs()?;
        sweep(&base)?;
        let dir = base.join(name);
        if !dir.exists() {
            return Ok(false);
        }
        let record = read(&dir)?;
        // One that still brings it up would wait for it in vain.
        if let Some(owner) = record.owner.filter(|o| o.pid != std::process::id()) {
            owner.end()?;
        }
        remove(&dir, &record)?;
        Ok(true)
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_string(&self.record)?;
        write_atomically(&self.dir.join(RECORD), &text).context("write the record")
    }
}

/// The directory of all runs.
///
/// # Errors
/// See [`paths::base`].
pub fn runs() -> Result<PathBuf> {
    Ok(paths::base()?.join("run"))
}

/// Removes runs whose owner was killed.
fn sweep(base: &Path) -> Result<()> {
    let entries = match fs::read_dir(base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("read {}", base.display())),
    };
    for entry in entries {
        let dir = entry?.path();
        // A run that is being made has no record yet.
        let Ok(record) = read(&dir) else { continue };
        if record.owner.is_some_and(|owner| !owner.runs()) {
            remove(&dir, &record)?;
        }
    }
    Ok(())
}

fn read(dir: &Path) -> Result<Record> {
    let path = dir.join(RECORD);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

fn remove(dir: &Path, record: &Record) -> Result<()> {
    if let Some(init) = record.init {
        init.end()?;
    }
    cgroups::remove(&cgroup_of(dir))?;
    // Nothing is mounted below it outside of the box's own namespaces, which
    // are gone; the kernel takes the last of them apart a moment later.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match fs::remove_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("remove {}", dir.display()));
            }
            #[allow(clippy::disallowed_methods, reason = "the kernel has no event for it")]
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Named after the path too: two clones of the repository may run at once.
fn cgroup_of(dir: &Path) -> String {
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        dir.as_os_str().as_encoded_bytes(),
    );
    let short: String = digest
        .as_ref()
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    format!("ambit-box-{name}-{short}")
}

const RECORD: &str = "record.json";

#[cfg(test)]
mod tests {
    use super::*;

    fn stale(base: &Path, name: &str, record: &Record) -> PathBuf {
        let dir = base.join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(RECORD), serde_json::to_string(record).unwrap()).unwrap();
        dir
    }

    #[test]
    fn what_a_killed_run_left_goes_and_what_was_left_to_itself_stays() {
        let base = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let gone = ProcessId {
            pid: 999_999_999,
            started: 1,
        };
        let killed = Record {
            owner: Some(gone),
            init: ProcessId::of(child.id()),
        };
        let left = Record {
            owner: None,
            init: Some(gone),
        };
        let mine = Record {
            owner: ProcessId::of(std::process::id()),
            init: None,
        };
        let killed = stale(base.path(), "killed", &killed);
        let left = stale(base.path(), "left", &left);
        let mine = stale(base.path(), "mine", &mine);
        sweep(base.path()).unwrap();
        assert!(!killed.exists() && left.exists() && mine.exists());
        assert!(!child.wait().unwrap().success(), "its process was killed");
    }

    #[test]
    fn a_reused_process_id_is_left_alone() {
        let me = ProcessId::of(std::process::id()).unwrap();
        let other = ProcessId {
            started: me.started + 1,
            ..me
        };
        assert!(me.runs() && !other.runs());
        other.end().unwrap();
    }
}
