//! Child processes in namespaces, with their output in files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ambit_netns::NetNs;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sandbox::Sandbox;

/// A child process; killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    sandbox: PathBuf,
}

impl Process {
    /// Starts a program inside a namespace. Standard output and error go to
    /// `NAME.log` in the sandbox, appended over restarts.
    ///
    /// # Errors
    /// If the program can't be started.
    pub fn start(sandbox: &Path, ns: &NetNs, name: &str, mut command: Command) -> Result<Self> {
        let log = sandbox.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let program = command.get_program().to_owned();
        let child = ns
            .run_on_thread(|| command.spawn())?
            .with_context(|| format!("start {}", program.to_string_lossy()))?;
        Sandbox::remember(sandbox, child.id());
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            sandbox: sandbox.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its log file.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// If it can't be asked.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.nix_pid()?, signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// SIGKILL, and waits.
    ///
    /// # Errors
    /// If it can't be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits at most so long.
    ///
    /// # Errors
    /// If it doesn't end in time (it is killed then).
    pub fn stop(&mut self, bound: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + bound;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.kill()?;
                bail!("{} did not end within {bound:?} of SIGTERM", self.name);
            }
            #[allow(clippy::disallowed_methods, reason = "a synchronous wait of a test")]
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Resident memory now, in bytes.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// How much of the resident memory is the process's own, in bytes: heap
    /// and stacks. The rest is the program and other files.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn anonymous_bytes(&self) -> Result<u64> {
        self.status_bytes("RssAnon:")
    }

    fn status_bytes(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(field))
            .with_context(|| format!("no {field}"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// Processor time used so far, user and system.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let after_name = stat.rsplit_once(')').context("no name in stat")?.1;
        let field = |n: usize| -> Result<u64> {
            Ok(after_name
                .split_whitespace()
                .nth(n)
                .context("short stat")?
                .parse()?)
        };
        // Fields 14 and 15, in ticks of 10 ms (USER_HZ is 100 on every Linux).
        Ok(Duration::from_millis((field(11)? + field(12)?) * 10))
    }

    fn nix_pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        Sandbox::forget(&self.sandbox, self.child.id());
    }
}
