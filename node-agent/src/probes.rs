//! Keeps the node's translation of kubelet's probes in step with the board.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ambit_redirect::Probes;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::args::KubeletUid;
use crate::board::{Board, Phase};
use crate::finder;

/// The user whose probes are translated.
pub(crate) fn kubelet(asked: KubeletUid, proc: Option<&Path>) -> u32 {
    match asked {
        KubeletUid::Uid(uid) => uid,
        KubeletUid::Auto => {
            let found = finder::kubelet_uid(proc.unwrap_or(Path::new("/proc")));
            info!(
                uid = found.unwrap_or(ROOT),
                found = found.is_some(),
                "kubelet's user"
            );
            found.unwrap_or(ROOT)
        }
    }
}

/// Runs until it's dropped; what it wrote stays, for the agent's successor.
pub(crate) async fn run(mut probes: Probes, board: Board) {
    let mut changes = board.changes();
    loop {
        changes.mark_unchanged();
        let (_, pods) = board.all();
        let mut addresses = BTreeMap::new();
        for (id, status) in pods {
            // A moment too early rather than too late: a strict policy would
            // turn kubelet away.
            if matches!(status.phase, Phase::ProxyListening | Phase::Redirected) {
                let ips = status.ips.into_iter().map(|ip| (ip, id.clone()));
                addresses.extend(ips);
            }
        }
        if let Err(error) = probes.ensure(&addresses).await {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            warn!(%error, source, "translating probes on the node; trying again");
            sleep(RETRY).await;
            continue;
        }
        // Whether it changed or the poll is due: the table is looked at again.
        let _ = timeout(SLOW_POLL, changes.changed()).await;
    }
}

/// What kubelet runs as everywhere but in tests.
const ROOT: u32 = 0;
const RETRY: Duration = Duration::from_secs(1);
const SLOW_POLL: Duration = Duration::from_secs(30);
