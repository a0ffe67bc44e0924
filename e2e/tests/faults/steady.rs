//! A client that connects again and again, and remembers every failure.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::Duration;

use ambit_e2e::observe::echoes;
use ambit_netns::NetNs;
use anyhow::{Result, ensure};

/// New connections at a steady pace, one row a target.
pub(crate) struct Steady {
    targets: Vec<(String, NetNs, SocketAddr)>,
    over: Cell<bool>,
    answered: Cell<usize>,
    failed: RefCell<Vec<String>>,
}

impl Steady {
    pub(crate) fn new(targets: Vec<(String, NetNs, SocketAddr)>) -> Self {
        Self {
            targets,
            over: Cell::new(false),
            answered: Cell::new(0),
            failed: RefCell::default(),
        }
    }

    /// Runs something while every 50 ms each target is connected to anew.
    pub(crate) async fn during<T>(
        self,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(T, Seen)> {
        let clients = self.targets.iter().map(|target| self.client(target));
        let work = async {
            let done = work.await;
            self.over.set(true);
            done
        };
        let (done, _) = futures::join!(work, futures::future::join_all(clients));
        let seen = Seen {
            answered: self.answered.get(),
            failed: self.failed.take(),
        };
        Ok((done?, seen))
    }

    async fn client(&self, (what, ns, to): &(String, NetNs, SocketAddr)) {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        while !self.over.get() {
            pace.tick().await;
            match echoes(ns, *to).await {
                Ok(()) => self.answered.set(self.answered.get() + 1),
                Err(error) => self.failed.borrow_mut().push(format!("{what}: {error:#}")),
            }
        }
    }
}

/// What became of the connections.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) answered: usize,
    pub(crate) failed: Vec<String>,
}

impl Seen {
    /// All were answered, and there were some.
    pub(crate) fn all_answered(&self, at_least: usize) -> Result<()> {
        ensure!(self.failed.is_empty(), "{self:#?}");
        ensure!(self.answered >= at_least, "only {}", self.answered);
        Ok(())
    }
}
