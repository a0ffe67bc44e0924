//! Entry point of `istiod-lite`.

use clap::Parser;
use istiod_lite::Args;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by jemalloc: what a burst of changes used goes back soon.
#[cfg(feature = "jemalloc")]
#[allow(
    unsafe_code,
    reason = "the exported name under which jemalloc looks for its options"
)]
// SAFETY: a thin pointer to a NUL-terminated text, as jemalloc declares it; the name is its own.
#[unsafe(export_name = "_rjem_malloc_conf")]
static OPTIONS: Option<&std::ffi::c_uchar> =
    b"narenas:2,dirty_decay_ms:500,muzzy_decay_ms:0\0".first();

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ambit_identity::install()?;
    istiod_lite::run(args)
}
