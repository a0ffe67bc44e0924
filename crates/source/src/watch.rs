//! Notices that the directory changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ambit_kube::Change;
use ambit_runtime::Scope;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::scanner::Scanner;

/// A directory of manifests as a source of changes.
#[derive(Debug, Clone)]
pub struct DirSource {
    dir: PathBuf,
    settle: Duration,
    rescan: Duration,
}

impl DirSource {
    /// A source that reads `dir` and everything below it.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            settle: SETTLE,
            rescan: RESCAN,
        }
    }

    /// Looks again at least this often, whether or not the system told of a change (2 s unless said otherwise).
    #[must_use]
    pub fn rescan_every(self, rescan: Duration) -> Self {
        Self { rescan, ..self }
    }

    /// Starts a task on `scope` that sends a batch for every change, the first one ending with [`Change::Synced`].
    ///
    /// It waits while the receiver is busy, and ends when the receiver is gone or the scope is cancelled.
    pub fn run(self, scope: &Scope, tx: mpsc::Sender<Vec<Change>>) {
        scope.spawn("directory source", self.serve(tx));
    }

    async fn serve(self, tx: mpsc::Sender<Vec<Change>>) {
        // One pending event is as good as a thousand: each makes us look at everything.
        let (dirty, mut events) = mpsc::channel(1);
        let mut watch = Watch::new(&self.dir, dirty);
        let mut scanner = Scanner::new(self.dir.clone());
        loop {
            watch.ensure(scanner.root());
            let Some((back, changes)) = scan(scanner).await else {
                return;
            };
            scanner = back;
            if !changes.is_empty() {
                debug!(changes = changes.len(), dir = %self.dir.display(), "manifests changed");
                if tx.send(changes).await.is_err() {
                    return;
                }
            }
            let next = Instant::now() + self.rescan;
            tokio::select! {
                () = sleep_until(next) => {}
                Some(()) = events.recv() => self.settle(&mut events).await,
                () = tx.closed() => return,
            }
        }
    }

    /// Waits until nothing has happened for a moment, so that a file is read when its writer is done.
    async fn settle(&self, events: &mut mpsc::Receiver<()>) {
        let latest = Instant::now() + MAX_SETTLE;
        while Instant::now() < latest
            && matches!(timeout(self.settle, events.recv()).await, Ok(Some(())))
        {}
    }
}

/// One look, off the runtime's threads. None only when the look itself panicked.
async fn scan(mut scanner: Scanner) -> Option<(Scanner, Vec<Change>)> {
    let look = tokio::task::spawn_blocking(move || {
        let changes = scanner.scan();
        (scanner, changes)
    });
    match look.await {
        Ok(seen) => Some(seen),
        Err(error) => {
            warn!(%error, "the directory of manifests isn't watched any more");
            None
        }
    }
}

/// The system's notifications for the directory, as long as it gives any.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// The directory that is watched, to notice that another one took its place.
    watched: Option<(u64, u64)>,
}

impl Watch {
    fn new(dir: &Path, dirty: mpsc::Sender<()>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let matters = event.is_ok_and(|event| !event.kind.is_access());
            if matters && dirty.try_send(()).is_err() {
                // Full: a look is due anyway. Closed: nobody listens any more.
            }
        });
        let watcher = watcher
            .inspect_err(|error| info!(%error, dir = %dir.display(), "no file notifications, looking at intervals only"))
            .ok();
        Self {
            watcher,
            watched: None,
        }
    }

    /// Watches the directory that is there now.
    fn ensure(&mut self, dir: &Path) {
        use std::os::unix::fs::MetadataExt as _;
        let there = std::fs::metadata(dir)
            .ok()
            .map(|metadata| (metadata.dev(), metadata.ino()));
        let Some(watcher) = self.watcher.as_mut().filter(|_| there != self.watched) else {
            return;
        };
        if self.watched.is_some() && watcher.unwatch(dir).is_err() {
            // The directory that was watched is gone, and its watch with it.
        }
        self.watched = there.filter(|_| {
            watcher
                .watch(dir, RecursiveMode::Recursive)
                .inspect_err(|error| debug!(%error, dir = %dir.display(), "no notifications yet"))
                .is_ok()
        });
    }
}

/// Quiet for this long, and the writer is taken to be done.
const SETTLE: Duration = Duration::from_millis(100);
/// Whatever happens in the directory, a change is seen after this long.
const MAX_SETTLE: Duration = Duration::from_secs(1);
/// Links into other directories, lost notifications: seen after this long.
const RESCAN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
