//! The data threads of a proxy: one current-thread runtime each, sharing nothing.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};

use crate::CancellationToken;

/// All of them. Dropping it ends them.
pub struct DataThreads {
    runtimes: Vec<Handle>,
    stop: CancellationToken,
    joins: Vec<JoinHandle<()>>,
}

impl DataThreads {
    /// Starts `count` threads, one at least.
    ///
    /// # Errors
    /// The kernel gives no more threads or descriptors.
    pub fn start(count: usize) -> io::Result<Self> {
        let mut started = Self {
            runtimes: Vec::new(),
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
            started.runtimes.push(runtime);
        }
        Ok(started)
    }

    /// Where tasks are spawned, one runtime a thread.
    pub fn runtimes(&self) -> &[Handle] {
        &self.runtimes
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
    // Blocking threads are rarely used, and never for data: one that isn't
    // there costs nothing.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_runs_on_the_thread_of_its_runtime() {
        let threads = DataThreads::start(2).unwrap();
        let names = threads.runtimes().iter().map(|runtime| {
            let (tell, told) = mpsc::channel();
            runtime.spawn(async move {
                let name = std::thread::current().name().map(str::to_owned);
                tell.send(name).unwrap();
            });
            told.recv().unwrap().unwrap()
        });
        assert_eq!(names.collect::<Vec<_>>(), ["data-0", "data-1"]);
    }

    #[test]
    fn there_is_one_at_least_and_they_end_with_their_owner() {
        let threads = DataThreads::start(0).unwrap();
        let runtime = threads.runtimes().first().unwrap().clone();
        drop(threads);
        let late = runtime.spawn(async {});
        let ended = Builder::new_current_thread().build().unwrap();
        assert!(ended.block_on(late).unwrap_err().is_cancelled());
    }
}
