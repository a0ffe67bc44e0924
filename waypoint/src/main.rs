//! Entry point of `waypoint`.

use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by jemalloc: little idle memory, since freed pages go back soon. A
/// request allocates some 28 KiB, so that a thread's cache would be looked
/// through at every second or third one; once in a MiB is enough.
#[cfg(feature = "jemalloc")]
#[allow(
    unsafe_code,
    reason = "the exported name under which jemalloc looks for its options"
)]
// SAFETY: a thin pointer to a NUL-terminated text, as jemalloc declares it; the name is its own.
#[unsafe(export_name = "_rjem_malloc_conf")]
static OPTIONS: Option<&std::ffi::c_uchar> =
    b"narenas:2,background_thread:true,dirty_decay_ms:200,muzzy_decay_ms:0,tcache_max:16384,tcache_gc_incr_bytes:1048576\0".first();

fn main() -> ExitCode {
    waypoint::main(std::env::args().skip(1), &ambit_runtime::ProcessEnv)
}
