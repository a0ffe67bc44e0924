//! How many data threads run.

use super::reader::{Reader, number};

/// `AMBIT_WAYPOINT_THREADS` (0: one a core) beats the pod's CPU limit, which
/// beats a quarter of the cores. A core is the most that a thread can use.
pub(super) fn data_threads(r: &mut Reader<'_>, cores: usize) -> usize {
    let suggested = match r.optional("ISTIO_CPU_LIMIT", number::<usize>) {
        Some(limit) => limit.clamp(1, cores.max(1)),
        None => cores.div_ceil(4).max(1),
    };
    match r.or("AMBIT_WAYPOINT_THREADS", suggested, number) {
        0 => cores.max(1),
        threads => threads.min(MAX_THREADS),
    }
}

const MAX_THREADS: usize = 256;
