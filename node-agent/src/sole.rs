//! One agent of a node at a time.
//!
//! A container that is told to end may be started once more by its kubelet, and
//! then there are two agents for a moment. The one that binds a socket takes
//! its path from the other: whoever ends first could leave the path to a socket
//! that nobody serves. So an agent begins when it has the lock beside its
//! socket, which the kernel gives back however its holder ends.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

/// Waits until no other agent has this socket. It is ours for as long as the
/// file is held.
///
/// # Errors
/// The lock's file can't be made, or its file system has no locks.
pub(crate) async fn agent_of(socket: &Path) -> io::Result<File> {
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut path = OsString::from(socket);
    path.push(".lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if !std::mem::replace(&mut told, true) {
            warn!(?path, "another agent of this node hasn't ended yet");
        }
        sleep(BETWEEN).await;
    }
}

const BETWEEN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn the_next_agent_begins_when_this_one_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("ztunnel").join("ztunnel.sock");
        let first = agent_of(&socket).await.unwrap();
        let next = agent_of(&socket);
        tokio::pin!(next);
        let moment = Duration::from_millis(300);
        assert!(timeout(moment, &mut next).await.is_err());
        drop(first);
        let held = next.await.unwrap();
        // Another socket is another agent's.
        agent_of(&dir.path().join("other.sock")).await.unwrap();
        drop(held);
        agent_of(&socket).await.unwrap();
    }
}
