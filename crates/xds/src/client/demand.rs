//! Asking for resources by name and waiting until the answer is applied.

use tokio::sync::{mpsc, oneshot};

/// Asks for resources by name. Clones share one queue.
#[derive(Debug, Clone)]
pub struct Demand(mpsc::Sender<Wanted>);

/// The client's end of a [`Demand`].
#[derive(Debug)]
pub struct DemandQueue(pub(crate) mpsc::Receiver<Wanted>);

/// One name and whoever waits for it.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) type_url: String,
    pub(crate) name: String,
    pub(crate) done: oneshot::Sender<()>,
}

/// A demand and its queue, which goes into
/// [`ClientConfig::demand`](super::ClientConfig).
pub fn demand() -> (Demand, DemandQueue) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Demand(sender), DemandQueue(receiver))
}

impl Demand {
    /// Returns once a response that names the resource, an alias of it, or its
    /// absence has been applied. Gives up only if the client has ended; the
    /// caller brings the deadline.
    ///
    /// # Cancel safety
    /// Safe: a name that nobody waits for any more stays subscribed.
    pub async fn want(&self, type_url: &str, name: &str) {
        let (done, applied) = oneshot::channel();
        let wanted = Wanted {
            type_url: type_url.to_owned(),
            name: name.to_owned(),
            done,
        };
        if self.0.send(wanted).await.is_ok() {
            // An error means that the client has ended: nothing more will come.
            let _ = applied.await;
        }
    }
}

const QUEUE: usize = 1024;
