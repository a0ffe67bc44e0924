//! The data threads: one current-thread runtime each, sharing nothing but the
//! configuration and the counters.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use ambit_hbone::HandshakeGate;
use ambit_runtime::CancellationToken;
use tokio::runtime::{Builder, Handle};

/// One data thread, as the control thread sees it.
#[derive(Clone)]
pub(crate) struct DataThread {
    /// Where its tasks are spawned.
    pub(crate) runtime: Handle,
    /// Its handshakes.
    pub(crate) gate: HandshakeGate,
}

/// All of them. Dropping it ends them.
pub(crate) struct DataThreads {
    pub(crate) threads: Vec<DataThread>,
    stop: CancellationToken,
    joins: Vec<JoinHandle<()>>,
}

impl DataThreads {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// The kernel gives no more threads or descriptors.
    pub(crate) fn start(count: usize, half_open: usize) -> io::Result<Self> {
        let mut started = Self {
            threads: Vec::new(),
            stop: CancellationToken::new(),
            joins: Vec::new(),
        };
        for index in 0..count.max(1) {
            let stop = started.stop.clone();
            let (tell, told) = mpsc::sync_channel(1);
            let join = std::thread::Builder::new()
                .name(format!("data-{index}"))
                .spawn(move || run(&tell, &stop))?;
            started.joins.push(join);
            let runtime = told
                .recv()
                .map_err(|_| io::Error::other("a data thread ended"))??;
            started.threads.push(DataThread {
                runtime,
                gate: HandshakeGate::new(half_open),
            });
        }
        Ok(started)
    }

    /// Their runtimes, for the metrics.
    pub(crate) fn runtimes(&self) -> Vec<Handle> {
        let runtimes = self.threads.iter().map(|thread| thread.runtime.clone());
        runtimes.collect()
    }
}

impl Drop for DataThreads {
    fn drop(&mut self) {
        self.stop.cancel();
        for join in self.joins.drain(..) {
            // A data thread that panicked has said so already.
            let _ = join.join();
        }
    }
}

fn run(tell: &mpsc::SyncSender<io::Result<Handle>>, stop: &CancellationToken) {
    match Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
    {
        Ok(runtime) => {
            if tell.send(Ok(runtime.handle().clone())).is_ok() {
                runtime.block_on(stop.cancelled());
            }
        }
        Err(error) => {
            // Nobody waits any more only if the process ends anyway.
            let _ = tell.send(Err(error));
        }
    }
}
