//! A network namespace as a value: open, compare, run in it.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::fstat;
use nix::sys::statfs::fstatfs;

/// Device and inode of a namespace: what makes two handles the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NsId {
    /// Device of nsfs.
    pub dev: u64,
    /// Inode on it.
    pub ino: u64,
}

/// An open network namespace. Clones share the descriptor; the namespace lives
/// at least as long as one of them.
#[derive(Debug, Clone)]
pub struct NetNs {
    fd: Arc<OwnedFd>,
    id: NsId,
}

impl NetNs {
    /// Opens the namespace that a path names: `/proc/PID/ns/net` or a bind mount.
    ///
    /// # Errors
    /// If the path can't be opened, or isn't a namespace.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        Self::from_fd(File::open(path).map_err(named)?.into()).map_err(named)
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// If `/proc` isn't mounted.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Takes a descriptor that was received from somebody else.
    ///
    /// # Errors
    /// If it isn't on nsfs. That it is a *network* namespace shows when it is entered.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        if fstatfs(&fd)?.filesystem_type() != nix::sys::statfs::NSFS_MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a namespace",
            ));
        }
        let stat = fstat(&fd)?;
        Ok(Self {
            fd: Arc::new(fd),
            id: NsId {
                dev: stat.st_dev,
                ino: stat.st_ino,
            },
        })
    }

    /// What identifies the namespace.
    pub fn id(&self) -> NsId {
        self.id
    }

    /// Runs a function with this thread inside the namespace, then goes back.
    /// The function must not await or spawn: only this thread moves.
    ///
    /// # Errors
    /// If the namespace can't be entered (`CAP_SYS_ADMIN` in its user namespace).
    /// A thread that can't go back ends the process: it would open sockets in
    /// the wrong place for ever after.
    pub fn run<T>(&self, function: impl FnOnce() -> T) -> io::Result<T> {
        let home = match HERE.take() {
            Some(home) => home,
            None => Self::current()?,
        };
        if home.id == self.id {
            HERE.set(Some(home));
            return Ok(function());
        }
        if let Err(error) = setns(self.as_fd(), CloneFlags::CLONE_NEWNET) {
            HERE.set(Some(home));
            return Err(error.into());
        }
        HERE.set(Some(self.clone()));
        let _back = GoBack(home);
        Ok(function())
    }

    /// [`run`](Self::run) on a short-lived thread, for work that blocks.
    ///
    /// # Errors
    /// If the namespace can't be entered or no thread can be started.
    pub fn run_on_thread<T: Send>(&self, function: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                setns(self.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(function())
            })?;
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

thread_local! {
    /// Where this thread is, once [`NetNs::run`] has asked: it saves every
    /// later call the system calls that would find out.
    static HERE: Cell<Option<NetNs>> = const { Cell::new(None) };
}

/// Moves the thread back when it is dropped, also by a panic.
struct GoBack(NetNs);

impl Drop for GoBack {
    fn drop(&mut self) {
        if setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).is_err() {
            std::process::abort();
        }
        HERE.set(Some(self.0.clone()));
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A namespace that was created here and is kept by a bind mount, like those
/// that `ip netns add` makes. Dropping it removes the mount; processes and
/// sockets in it keep the namespace itself alive.
#[derive(Debug)]
pub struct NamedNetNs {
    path: PathBuf,
    ns: NetNs,
}

impl NamedNetNs {
    /// Creates a namespace at `dir/name`. Its loopback is down.
    ///
    /// # Errors
    /// If the file exists, or the caller may not create or mount namespaces.
    pub fn create(dir: &Path, name: &str) -> io::Result<Self> {
        let path = dir.join(name);
        std::fs::create_dir_all(dir)?;
        File::create_new(&path)?;
        let target = path.clone();
        let made = std::thread::Builder::new()
            .spawn(move || -> io::Result<()> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                mount(
                    Some("/proc/thread-self/ns/net"),
                    &target,
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                )?;
                Ok(())
            })?
            .join()
            .unwrap_or_else(|_| {
                Err(io::Error::other(
                    "the thread that makes namespaces panicked",
                ))
            });
        match made.and_then(|()| NetNs::open(&path)) {
            Ok(ns) => Ok(Self { path, ns }),
            Err(error) => {
                remove(&path);
                Err(error)
            }
        }
    }

    /// Removes what a killed run left at `dir/name`. Nothing there is fine.
    pub fn remove_stale(dir: &Path, name: &str) {
        remove(&dir.join(name));
    }

    /// The bind mount.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The namespace.
    pub fn ns(&self) -> &NetNs {
        &self.ns
    }
}

impl Drop for NamedNetNs {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    // Best effort: either call fails where the step before it never happened.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = std::fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_is_not_a_namespace() {
        let file = File::open("/proc/self/status").unwrap();
        assert!(NetNs::from_fd(file.into()).is_err());
    }

    #[test]
    fn runs_inside_and_comes_back() {
        if !crate::require_privilege("entering a namespace") {
            return;
        }
        let dir = std::env::temp_dir();
        let name = format!("ambit-netns-test-{}", std::process::id());
        let made = NamedNetNs::create(&dir, &name).unwrap();
        let home = NetNs::current().unwrap().id();
        assert_ne!(made.ns().id(), home);
        let inside = made.ns().run(|| NetNs::current().unwrap().id()).unwrap();
        assert_eq!(inside, made.ns().id());
        assert_eq!(NetNs::current().unwrap().id(), home);
        let inside = made
            .ns()
            .run_on_thread(|| NetNs::current().unwrap().id())
            .unwrap();
        assert_eq!(inside, made.ns().id());
        assert!(
            NamedNetNs::create(&dir, &name).is_err(),
            "the name is taken"
        );
        let path = made.path().to_owned();
        drop(made);
        assert!(!path.exists());
    }
}
