//! Notices that the directory changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ambit_kube::Change;
use ambit_runtime::Scope;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::notes::{Look, Notes};
use crate::scanner::Scanner;

/// A directory of manifests as a source of changes.
#[derive(Debug, Clone)]
pub struct DirSource {
    dir: PathBuf,
    rescan: Duration,
}

impl DirSource {
    /// A source that reads `dir` and everything below it.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            rescan: RESCAN,
        }
    }

    /// Looks at everything again this often, whether or not the system told of a change (2 s unless said otherwise);
    /// less often, down to once in 30 s, where a look takes so long that what changes would wait for it.
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
        let noted = Noted::default();
        let mut watch = Watch::new(&self.dir, noted.clone());
        let mut scanner = Scanner::new(self.dir.clone());
        let mut look = noted.everything();
        let mut rescan = Instant::now() + self.rescan;
        loop {
            let everything = matches!(look, Look::Everything { .. });
            if everything {
                watch.ensure(scanner.root());
            }
            let began = Instant::now();
            let Some((back, changes)) = scan(scanner, look).await else {
                return;
            };
            scanner = back;
            if everything {
                rescan = Instant::now() + pause(self.rescan, began.elapsed());
            }
            if !changes.is_empty() {
                debug!(changes = changes.len(), dir = %self.dir.display(), "manifests changed");
                if tx.send(changes).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                next = noted.next(rescan) => look = next,
                () = tx.closed() => return,
            }
        }
    }
}

/// What the system has told, shared with the thread that listens to it.
#[derive(Clone, Default)]
struct Noted(Arc<(Mutex<Notes>, Notify)>);

impl Noted {
    fn take(&self, event: &notify::Event) {
        let (notes, notify) = &*self.0;
        if notes.lock().take(event, std::time::Instant::now()) {
            notify.notify_one();
        }
    }

    fn everything(&self) -> Look {
        self.0.0.lock().everything()
    }

    /// What to look at next: at everything at `rescan`, sooner at what was noted. What happens together is looked at
    /// together.
    async fn next(&self, rescan: Instant) -> Look {
        let (notes, notify) = &*self.0;
        let mut gathered = false;
        loop {
            let now = Instant::now();
            if now >= rescan {
                // What was noted is part of it.
                let mut notes = notes.lock();
                notes.look(now.into_std());
                return notes.everything();
            }
            if gathered && let Some(look) = notes.lock().look(now.into_std()) {
                return look;
            }
            let due = notes.lock().due().map(Instant::from_std);
            if timeout_at(due.unwrap_or(rescan).min(rescan), notify.notified())
                .await
                .is_ok()
            {
                gather(notify).await;
            }
            gathered = true;
        }
    }
}

/// How long to wait after a look at everything that took so long: a change that comes meanwhile waits for its end, and
/// one in a hundred must not.
fn pause(wanted: Duration, took: Duration) -> Duration {
    wanted.max((took * SHARE).min(RESCAN_AT_LEAST))
}

/// Waits until nothing more is told for a moment.
async fn gather(told: &Notify) {
    let latest = Instant::now() + GATHER_AT_MOST;
    while Instant::now() < latest && timeout(GATHER, told.notified()).await.is_ok() {}
}

/// One look, off the runtime's threads. None only when the look itself panicked.
async fn scan(mut scanner: Scanner, look: Look) -> Option<(Scanner, Vec<Change>)> {
    let look = tokio::task::spawn_blocking(move || {
        let changes = scanner.look(&look);
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
    fn new(dir: &Path, noted: Noted) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Ok(event) = event {
                noted.take(&event);
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

/// Quiet for this long, and what happened together is over;
const GATHER: Duration = Duration::from_millis(2);
/// or after this long.
const GATHER_AT_MOST: Duration = Duration::from_millis(10);
/// Links into other directories, lost notifications: seen after this long.
const RESCAN: Duration = Duration::from_secs(2);
/// Looks at everything take at most this share of the time,
const SHARE: u32 = 200;
/// but for directories of tens of thousands of files on slow disks.
const RESCAN_AT_LEAST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
