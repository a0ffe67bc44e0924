//! A few resources, followed together for one listener.

use std::fmt::Display;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kube::Client;
use tokio::sync::mpsc;
use tracing::warn;

use super::{Event, Follower, Memory, Resource, Timing, Told, Watches};

/// Followers that go on while they are listened to, and end when this is
/// dropped.
///
/// An object that can't be read is said, and stays as it was known: it stops
/// nothing. Nobody is told [`Told::Gone`].
pub(crate) struct Following<K, T> {
    client: Client,
    /// What its listener calls the resources.
    called: Vec<K>,
    tell: mpsc::Sender<(usize, Told<Option<T>>)>,
    told: mpsc::Receiver<(usize, Told<Option<T>>)>,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl<K: Copy, T: Send + 'static> Following<K, T> {
    /// Follows nothing yet.
    pub(crate) fn new(client: &Client) -> Self {
        let (tell, told) = mpsc::channel(TOLD);
        Self {
            client: client.clone(),
            called: Vec::new(),
            tell,
            told,
            running: FuturesUnordered::new(),
        }
    }

    /// Follows a resource too, of whose objects `read` makes something.
    pub(crate) fn follow<E: Display>(
        &mut self,
        called: K,
        resource: Resource,
        read: impl Fn(&[u8]) -> Result<T, E> + Send + Sync + 'static,
    ) {
        let label = resource.to_string();
        let of = label.clone();
        let follower = Follower {
            client: self.client.clone(),
            resource,
            read: Box::new(move |text| match read(text) {
                Ok(read) => Some(read),
                Err(error) => {
                    warn!(resource = %of, %error, "an object can't be read; what was known of it stays");
                    None
                }
            }),
            timing: Timing::default(),
            watches: Watches::default(),
            label: label.into(),
            told: self.tell.clone(),
            id: self.called.len(),
            memory: Memory::default(),
        };
        self.called.push(called);
        self.running.push(Box::pin(follower.run_for_ever()));
    }

    /// What is told next, and of which resource. Nothing is lost if this is
    /// dropped.
    pub(crate) async fn next(&mut self) -> (K, Told<T>) {
        loop {
            tokio::select! {
                Some((id, told)) = self.told.recv() => {
                    if let Some(called) = self.called.get(id) {
                        return (*called, readable(told));
                    }
                }
                // None ends while this listens.
                Some(()) = self.running.next() => {}
            }
        }
    }
}

fn readable<T>(told: Told<Option<T>>) -> Told<T> {
    match told {
        Told::Events(events) => {
            let readable = events.into_iter().filter_map(|event| match event {
                Event::Applied(name, read) => Some(Event::Applied(name, read?)),
                Event::Deleted(name) => Some(Event::Deleted(name)),
            });
            Told::Events(readable.collect())
        }
        Told::Listed => Told::Listed,
        Told::Gone => Told::Gone,
    }
}

/// Batches that wait; each holds a page at most.
const TOLD: usize = 4;
