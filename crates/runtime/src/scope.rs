//! Structured concurrency: every task belongs to a scope that can wait for it
//! and stop it.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::seldom::seldom;

/// Owns tasks. A clone is another handle on the same scope.
///
/// Cancelling a scope drops its tasks and those of its children; waiting for a
/// scope waits for its children too.
#[derive(Clone)]
pub struct Scope {
    inner: Arc<Inner>,
}

struct Inner {
    name: &'static str,
    token: CancellationToken,
    // One tracker a scope, and those of its ancestors: a task counts in all.
    tracker: TaskTracker,
    parent: Option<Scope>,
    panics: AtomicU64,
}

impl Scope {
    /// A scope without a parent.
    pub fn new(name: &'static str) -> Self {
        Self::with(name, CancellationToken::new(), None)
    }

    /// A scope that is cancelled with this one and that this one waits for.
    pub fn child(&self, name: &'static str) -> Self {
        Self::with(name, self.inner.token.child_token(), Some(self.clone()))
    }

    fn with(name: &'static str, token: CancellationToken, parent: Option<Self>) -> Self {
        let tracker = TaskTracker::new();
        tracker.close();
        Self {
            inner: Arc::new(Inner {
                name,
                token,
                tracker,
                parent,
                panics: AtomicU64::new(0),
            }),
        }
    }

    /// Runs a task on the current runtime until it ends or the scope is
    /// cancelled. A panic is caught, logged and counted.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_on(&Handle::current(), name, task);
    }

    /// [`spawn`](Self::spawn) on another runtime.
    pub fn spawn_on<F>(&self, runtime: &Handle, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // Boxed: each layer around a future would hold a copy of it.
        let task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(task);
        runtime.spawn(Tracked::new(self).run(name, task));
    }

    /// Cancelled when the tasks must stop now.
    pub fn token(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// Stops every task of this scope and its children.
    pub fn cancel(&self) {
        self.inner.token.cancel();
    }

    /// Tasks that run now, children's included.
    pub fn active(&self) -> usize {
        self.inner.tracker.len()
    }

    /// Tasks that ended in a panic so far.
    pub fn panics(&self) -> u64 {
        self.inner.panics.load(Ordering::Relaxed)
    }

    /// Waits for every task; at the deadline cancels those that are left and
    /// waits for them to be dropped. Returns how many were cut.
    pub async fn finish(&self, deadline: Duration) -> usize {
        if tokio::time::timeout(deadline, self.inner.tracker.wait())
            .await
            .is_ok()
        {
            self.cancel();
            return 0;
        }
        let cut = self.active();
        self.cancel();
        self.inner.tracker.wait().await;
        cut
    }
}

/// The membership of one task in its scope and in that scope's ancestors.
struct Tracked {
    scope: Scope,
    tokens: Vec<tokio_util::task::task_tracker::TaskTrackerToken>,
}

impl Tracked {
    fn new(scope: &Scope) -> Self {
        let mut tokens = Vec::with_capacity(2);
        let mut at = Some(scope);
        while let Some(current) = at {
            tokens.push(current.inner.tracker.token());
            at = current.inner.parent.as_ref();
        }
        Self {
            scope: scope.clone(),
            tokens,
        }
    }

    async fn run(self, name: &'static str, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let token = self.scope.inner.token.clone();
        let caught = {
            let cancelled = pin!(token.cancelled());
            let mut cancelled = seldom(cancelled);
            let mut task = AssertUnwindSafe(task).catch_unwind();
            poll_fn(|cx| match cancelled.poll_unpin(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => task.poll_unpin(cx).map(Some),
            })
            .await
        };
        if let Some(Err(payload)) = caught {
            let message = panic_text(payload.as_ref());
            self.scope.inner.panics.fetch_add(1, Ordering::Relaxed);
            error!(
                scope = self.scope.inner.name,
                task = name,
                message,
                "task panicked"
            );
        }
        drop(self.tokens);
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a text".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    struct SetOnDrop(Arc<AtomicBool>);
    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn finish_waits_for_children_and_counts_what_it_cuts() {
        let scope = Scope::new("root");
        let child = scope.child("child");
        let dropped = Arc::new(AtomicBool::new(false));
        let guard = SetOnDrop(Arc::clone(&dropped));
        child.spawn("forever", async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        scope.spawn("short", async {
            tokio::time::sleep(Duration::from_secs(1)).await
        });
        assert_eq!(scope.active(), 2);
        assert_eq!(scope.finish(Duration::from_secs(5)).await, 1);
        assert!(dropped.load(Ordering::SeqCst));
        assert_eq!(scope.active(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn cancelling_a_child_leaves_the_parent_alone() {
        let scope = Scope::new("root");
        let child = scope.child("child");
        child.spawn("forever", std::future::pending());
        scope.spawn("forever", std::future::pending());
        child.cancel();
        assert_eq!(child.finish(Duration::from_secs(1)).await, 0);
        assert_eq!(scope.active(), 1);
        assert!(!scope.token().is_cancelled());
    }

    #[tokio::test]
    async fn a_panic_is_counted_and_ends_only_its_task() {
        let scope = Scope::new("root");
        scope.spawn("bad", async { panic!("as the test wants") });
        assert_eq!(scope.finish(Duration::from_secs(5)).await, 0);
        assert_eq!(scope.panics(), 1);
    }
}
