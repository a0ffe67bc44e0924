//! Going away in three phases: stop accepting, wait, cancel.

use std::time::Duration;

use tokio::sync::watch;

/// How a drain ends what is still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainMode {
    /// Open work may finish within the deadline.
    Graceful {
        /// Time that open work has.
        deadline: Duration,
    },
    /// Open work ends at once.
    Immediate,
}

/// Starts a drain. Dropping it without a start drains nobody.
pub struct DrainTrigger(watch::Sender<Option<DrainMode>>);

/// Sees a drain start.
#[derive(Clone)]
pub struct DrainWatch(watch::Receiver<Option<DrainMode>>);

/// The two ends of a drain.
pub fn drain() -> (DrainTrigger, DrainWatch) {
    let (sender, receiver) = watch::channel(None);
    (DrainTrigger(sender), DrainWatch(receiver))
}

impl DrainTrigger {
    /// Starts the drain, or hardens one that runs: an immediate drain
    /// overrides a graceful one, never the other way round.
    pub fn start(&self, mode: DrainMode) {
        self.0.send_if_modified(|current| {
            let change = match (*current, mode) {
                (None, _) => true,
                (Some(DrainMode::Graceful { .. }), DrainMode::Immediate) => true,
                (Some(_), _) => false,
            };
            if change {
                *current = Some(mode);
            }
            change
        });
    }

    /// Another watch on this drain.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch(self.0.subscribe())
    }
}

impl DrainWatch {
    /// Waits until the drain starts. Pending forever if its trigger is gone.
    ///
    /// # Cancel safety
    /// Safe: nothing is consumed.
    pub async fn started(&self) -> DrainMode {
        let mut receiver = self.0.clone();
        let mode = match receiver.wait_for(Option::is_some).await {
            Ok(mode) => *mode,
            Err(_) => None,
        };
        match mode {
            Some(mode) => mode,
            None => std::future::pending().await,
        }
    }

    /// The mode, if the drain has started.
    pub fn mode(&self) -> Option<DrainMode> {
        *self.0.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn immediate_overrides_graceful_only() {
        let (trigger, watch) = drain();
        assert_eq!(watch.mode(), None);
        let graceful = DrainMode::Graceful {
            deadline: Duration::from_secs(5),
        };
        trigger.start(graceful);
        assert_eq!(watch.started().await, graceful);
        trigger.start(DrainMode::Immediate);
        trigger.start(graceful);
        assert_eq!(watch.started().await, DrainMode::Immediate);
    }
}
