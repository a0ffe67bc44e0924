//! What goes on on an inner connection, and when it is too little
//! (`waypoint-contract` 7.2): nothing asked for too long, or nothing taken of
//! what was answered.
//!
//! A stream that waits for its backend may be quiet for hours (9, row 33). What
//! is bounded is a peer that doesn't read: whatever it doesn't take is memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use super::body::{BodyError, DownBody};
use crate::memory::Memory;

/// Requests of one connection.
#[derive(Default)]
pub(super) struct Activity {
    active: AtomicUsize,
    /// When the latest one ended.
    ended: Mutex<Option<Instant>>,
    /// Bodies that could go on if the client took what it has.
    offered: AtomicUsize,
    /// Looks at bodies so far.
    moved: AtomicU64,
}

/// One of them; dropping it ends it.
pub(super) struct Active(Arc<Activity>);

impl Activity {
    pub(super) fn begin(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        Active(Arc::clone(self))
    }

    /// Until there was no request for so long; without a bound never.
    pub(super) async fn idle(&self, bound: Option<Duration>) {
        let Some(bound) = bound else {
            return std::future::pending().await;
        };
        // Longer can't be added to every moment.
        let bound = bound.min(LONGEST);
        let begun = Instant::now();
        // A timer for each bound, not for each request.
        let mut look = begun + bound;
        loop {
            sleep_until(look).await;
            let now = Instant::now();
            if self.active.load(Ordering::Relaxed) > 0 {
                look = now + bound;
                continue;
            }
            let since = self.ended.lock().map_or(begun, |ended| ended.max(begun));
            look = since + bound;
            if look <= now {
                return;
            }
        }
    }

    /// Until the client has taken nothing of any answer for [`STALL`], or for
    /// `idle` where that is shorter; for [`PRESSED`] while memory is short.
    pub(super) async fn stalled(&self, idle: Option<Duration>, memory: &Memory) {
        let patient = idle.map_or(STALL, |idle| idle.min(STALL));
        let mut moved = 0;
        let mut since = Instant::now();
        loop {
            let full = memory.is_full();
            let bound = if full { patient.min(PRESSED) } else { patient };
            tokio::select! {
                () = sleep((bound / 4).max(SHORTEST)) => {}
                () = memory.pressed(), if !full => {}
            }
            let now = self.moved.load(Ordering::Relaxed);
            if now != moved || self.offered.load(Ordering::Relaxed) == 0 {
                (moved, since) = (now, Instant::now());
            } else if since.elapsed() >= bound {
                return;
            }
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        *self.0.ended.lock() = Some(Instant::now());
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response's body: until its end the request is one of the connection's. It
/// is on offer from its beginning, and after each frame, until it is looked at.
pub(super) struct Body {
    body: DownBody,
    offered: bool,
    active: Active,
}

impl Body {
    pub(super) fn new(body: DownBody, active: Active) -> Self {
        let mut new = Self {
            body,
            offered: false,
            active,
        };
        new.offer(true);
        new
    }

    fn offer(&mut self, offered: bool) {
        let count = &self.active.0.offered;
        match (std::mem::replace(&mut self.offered, offered), offered) {
            (false, true) => count.fetch_add(1, Ordering::Relaxed),
            (true, false) => count.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.offer(false);
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.active.0.moved.fetch_add(1, Ordering::Relaxed);
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.offer(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// As long as Envoy waits for a client to take the rest of an answer.
const STALL: Duration = Duration::from_secs(300);
/// As long as anybody waits while memory is short.
const PRESSED: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
const SHORTEST: Duration = Duration::from_millis(100);
