//! A cluster as it is now, for a program that looks once and ends.
//!
//! Reads as the source does, and gives up where that would try for ever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ambit_kube::{Change, ObjectKey};
use ambit_runtime::Scope;
use kube::Client;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::{ApiSettings, ApiSource};

/// One look at a cluster.
pub struct Look {
    source: ApiSource,
    scope: Scope,
    changes: mpsc::Receiver<Vec<Change>>,
}

/// Something can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} can't be read from the API server: {why}")]
pub struct Unread {
    /// The kind, or the object.
    pub what: Arc<str>,
    /// In the server's words, or ours.
    pub why: String,
}

impl Drop for Look {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

impl Look {
    /// Begins to read, with tasks on the current runtime that end with this.
    pub fn start(client: Client, settings: ApiSettings) -> Self {
        let source = ApiSource::new(client, settings);
        let scope = Scope::new("look");
        let (tell, changes) = mpsc::channel(CHANGES);
        source.run(&scope, tell);
        Self {
            source,
            scope,
            changes,
        }
    }

    /// Every object of the kinds that are read and that the cluster has, Secrets and ConfigMaps excepted, and what is
    /// wrong with them.
    ///
    /// # Errors
    /// What can't be read, for example for want of rights; or what wasn't within `patience`.
    pub async fn all(&mut self, patience: Duration) -> Result<Vec<Change>, Unread> {
        let mut told = Vec::new();
        let deadline = Instant::now() + patience;
        loop {
            tokio::select! {
                batch = self.changes.recv() => {
                    let Some(batch) = batch else { break };
                    told.extend(batch);
                    if told.last() == Some(&Change::Synced) {
                        told.pop();
                        return Ok(told);
                    }
                }
                () = sleep(OFTEN) => if let Some(unread) = self.unread().into_iter().next() {
                    return Err(unread);
                },
                () = sleep_until(deadline) => break,
            }
        }
        let waiting = self.source.watches().waiting().join(", ");
        Err(Unread {
            what: waiting.into(),
            why: "no whole answer in time".to_owned(),
        })
    }

    /// These Secrets and ConfigMaps, as far as they are there and can be had; and those that can't.
    pub async fn single(&mut self, wanted: &BTreeSet<ObjectKey>) -> (Vec<Change>, Vec<Unread>) {
        let mut told = Vec::new();
        if self.source.wanted().set(wanted) {
            while let Some(batch) = self.changes.recv().await {
                told.extend(batch);
                if told.last() == Some(&Change::Synced) {
                    told.pop();
                    break;
                }
            }
        }
        (told, self.unread())
    }

    /// What can't be read, and won't be if it is tried again.
    fn unread(&self) -> Vec<Unread> {
        let watches = self.source.watches().all().into_iter();
        let unread = watches.filter_map(|(what, state)| {
            let lasts = !state.synced && state.faults.keys().any(|fault| LASTING.contains(fault));
            let (_, why) = state.last_fault.filter(|_| lasts)?;
            Some(Unread { what, why })
        });
        unread.collect()
    }
}

/// Faults, as metrics call them, that another try doesn't mend.
const LASTING: [&str; 5] = ["forbidden", "away", "garbled", "too_large", "request"];
/// How often it is looked for them.
const OFTEN: Duration = Duration::from_millis(100);
/// Batches on their way.
const CHANGES: usize = 8;
