//! Readiness of descriptors that tokio has no type for. The crate's only
//! `unsafe` is here.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Watches a nonblocking descriptor on the current runtime.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[allow(unsafe_code, reason = "the only way to register a descriptor")]
    // SAFETY: an `OwnedFd` names the same open file for as long as it lives,
    // and the `AsyncFd` owns it until it has been deregistered.
    let registered = unsafe { AsyncFd::register(fd) };
    registered.map_err(io::Error::from)
}
