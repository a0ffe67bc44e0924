//! Whether this process may make namespaces, for tests that need it.

use nix::sched::{CloneFlags, unshare};

/// True if namespaces can be made here. If not, says on standard error that
/// `what` is skipped.
///
/// # Panics
/// If they can't be made and `AMBIT_REQUIRE_NETNS=1`: in CI what needs
/// privilege fails when it can't run.
#[allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::panic,
    reason = "test support"
)]
pub fn require_privilege(what: &str) -> bool {
    let allowed = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok())
        .join()
        .unwrap_or(false);
    if allowed {
        return true;
    }
    let required = std::env::var("AMBIT_REQUIRE_NETNS").is_ok_and(|v| v == "1");
    assert!(
        !required,
        "{what}: needs CAP_SYS_ADMIN, and AMBIT_REQUIRE_NETNS=1 forbids to skip it"
    );
    eprintln!("SKIPPED {what}: this process may not create network namespaces");
    false
}
