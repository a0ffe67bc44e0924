//! Root, or root in a user namespace of one's own.

use std::fs;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// How the privilege to make namespaces was had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// The process is root.
    Root,
    /// It made a user namespace, in which it is root.
    UserNamespace,
}

/// Makes sure that namespaces can be made. Must be called while the process
/// has one thread only.
///
/// # Errors
/// If an ordinary user may not make user namespaces here.
pub fn acquire() -> Result<Privilege> {
    if geteuid().is_root() {
        return Ok(Privilege::Root);
    }
    let (user, group) = (geteuid(), getegid());
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    unshare(flags).context(
        "make a user namespace: run as root, or allow unprivileged user namespaces \
         (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0)",
    )?;
    // The kernel takes a group map of an ordinary user only after this.
    fs::write("/proc/self/setgroups", "deny").context("write setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("write the user map")?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("write the group map")?;
    // Mounts made here stay here.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("make mounts private")?;
    Ok(Privilege::UserNamespace)
}
