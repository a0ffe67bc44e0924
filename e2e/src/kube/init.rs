//! What runs as the first process of a set of namespaces: of the box, of a
//! node, of a pod. Prepares mounts, reaps orphans, ends when it is told to.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// First process of a pod: holds its namespaces until SIGTERM.
///
/// # Errors
/// If signals can't be waited for.
pub fn pause() -> Result<()> {
    hold(Lifeline::Signals)
}

/// First process of a box, in fresh namespaces: hides the machine's mounts,
/// and holds until its standard input ends.
///
/// # Errors
/// If mounts can't be made.
pub fn hold_box() -> Result<()> {
    set_propagation("/", MsFlags::MS_SLAVE)?;
    mount_kind("proc", "/proc")?;
    mount_kind("tmpfs", "/run")?;
    say_ready()?;
    hold(Lifeline::Input)
}

/// In a box: makes a node's namespaces and waits for its first process.
///
/// # Errors
/// If namespaces can't be made.
pub fn start_node(name: &str, state: &Path, bin: &Path) -> Result<ExitCode> {
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS,
    )?;
    let status = Command::new(std::env::current_exe()?)
        .args(["node-inside", name])
        .args([state, bin])
        .status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// First process of a node: makes the machine look like one of its own. What
/// is written to `/etc`, `/opt` and `/var` stays below `state`, over restarts
/// of the node too; `/run` and `/tmp` are new.
///
/// # Errors
/// If mounts can't be made.
pub fn hold_node(name: &str, state: &Path, bin: &Path) -> Result<()> {
    set_propagation("/", MsFlags::MS_SLAVE)?;
    mount_kind("proc", "/proc")?;
    fs::write("/proc/sys/kernel/hostname", name).context("name the node")?;
    // First what lies outside: it may be below a directory that is hidden next.
    let own = made(state.join("own"))?;
    mount_kind("tmpfs", &own)?;
    for (from, to) in [(state, "state"), (bin, "bin")] {
        bind(from, &made(own.join(to))?)?;
    }
    mount_kind("tmpfs", "/run")?;
    mount_kind("tmpfs", "/tmp")?;
    let here = made(Path::new("/run/box").to_owned())?;
    mount(
        Some(&own),
        &here,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .context("bind what is the node's own")?;
    for dir in ["etc", "opt", "var"] {
        overlay(dir)?;
    }
    // These two put overlays of their own there, which can't be on an overlay.
    for dir in ["containerd", "kubelet"] {
        let from = made(here.join("state").join(dir))?;
        bind(&from, &made(Path::new("/var/lib").join(dir))?)?;
    }
    cover_sysctls(&here)?;
    set_propagation("/", MsFlags::MS_SHARED)?;
    say_ready()?;
    hold(Lifeline::Input)
}

/// The kubelet sets these for the whole machine. It finds them as it wants
/// them, and leaves the real ones alone.
fn cover_sysctls(here: &Path) -> Result<()> {
    let dir = made(here.join("sysctl"))?;
    let wanted = [
        ("vm/overcommit_memory", "1"),
        ("vm/panic_on_oom", "0"),
        ("kernel/panic", "10"),
        ("kernel/panic_on_oops", "1"),
        ("kernel/keys/root_maxkeys", "1000000"),
        ("kernel/keys/root_maxbytes", "25000000"),
    ];
    for (name, value) in wanted {
        let at = Path::new("/proc/sys").join(name);
        if at.exists() {
            let file = dir.join(name.replace('/', "."));
            fs::write(&file, format!("{value}\n"))?;
            bind(&file, &at)?;
        }
    }
    Ok(())
}

/// What is written below `/DIR` goes to the node's state.
fn overlay(dir: &str) -> Result<()> {
    let base = Path::new("/run/box/state").join("root").join(dir);
    let (upper, work) = (made(base.join("upper"))?, made(base.join("work"))?);
    let options = format!(
        "lowerdir=/{dir},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        &Path::new("/").join(dir),
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .with_context(|| {
        format!("an overlay over /{dir}: the build directory must be on a file system that overlays can write to")
    })
}

fn made(dir: std::path::PathBuf) -> Result<std::path::PathBuf> {
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("bind {} to {}", from.display(), to.display()))
}

fn mount_kind(kind: &str, at: impl AsRef<Path>) -> Result<()> {
    let at = at.as_ref();
    mount(
        Some(kind),
        at,
        Some(kind),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        None::<&str>,
    )
    .with_context(|| format!("mount {kind} at {}", at.display()))
}

fn set_propagation(at: &str, kind: MsFlags) -> Result<()> {
    mount(
        None::<&str>,
        at,
        None::<&str>,
        MsFlags::MS_REC | kind,
        None::<&str>,
    )
    .context("set how mounts propagate")
}

fn say_ready() -> Result<()> {
    let mut output = std::io::stdout();
    output.write_all(b"ready\n")?;
    Ok(output.flush()?)
}

/// What ends a first process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lifeline {
    /// SIGTERM or SIGINT.
    Signals,
    /// The end of its standard input, until it reads a line there.
    Input,
    /// SIGKILL only.
    None,
}

/// Reaps until it is told to end. Standard input is not buffered here.
fn hold(mut lifeline: Lifeline) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let input = std::io::stdin();
    loop {
        reap();
        let mut waits = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if lifeline == Lifeline::Input {
            waits.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut waits, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let input_ready = waits
            .get(1)
            .and_then(PollFd::any)
            .is_some_and(|something| something);
        while let Some(signal) = signals.read_signal()? {
            let told = signal.ssi_signo != Signal::SIGCHLD as u32;
            if told && lifeline == Lifeline::Signals {
                return Ok(());
            }
        }
        if input_ready {
            match nix::unistd::read(input.as_fd(), &mut [0; 16])? {
                0 => return Ok(()),
                _ => lifeline = Lifeline::None,
            }
        }
    }
}

fn reap() {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => {}
        }
    }
}
