//! Futures beside the work that are polled with it and are seldom ready: a
//! cancellation, a drain, an idle timer.
//!
//! Owns the knowledge that such a future has nothing to say until it is woken:
//! asking it anyway takes a lock that all tasks of a scope share.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// Polls a future only when it was woken, not whenever its task is.
pub fn seldom<F: Future + Unpin>(future: F) -> Seldom<F> {
    let flag = Arc::new(Flag {
        woken: AtomicBool::new(true),
        task: Mutex::new(None),
    });
    Seldom {
        future,
        waker: Waker::from(Arc::clone(&flag)),
        flag,
        task: None,
    }
}

/// See [`seldom`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Seldom<F> {
    future: F,
    flag: Arc<Flag>,
    /// What the future wakes.
    waker: Waker,
    /// Whom the flag wakes.
    task: Option<Waker>,
}

#[derive(Debug)]
struct Flag {
    woken: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        // Kept, not taken: the task registers once. Woken without the lock.
        let task = self.task.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<F: Future + Unpin> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let me = self.get_mut();
        let same = |task: &Waker| task.will_wake(cx.waker());
        if !me.task.as_ref().is_some_and(same) {
            *me.flag.task.lock() = Some(cx.waker().clone());
            me.task = Some(cx.waker().clone());
        }
        // Looked at after the registration: a wake in between isn't lost.
        if !me.flag.woken.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        me.flag.woken.swap(false, Ordering::AcqRel);
        Pin::new(&mut me.future).poll(&mut Context::from_waker(&me.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use futures::FutureExt;
    use tokio::sync::Notify;

    use super::*;

    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn it_is_polled_once_for_each_time_it_was_woken() {
        let polls = AtomicUsize::new(0);
        let mut wake = None;
        let inner = std::future::poll_fn(|cx| {
            wake = Some(cx.waker().clone());
            match polls.fetch_add(1, Ordering::SeqCst) {
                2 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        });
        let mut future = seldom(inner.boxed_local());
        let (first, second) = [(); 2]
            .map(|()| Arc::new(Counted(AtomicUsize::new(0))))
            .into();
        let poll = |future: &mut Seldom<_>, task: &Arc<Counted>| {
            future.poll_unpin(&mut Context::from_waker(&Arc::clone(task).into()))
        };
        for _ in 0..5 {
            assert!(poll(&mut future, &first).is_pending());
        }
        assert_eq!(polls.load(Ordering::SeqCst), 1);
        future.waker.wake_by_ref();
        assert_eq!(first.0.load(Ordering::SeqCst), 1);
        // The task may have moved in between.
        assert!(poll(&mut future, &second).is_pending());
        assert!(poll(&mut future, &second).is_pending());
        assert_eq!(polls.load(Ordering::SeqCst), 2);
        future.waker.wake_by_ref();
        future.waker.wake_by_ref();
        assert_eq!(first.0.load(Ordering::SeqCst), 1);
        assert_eq!(second.0.load(Ordering::SeqCst), 2);
        assert!(poll(&mut future, &second).is_ready());
        drop(future);
        assert!(wake.is_some());
    }

    #[tokio::test]
    async fn what_wakes_it_ends_a_wait() {
        let notify = Notify::new();
        let notified = pin!(notify.notified());
        let telling = async {
            tokio::task::yield_now().await;
            notify.notify_one();
        };
        tokio::join!(seldom(notified), telling);
    }
}
