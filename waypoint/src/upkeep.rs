//! What has to be done now and then: sweeps of ejected endpoints, names of
//! endpoints resolved anew, counters of what is gone forgotten, looks at the
//! memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_runtime::Scope;

use crate::node::Node;

/// Runs until the scope ends.
pub(crate) fn start(node: &Arc<Node>, scope: &Scope) {
    let own = Arc::clone(node);
    scope.spawn("memory", async move { own.memory.watch().await });
    let own = Arc::clone(node);
    scope.spawn("ticks", async move {
        let mut seconds = 0u32;
        loop {
            tokio::time::sleep(TICK).await;
            seconds = seconds.wrapping_add(1);
            let config = own.config.load_full();
            let now = Instant::now();
            for service in config.services() {
                for target in &service.targets {
                    target.cluster.tick(now);
                }
            }
            if seconds.is_multiple_of(SWEEP_EVERY) {
                own.observer.sweep();
            }
        }
    });
}

const TICK: Duration = Duration::from_secs(1);
/// Ticks between two sweeps of metrics.
const SWEEP_EVERY: u32 = 3600;
