//! Sets of namespaces with a first process, and starting programs in them.
//!
//! The box is one set; a node is another inside of it. When the first process
//! of a set is killed, the kernel ends every other process of it, its mounts
//! and its links: nothing of it has to be looked for.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ambit_netns::NetNs;
use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::paths;

/// A set of network, mount and process namespaces.
#[derive(Debug)]
pub struct Space {
    init: u32,
    net: NetNs,
    kinds: Vec<(File, CloneFlags)>,
}

/// Whoever made a [`Space`] holds it: it ends when this is dropped, or when
/// this process is killed, unless it was let go.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    init: u32,
    /// The space ends when this is closed, unless it was let go before.
    lifeline: Option<ChildStdin>,
}

impl Holder {
    /// Lets the space live on when this process ends.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn let_go(mut self) -> Result<()> {
        let lifeline = self.lifeline.take();
        let mut lifeline = lifeline.context("let go of twice")?;
        lifeline.write_all(b"stay\n").context("the box has ended")
    }
}

impl Holder {
    /// Kills the first process, and with it everything in the space. It can't
    /// be waited for yet: the kernel keeps it until everything else in the
    /// space was waited for, what this process started there included.
    pub fn kill(&self) {
        if let Ok(pid) = i32::try_from(self.init) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.lifeline.take().is_none() {
            return;
        }
        self.kill();
        let deadline = Instant::now() + Duration::from_secs(20);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            #[allow(clippy::disallowed_methods, reason = "a synchronous wait of a test")]
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Space {
    /// Makes a space on the machine itself, that lives as long as its holder.
    ///
    /// # Errors
    /// If namespaces can't be made, with the words of the first process.
    pub fn create(log: &Path) -> Result<(Self, Holder)> {
        let mut command = Command::new(paths::own_program("kube-init")?);
        command.arg("box");
        Self::hold(command, log, |command| {
            let child = on_thread(|| {
                unshare(
                    CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID,
                )?;
                Ok(command.spawn()?)
            })?;
            let init = child.id();
            Ok((child, init))
        })
    }

    /// Makes a node's space inside of this one. `command` is `kube-init node`
    /// with its arguments.
    ///
    /// # Errors
    /// If it can't be made, with the words of the first process.
    pub fn create_node(&self, command: Command, log: &Path) -> Result<(Self, Holder)> {
        Self::hold(command, log, |command| {
            let child = self.spawn(command)?;
            // A new process namespace begins with a child of who made it.
            let init = only_child(child.id())?;
            Ok((child, init))
        })
    }

    fn hold(
        mut command: Command,
        log: &Path,
        start: impl FnOnce(&mut Command) -> Result<(Child, u32)>,
    ) -> Result<(Self, Holder)> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log)?)
            .process_group(0);
        let (mut child, init) = start(&mut command)?;
        let output = child.stdout.take().context("its output is piped")?;
        let holder = Holder {
            lifeline: child.stdin.take(),
            child,
            init,
        };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!(
                "the first process of the box failed: {}",
                fs::read_to_string(log).unwrap_or_default()
            );
        }
        Ok((Self::of(init)?, holder))
    }

    /// The space of a process.
    ///
    /// # Errors
    /// If it is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let open = |kind: &str| {
            let path = format!("/proc/{pid}/ns/{kind}");
            File::open(&path).with_context(|| format!("open {path}"))
        };
        Ok(Self {
            init: pid,
            net: NetNs::open(format!("/proc/{pid}/ns/net"))?,
            kinds: vec![
                (open("pid")?, CloneFlags::CLONE_NEWPID),
                (open("net")?, CloneFlags::CLONE_NEWNET),
                (open("uts")?, CloneFlags::CLONE_NEWUTS),
                // Last: the others are opened by their path in this one.
                (open("mnt")?, CloneFlags::CLONE_NEWNS),
            ],
        })
    }

    /// Its first process, as this process sees it.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// Its network.
    pub fn net(&self) -> &NetNs {
        &self.net
    }

    /// Starts a program in it. Whoever drops the space's [`Holder`] has to have
    /// waited for it, or kills the space first and then waits.
    ///
    /// # Errors
    /// If it can't be entered, or there is no such program in it.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.spawn_in(command, &[])
    }

    /// Starts a program that ends with it, but uses this process' network and
    /// files.
    ///
    /// # Errors
    /// If there is no such program.
    pub fn spawn_outside(&self, command: &mut Command) -> Result<Child> {
        let but = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
        self.spawn_in(command, &[but])
    }

    fn spawn_in(&self, command: &mut Command, but: &[CloneFlags]) -> Result<Child> {
        let program = command.get_program().to_owned();
        let stays = |kind: CloneFlags| but.iter().any(|flags| flags.contains(kind));
        on_thread(|| {
            // A thread that shares its working directory can't change mounts.
            unshare(CloneFlags::CLONE_FS)?;
            for (file, kind) in &self.kinds {
                if !stays(*kind) {
                    setns(file.as_fd(), *kind)?;
                }
            }
            Ok(command.process_group(0).spawn()?)
        })
        .with_context(|| format!("start {}", program.to_string_lossy()))
    }
}

/// Namespaces belong to threads: one that is changed is used up.
fn on_thread<T: Send>(function: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, function)?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The child of a process that has one, once it has it.
fn only_child(pid: u32) -> Result<u32> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .with_context(|| format!("process {pid} ended"))?;
        if let Some(child) = children.split_whitespace().next() {
            return Ok(child.parse()?);
        }
        ensure!(Instant::now() < deadline, "process {pid} has no child");
        #[allow(clippy::disallowed_methods, reason = "a synchronous wait of a test")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program in a box. Ends with the box, not with this value.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    log: std::path::PathBuf,
}

impl Program {
    /// Starts it in a space; what it writes is appended to `NAME.log` in `dir`.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(space: &Space, dir: &Path, name: &str, mut command: Command) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        Ok(Self {
            name: name.to_owned(),
            child: space.spawn(&mut command)?,
            log,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended, with the end of what it wrote.
    ///
    /// # Errors
    /// If it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, tail(&self.log)),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// SIGTERM, then SIGKILL after the bound; waits.
    ///
    /// # Errors
    /// If it can't be waited for.
    pub fn stop(&mut self, bound: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + bound;
        let mut sent = false;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.child.kill()?;
                return Ok(self.child.wait()?);
            }
            if !sent {
                self.signal(Signal::SIGTERM)?;
                sent = true;
            }
            #[allow(clippy::disallowed_methods, reason = "a synchronous wait of a test")]
            std::thread::sleep(Duration::from_millis(10));
        }
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

    /// Resident memory now, in bytes.
    ///
    /// # Errors
    /// If it is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib: u64 = line
            .context("no VmRSS")?
            .trim()
            .trim_end_matches(" kB")
            .parse()?;
        Ok(kib * 1024)
    }
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(15);
    lines.get(from..).unwrap_or_default().join("\n")
}
